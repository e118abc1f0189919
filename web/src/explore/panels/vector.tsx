/** Parts of one value a channel: bars over the channels; behind the classifier, over the classes. */

import { percent, whole } from "../../format";
import { significant, signed } from "../numbers";
import { Panel } from "../panel";
import { t, useChosen, type PanelProps } from "../state";
import { className } from "../words";

export function VectorPanel({ part, network, view }: PanelProps) {
  useChosen((state) => state.language);
  const vector = view.parts[part.id]?.vector;
  if (part.rows.at(-1) === network.parts.reduce((last, { rows }) => Math.max(last, rows.at(-1)!), 0)) return <Classes view={view} />;
  if (!vector) return null;
  const most = Math.max(...vector.values.map(Math.abs)) || 1;
  return (
    <Panel title={t("vector.title")} name="vector">
      <p class="soft small">{t("vector.shown", { shown: vector.channels.length, of: whole(vector.of) })}</p>
      <div class="scroll">
        <table class="vector">
          <thead>
            <tr>
              <th scope="col">{t("maps.channel")}</th>
              <th scope="col">{t("vector.value")}</th>
              <th scope="col">
                <span class="said">{t("vector.bar")}</span>
              </th>
              {vector.contributions && <th scope="col">{t("maps.contribution")}</th>}
            </tr>
          </thead>
          <tbody>
            {vector.channels.map((channel, place) => (
              <tr key={channel}>
                <th scope="row" class="number">
                  {channel}
                </th>
                <td class="number">{significant(vector.values[place]!)}</td>
                <td class="vector-bar">
                  <SignedBar value={vector.values[place]!} most={most} />
                </td>
                {vector.contributions && <td class="number">{signed(vector.contributions[place]!)}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

/** A bar from the middle: to the right for positive values, to the left for negative ones. */
export function SignedBar({ value, most }: { value: number; most: number }) {
  const width = 50 * Math.min(1, Math.abs(value) / most);
  return (
    <span class="signed-bar" aria-hidden="true">
      <span class={value < 0 ? "negative" : "positive"} style={{ width: `${width}%`, left: `${value < 0 ? 50 - width : 50}%` }} />
    </span>
  );
}

function Classes({ view }: { view: PanelProps["view"] }) {
  return (
    <Panel title={t("classes.title")} name="classes">
      <div class="scroll">
        <table class="vector">
          <thead>
            <tr>
              <th scope="col">{t("classes.class")}</th>
              <th scope="col">{t("classes.logit")}</th>
              <th scope="col" colSpan={2}>
                {t("classes.probability")}
              </th>
            </tr>
          </thead>
          <tbody>
            {view.predictions.map(({ index, name, logit, probability }) => (
              <tr key={index}>
                <th scope="row">{className(name)}</th>
                <td class="number">{significant(logit, 4)}</td>
                <td class="number">{percent(probability)}</td>
                <td class="vector-bar">
                  <span class="track" aria-hidden="true">
                    <span class="fill" style={{ width: `${100 * probability}%` }} />
                  </span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}
