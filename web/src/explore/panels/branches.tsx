/** A concatenation: what each branch gives to it. */

import type { Branch, Concatenation } from "../document";
import { signed } from "../numbers";
import { Panel } from "../panel";
import { t, useChosen, type PanelProps } from "../state";
import { labelText } from "../words";
import { Picture } from "./picture";
import { Bar, Entries, entries, largest, Measures, PicturesNote } from "./special";

export function BranchPanel({ view, network, part }: PanelProps) {
  useChosen((state) => state.language);
  const found = entries(view, network, part, "branches");
  if (!found.length) return null;
  return (
    <Panel title={t("branches.title")} name="branches">
      <p>{t("branches.what")}</p>
      <Entries
        found={found}
        said={({ branches, channels }) => t("branches.short", { branches: branches.length, channels })}
      >
        {(joined) => <Branches key={joined.row} joined={joined} />}
      </Entries>
    </Panel>
  );
}

/** 1×1 conv → 3×3 conv */
const steps = (branch: Branch): string => branch.steps.map(({ label }) => labelText(label)).join(" → ");

function Branches({ joined }: { joined: Concatenation }) {
  const { branches, pictures } = joined;
  const highest = largest(branches.map((branch) => branch.norm));
  const most = largest(branches.map((branch) => branch.contribution));
  return (
    <>
      <ul class="terms">
        {branches.map((branch, index) => {
          const name = branch.name || t("branches.input");
          return (
            <li key={index} class="term">
              <h4>{name}</h4>
              {pictures && (
                <Picture pictures={pictures} name={String(index)} label={t("additions.picture", { name })} />
              )}
              <p class="soft small">{steps(branch) || t("branches.as_it_is")}</p>
              <p class="measure">
                <span>{t("branches.channels", { first: branch.start, last: branch.start + branch.channels - 1 })}</span>{" "}
                <b class="number">{branch.channels}</b>
                <Bar share={branch.channels / joined.channels} />
              </p>
              <Measures norm={branch.norm} contribution={branch.contribution} {...{ highest, most }} />
            </li>
          );
        })}
      </ul>
      {joined.contribution !== null && <p>{t("branches.total", { sum: signed(joined.contribution) })}</p>}
      <PicturesNote pictures={pictures} />
    </>
  );
}
