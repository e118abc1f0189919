/** A residual addition: what the shortcut and the branch each bring. */

import type { Addition } from "../document";
import { significant } from "../numbers";
import { Panel } from "../panel";
import { t, useChosen, type PanelProps } from "../state";
import { sentences } from "../words";
import { Picture } from "./picture";
import { Entries, entries, largest, Measures, PicturesNote } from "./special";

export function AdditionPanel({ view, network, part }: PanelProps) {
  useChosen((state) => state.language);
  const found = entries(view, network, part, "additions");
  if (!found.length) return null;
  return (
    <Panel title={t("additions.title")} name="additions">
      <p>{t("additions.what")}</p>
      <Entries
        found={found}
        said={({ norms, cosine }) =>
          t("additions.short", { skip: significant(norms.skip), branch: significant(norms.branch), cosine: significant(cosine, 2) })
        }
      >
        {(addition) => <Terms key={addition.row} addition={addition} />}
      </Entries>
    </Panel>
  );
}

function Terms({ addition }: { addition: Addition }) {
  const { norms, contributions, pictures, layers, known } = addition;
  const terms = (["skip", "branch", "sum"] as const).map((term) => ({
    term,
    name: t(known || term === "sum" ? `additions.${term}` : `additions.${term}_unknown`),
    from:
      term === "sum"
        ? t("additions.what_is_sum")
        : term === "skip" && addition.identity
          ? t("additions.unchanged", { source: addition.sources.skip })
          : t("additions.layers", { count: layers[term], source: addition.sources[term] }),
  }));
  const highest = largest(Object.values(norms));
  const most = largest(Object.values(contributions));
  return (
    <>
      <ul class="terms">
        {terms.map(({ term, name, from }) => (
          <li key={term} class="term">
            <h4>{name}</h4>
            {pictures && <Picture pictures={pictures} name={term} label={t("additions.picture", { name })} />}
            <p class="soft small">{from}</p>
            <Measures norm={norms[term]} contribution={contributions[term]} {...{ highest, most }} />
          </li>
        ))}
      </ul>
      <p>
        {sentences(
          known && norms.skip > 0 && norms.branch !== null && t("additions.ratio", { ratio: significant(norms.branch / norms.skip, 2) }),
          t("additions.cosine", { cosine: significant(addition.cosine, 2) }),
        )}
      </p>
      <PicturesNote pictures={pictures} />
    </>
  );
}

