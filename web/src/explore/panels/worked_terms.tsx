/** The terms of a sum over channels alone, of a 1×1 convolution or a linear layer, the strongest first. */

import { useMemo, useState } from "preact/hooks";
import { whole } from "../../format";
import type { WorkedValue } from "../document";
import { t } from "../state";
import type { ChannelSum } from "../worked_sum";
import { brief, exact } from "./worked_numbers";
import { channelName } from "./worked_patches";

const FIRST = 10;

export function Terms({ value, channels }: { value: WorkedValue; channels: ChannelSum[] }) {
  const { shown, hidden, rest, showAll } = useStrongest(channels, FIRST);
  const most = Math.abs(shown[0]?.sum ?? 0) || 1;
  return (
    <>
      <div class="scroll" tabIndex={0} role="group" aria-label={t("worked.terms")}>
        <table class="worked-terms">
          <caption class="said">{t("worked.terms")}</caption>
          <thead>
            <tr>
              <th scope="col">{t("worked.input_channel")}</th>
              <th scope="col">{t("worked.value")}</th>
              <th scope="col">{t("worked.weight")}</th>
              <th scope="col">{t("worked.product")}</th>
              <td />
            </tr>
          </thead>
          <tbody>
            {shown.map(({ channel, operands, weights, sum }) => (
              <tr key={channel}>
                <th scope="row">{channelName(value, channel)}</th>
                <td class="number">{brief(operands[0]!, 7)}</td>
                <td class="number">× {brief(weights[0]!, 7)}</td>
                <td class="number">= {brief(sum, 6)}</td>
                <td class="worked-track" aria-hidden="true">
                  <span
                    class={sum < 0 ? "worked-fill minus" : "worked-fill plus"}
                    style={{ "--share": String(Number.isFinite(sum / most) ? Math.abs(sum / most) : 1) }}
                  />
                </td>
              </tr>
            ))}
          </tbody>
          {hidden > 0 && (
            <tfoot>
              <tr>
                <th scope="row" colSpan={3}>
                  {t("worked.other_terms", { count: whole(hidden) })}
                </th>
                <td class="number">= {brief(rest, 6)}</td>
                <td />
              </tr>
            </tfoot>
          )}
        </table>
      </div>
      {showAll && <p>{showAll}</p>}
      <LeftOut value={value} />
    </>
  );
}

/** The channels of the largest sums, what the others sum to, and a button that shows all of them. */
export function useStrongest(channels: ChannelSum[], first: number) {
  const [isWhole, setWhole] = useState(false);
  const order = useMemo(() => [...channels].sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum)), [channels]);
  const shown = isWhole ? order : order.slice(0, first);
  const hidden = order.length - shown.length;
  const rest = order.slice(shown.length).reduce((sum, channel) => sum + channel.sum, 0);
  const showAll = hidden > 0 && (
    <button type="button" class="button small" onClick={() => setWhole(true)}>
      {t("worked.show_all", { count: whole(order.length) })}
    </button>
  );
  return { shown, hidden, rest, showAll };
}

/** What the page does not hold. */
export function LeftOut({ value: { left_out, kernel } }: { value: WorkedValue }) {
  if (left_out === null) return null;
  return (
    <p class="small soft">
      {t(kernel[0]! * kernel[1]! > 1 ? "worked.left_out_channels" : "worked.left_out", {
        channels: whole(left_out.channels),
        terms: whole(left_out.terms),
        sum: exact(Number(left_out.sum)),
      })}
    </p>
  );
}
