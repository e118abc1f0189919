/** A part in figures: its shapes, and its share of the network's costs, as `vertebra inspect` has them. */

import { percent, short, whole } from "../../format";
import type { Cost, Formula, Network, Part } from "../document";
import { Panel } from "../panel";
import { significant } from "../numbers";
import { t, useChosen, type PanelProps } from "../state";
import { share, shapeText } from "../words";

export function SummaryPanel({ part, network, view }: PanelProps) {
  useChosen((state) => state.language);
  const formula = view.parts[part.id]?.formula;
  return (
    <Panel title={t("summary.title")} name="summary">
      <p>
        {part.read_shapes.length > 0 && (
          <>
            <span class="number">{part.read_shapes.map((shape) => shapeText(shape)).join(" + ")}</span>
            <span aria-hidden="true"> → </span>
            <span class="said">{t("summary.to")}</span>
          </>
        )}
        <b class="number">{shapeText(part.shape)}</b>{" "}
        <span class="soft small">{t(part.shape.length === 3 ? "summary.shape" : "summary.vector")}</span>
      </p>
      <dl class="costs">
        {COSTS.filter((cost) => part[cost] !== null).map((cost) => (
          <CostRow key={cost} {...{ cost, part, network }} />
        ))}
      </dl>
      {formula && <FormulaText formula={formula} part={part} />}
    </Panel>
  );
}

/** 0.367 ms → 367 µs, as in `vertebra inspect`. */
const time = (ms: number): string => (ms < 1 ? `${significant(ms * 1e3)} µs` : `${significant(ms)} ms`);

const COSTS = ["parameters", "macs", "bytes", "ms"] as const;

function CostRow({ cost, part, network }: { cost: Cost; part: Part; network: Network }) {
  const value = part[cost] ?? 0;
  const own = share(part, network, cost);
  return (
    <div>
      <dt>{t(`cost.${cost}`)}</dt>
      <dd class="number">
        {cost === "ms" ? time(value) : cost === "bytes" ? `${short(value)}${value < 1000 ? " " : ""}B` : short(value)}{" "}
        {cost !== "ms" && value >= 1000 && <span class="soft small">({whole(value)})</span>}
      </dd>
      <dd class="number costs-share">
        <span class="track" aria-hidden="true">
          <span class={value ? "fill" : ""} style={{ width: `${100 * own}%` }} />
        </span>
        {percent(own)}
      </dd>
      {cost !== "parameters" && <dd class="soft small costs-what">{t(`cost.what.${cost}`)}</dd>}
    </div>
  );
}

/** The multiplications of a convolution or linear layer, as a product of named factors. */
function FormulaText({ formula, part }: { formula: Formula; part: Part }) {
  const { spatial, kernel, outputs, inputs, groups, macs } = formula;
  const perGroup = groups > 1 ? `${inputs} / ${groups}` : `${inputs}`;
  const factors = [...spatial.map(String), String(outputs), perGroup, ...kernel.map(String)];
  const square = kernel.length === 2 && kernel[0] === kernel[1];
  const names = [
    ...(spatial.length === 2 ? ["H", "W"] : spatial.map((_, axis) => `D${axis + 1}`)),
    "Cₒᵤₜ",
    groups > 1 ? "Cᵢₙ / groups" : "Cᵢₙ",
    ...(square ? ["k²"] : kernel.map((_, axis) => `k${axis + 1}`)),
  ];
  const shown = square ? [...factors.slice(0, -2), `${kernel[0]}²`] : factors;
  return (
    <p class="formula">
      <span class="soft">MACs = {names.join(" · ")}</span>
      <br />
      <span>
        = {shown.join(" · ")} = <b class="number">{whole(macs)}</b>
      </span>
      {formula.kernel.length > 0 && groups > 1 && (
        <span class="soft small"> {t(groups === inputs ? "summary.depthwise" : "summary.grouped", { groups, name: part.name })}</span>
      )}
    </p>
  );
}
