/** All that is known of the selected part in one view. */

import { Fragment } from "preact";
import { PANELS } from "./panels";
import { partOf, select, t, useChosen, type PanelProps } from "./state";
import { descriptionText } from "./words";

export function Inspector(props: PanelProps) {
  const { part, network, view } = props;
  useChosen((state) => state.language);
  const above = [];
  for (let parent = part.parent; parent; parent = partOf(view.network, parent)?.parent ?? null) above.unshift(parent);
  return (
    <>
      <header class="inspector-head">
        {above.length > 0 && (
          <div class="inspector-path small" role="group" aria-label={t("inspector.above")}>
            {above.map((id) => (
              <Fragment key={id}>
                <button type="button" class="link" onClick={() => select(id)}>
                  {partOf(view.network, id)!.name}
                </button>
                <span aria-hidden="true">›</span>
              </Fragment>
            ))}
          </div>
        )}
        <h2 class="part-name">
          {part.name || part.type} {network.untrained && <span class="untrained">{t("untrained")}</span>}
        </h2>
        <p class="soft">{[t(`level.${part.level}`), descriptionText(part)].filter(Boolean).join(" · ")}</p>
      </header>
      {PANELS.map((Panel, place) => (
        <Panel key={`${place} ${part.id}`} {...props} />
      ))}
    </>
  );
}
