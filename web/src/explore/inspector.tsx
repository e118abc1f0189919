/** All that is known of the selected part in one view. */

import { Fragment } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { Boundary } from "./boundary";
import { scrollTo } from "./hooks";
import { PANELS } from "./panels";
import { partOf, select, t, useChosen, type PanelProps } from "./state";
import { descriptionText } from "./words";

export function Inspector(props: PanelProps) {
  const { part, network, view } = props;
  useChosen((state) => state.language);
  const above = [];
  const body = useRef<HTMLDivElement>(null);
  const titles = useTitles(body);
  useSamePlace(body, part.id);
  for (let parent = part.parent; parent; parent = partOf(view.network, parent)?.parent ?? null) above.unshift(parent);
  return (
    <div ref={body}>
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
        {titles.length > 1 && (
          <div class="contents small" role="group" aria-label={t("inspector.contents", { part: part.name || part.type })}>
            {titles.map((title, place) => (
              <button key={title} type="button" class="link" onClick={() => goTo(headings(body.current!)[place]!)}>
                {title}
              </button>
            ))}
          </div>
        )}
      </header>
      {PANELS.map((Panel, place) => (
        <Boundary key={`${place} ${part.id}`}>
          <Panel {...props} />
        </Boundary>
      ))}
    </div>
  );
}

const headings = (body: HTMLElement): HTMLElement[] => [...body.querySelectorAll<HTMLElement>(".part-panel > h3")];

function goTo(heading: HTMLElement): void {
  heading.scrollIntoView();
  heading.focus({ preventScroll: true });
}

/** Of the panels that have something to say of this part; which those are they decide when they are drawn. */
function useTitles(body: { current: HTMLElement | null }): string[] {
  const [titles, setTitles] = useState<string[]>([]);
  useLayoutEffect(() => {
    const found = headings(body.current!).map((heading) => heading.textContent!);
    if (found.join("\n") !== titles.join("\n")) setTitles(found);
  });
  return titles;
}

/** Of a part that is chosen below the first panel the same panel is shown, or else its head. */
function useSamePlace(body: { current: HTMLElement | null }, part: string): void {
  const last = useRef(part);
  const reading = useRef<string | null>(null);
  // Still of the part before: it is drawn after this.
  if (last.current !== part && body.current) reading.current = panelRead(body.current);
  useLayoutEffect(() => {
    last.current = part;
    const kind = reading.current;
    reading.current = null;
    if (kind === null) return;
    const same = body.current!.getElementsByClassName(kind)[0];
    scrollTo(same ?? body.current!.closest(".inspector")!);
  }, [part]);
}

/** The class of the panel at the top of the window; null where the head of the part is in sight. */
function panelRead(body: HTMLElement): string | null {
  const top = document.querySelector(".explore-head")!.getBoundingClientRect().bottom;
  if (body.getBoundingClientRect().top >= top) return null;
  const panels = [...body.querySelectorAll(".part-panel")];
  return panels.find((panel) => panel.getBoundingClientRect().bottom > top + READ)?.classList[1] ?? "";
}

/** Of a panel that ends within so many pixels below the header the next one is read. */
const READ = 120;
