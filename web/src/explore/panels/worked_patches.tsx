/** Patch × kernel of each input channel, as grids of numbers. */

import { useMemo } from "preact/hooks";
import { whole } from "../../format";
import type { WorkedValue } from "../document";
import { t } from "../state";
import type { ChannelSum } from "../worked_sum";
import { brief, exact, tiny } from "./worked_numbers";
import { LeftOut, useStrongest } from "./worked_terms";

const FIRST = 3;

export function Patches({ value, channels }: { value: WorkedValue; channels: ChannelSum[] }) {
  const { shown, hidden, rest, showAll } = useStrongest(channels, FIRST);
  const most = useMemo(
    () => ({
      operand: channels.reduce((most, { operands }) => operands.reduce(larger, most), 0),
      weight: channels.reduce((most, { weights }) => weights.reduce(larger, most), 0),
      product: channels.reduce(
        (most, { operands, weights }) => operands.reduce((most, operand, at) => larger(most, operand * weights[at]!), most),
        0,
      ),
    }),
    [channels],
  );
  return (
    <>
      {channels.length > FIRST && <p class="small soft">{t("worked.order")}</p>}
      <ul class="worked-patches">
        {shown.map((each) => (
          <li key={each.channel}>
            <h4>{channelName(value, each.channel)}</h4>
            <div class="worked-product" tabIndex={0} role="group" aria-label={channelName(value, each.channel)}>
              <Grid value={value} numbers={each.operands} most={most.operand} title={t("worked.patch")} isPatch />
              <span aria-hidden="true">×</span>
              <Grid value={value} numbers={each.weights} most={most.weight} title={t("worked.kernel")} />
              <span aria-hidden="true">=</span>
              <Grid
                value={value}
                numbers={each.operands.map((operand, at) => operand * each.weights[at]!)}
                most={most.product}
                title={t("worked.products")}
              />
              <span class="worked-sum number">
                <small>{t("worked.their_sum")}</small>
                <b>{brief(each.sum)}</b>
              </span>
            </div>
          </li>
        ))}
      </ul>
      {showAll && (
        <p class="row">
          <span>{t("worked.others", { count: whole(hidden), sum: exact(rest) })}</span>
          {showAll}
        </p>
      )}
      <LeftOut value={value} />
    </>
  );
}

const larger = (most: number, number: number): number => Math.max(most, Math.abs(number));

/** The channels of a photo are its colours. */
export function channelName(value: WorkedValue, channel: number): string {
  const colour = value.reads === "input" && value.first === 0 && value.channels === 3;
  if (colour) return t(`worked.colour.${channel}`);
  const [, height, width] = value.flattened ?? [];
  if (height === undefined || width === undefined) return t("worked.channel", { channel });
  const [y, x] = [Math.floor(channel / width) % height, channel % width];
  return t("worked.cell", { channel: Math.floor(channel / (height * width)), y, x });
}

interface GridProps {
  value: WorkedValue;
  numbers: Float32Array;
  /** The largest magnitude of all such grids. */
  most: number;
  title: string;
  isPatch?: boolean;
}

function Grid({ value, numbers, most, title, isPatch = false }: GridProps) {
  const [height, width] = value.kernel as [number, number];
  const [rows, columns] = [height, width].map((count, axis) =>
    Array.from({ length: count }, (_, at) => (isPatch ? value.corner![axis]! + at * value.dilation![axis]! : at)),
  ) as [number[], number[]];
  const isOutside = (y: number, x: number): boolean =>
    isPatch && (y < 0 || y >= value.size![0]! || x < 0 || x >= value.size![1]!);
  return (
    <table class={width > 3 ? "worked-grid dense" : "worked-grid"}>
      <caption>{title}</caption>
      <thead>
        <tr>
          <td />
          {columns.map((x) => (
            <th key={x} scope="col">
              {exact(x)}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((y, i) => (
          <tr key={y}>
            <th scope="row">{exact(y)}</th>
            {columns.map((x, j) => {
              const number = numbers[i * width + j]!;
              const share = most > 0 && Number.isFinite(most) ? Math.abs(number) / most : 0;
              return (
                <td
                  key={x}
                  class={isOutside(y, x) ? "outside" : number < 0 ? "minus" : "plus"}
                  style={{ "--share": String(Number.isFinite(share) ? share : 1) }}
                  title={brief(number, 8)}
                >
                  {tiny(number)}
                  {isOutside(y, x) && <span class="said"> {t("worked.is_outside")}</span>}
                </td>
              );
            })}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
