/** What an activation does to the values that it gets. */

import { percent, whole } from "../../format";
import type { Activation, Network } from "../document";
import { significant } from "../numbers";
import { Panel } from "../panel";
import { select, t, useChosen, type PanelProps } from "../state";
import { Entries, entries } from "./special";

const NAMES: Record<string, string> = {
  relu: "ReLU",
  relu6: "ReLU6",
  silu: "SiLU",
  gelu: "GELU",
  hardswish: "hard-swish",
  leaky_relu: "leaky ReLU",
};
const FEW = 8; // of a stage, with histograms

export function ActivationPanel({ view, network, part }: PanelProps) {
  useChosen((state) => state.language);
  const found = entries(view, network, part, "activations");
  if (!found.length) return null;
  return (
    <Panel title={t("activations.title")} name="activations">
      <p>{t("activations.what")}</p>
      {part.level === "stage" && found.length > FEW ? (
        <Listed network={network} found={found} />
      ) : (
        <Entries found={found} said={said}>
          {(activation, isAlone) => (
            <>
              {isAlone && <p>{said(activation)}</p>}
              <Histograms key={activation.row} activation={activation} />
            </>
          )}
        </Entries>
      )}
    </Panel>
  );
}

/** Of many their shares alone, with the way to the histograms of each. */
function Listed({ network, found }: { network: Network; found: Activation[] }) {
  const layers = network.parts.filter((part) => part.level === "layer");
  return (
    <ul class="special-list small">
      {found.map((activation) => {
        const layer = layers.find((part) => part.rows.includes(activation.row));
        return (
          <li key={activation.row}>
            {layer && (
              <button type="button" class="link" onClick={() => select(layer.id)}>
                {activation.source}
              </button>
            )}{" "}
            {said(activation)}
          </li>
        );
      })}
    </ul>
  );
}

/** The share of values that the function changes, in words. */
function said(activation: Activation): string {
  const name = NAMES[activation.function] ?? activation.function;
  const share = percent(activation.negative);
  if (activation.cut && activation.capped !== null && activation.cap !== null)
    return t("activations.cut_and_capped", { name, share, cap: activation.cap, capped: percent(activation.capped) });
  if (activation.cut) return t("activations.cut", { name, share });
  if (activation.function === "silu") return t("activations.silu", { name, share, lowest: significant(activation.lowest) });
  return t("activations.other", { name, share });
}

function Histograms({ activation }: { activation: Activation }) {
  const { before, after, low, width, zero, norm, moments } = activation;
  const high = low + before.length * width;
  // The spike at 0 would make all else too small to be seen.
  const top = Math.max(...before, ...after.filter((_, bin) => bin !== zero)) || 1;
  return (
    <>
      <div class="histograms">
        {([["before", before], ["after", after]] as const).map(([key, counts], which) => (
          <figure key={key} class="plot">
            <figcaption>
              {t(`activations.${key}`)}{" "}
              <span class="soft small">
                {t("activations.moments", { mean: significant(moments[which]![0]!), std: significant(moments[which]![1]!) })}
                {key === "after" && after[zero]! > top && t("activations.spike", { share: percent(after[zero]! / activation.values) })}
              </span>
            </figcaption>
            <div class="plot-area">
              <svg
                viewBox={`0 0 ${counts.length} 1`}
                preserveAspectRatio="none"
                role="img"
                aria-label={t("activations.summary", {
                  which: t(`activations.${key}`),
                  count: whole(activation.values),
                  low: significant(low),
                  high: significant(high),
                })}
              >
                <path
                  class="plot-bars"
                  d={counts.map((count, bin) => `M${bin} 1V${1 - Math.min(1, count / top)}h0.94V1z`).join("")}
                />
                {zero > 0 && <path class="plot-zero" d={`M${zero} 0V1`} vector-effect="non-scaling-stroke" />}
              </svg>
            </div>
            <p class="plot-x small soft number" aria-hidden="true">
              <span>{significant(low)}</span>
              {zero > 4 && zero < 60 && <span style={{ left: `${(100 * zero) / before.length}%` }}>0</span>}
              <span>{significant(high)}</span>
            </p>
          </figure>
        ))}
      </div>
      <p class="soft small">{t("activations.axis", { count: whole(activation.values), bins: before.length })}</p>
      {norm && (
        <p class="soft small">
          {t("activations.norm", {
            mean: significant(norm[0]![0]!),
            std: significant(norm[0]![1]!),
            mean_after: significant(norm[1]![0]!),
            std_after: significant(norm[1]![1]!),
          })}
        </p>
      )}
    </>
  );
}
