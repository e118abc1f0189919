/** One value of a layer worked out: operands, products, sum, batch norm, activation, and the network's own value. */

import { useMemo, useState } from "preact/hooks";
import { whole } from "../../format";
import { Icon } from "../../views/icons";
import type { WorkedStep, WorkedValue } from "../document";
import { Panel } from "../panel";
import { type PanelProps, partOf, select, t, useChosen } from "../state";
import { classOf, sentences } from "../words";
import { agrees, folded, type Result, workOut } from "../worked_sum";
import { brief, exact, inverse } from "./worked_numbers";
import { Patches } from "./worked_patches";
import { Terms } from "./worked_terms";
import "./worked_value.css";

export function WorkedValuePanel(props: PanelProps) {
  useChosen((state) => state.language);
  const values = props.view.parts[props.part.id]?.worked;
  return values?.length ? <Values key={props.part.id} {...props} /> : null;
}

function Values(props: PanelProps) {
  const [chosen, setChosen] = useState(0);
  const values = props.view.parts[props.part.id]!.worked!;
  const value = values[chosen]!;
  return (
    <Panel title={t("worked.title")} name="worked">
      {values.length > 1 && (
        <div class="row worked-choice" role="group" aria-label={t("worked.choose")}>
          {values.map((each, index) => (
            <button
              key={index}
              type="button"
              class="button small"
              aria-pressed={index === chosen}
              onClick={() => setChosen(index)}
            >
              {each.refused === undefined ? [each.layer, ...each.cell].join(",") : props.part.name}
            </button>
          ))}
        </div>
      )}
      {value.refused === undefined ? (
        <Worked key={chosen} {...props} value={value} />
      ) : (
        <p class="soft">{t(value.refused)}</p>
      )}
    </Panel>
  );
}

function Worked({ view, value }: PanelProps & { value: WorkedValue }) {
  const result = useMemo(() => workOut(value), [value]);
  return (
    <>
      <p>
        {t(whichText(value), {
          place: value.output ? cellText(value.output) : placeText(value),
          layer: value.layer,
          class: classOf(view, view.target),
        })}
      </p>
      {value.made_in && (
        <p>
          {t("worked.made_in")}{" "}
          <button type="button" class="link" onClick={() => select(value.made_in!)}>
            {value.layer}
          </button>
          {t("worked.made_at", { place: cellText(value.cell) })}
        </p>
      )}
      <Source view={view} value={value} />
      {value.kernel[0]! * value.kernel[1]! > 1 ? (
        <Patches value={value} channels={result.channels} />
      ) : (
        <Terms value={value} channels={result.channels} />
      )}
      <Chain value={value} result={result} />
      <Check value={value} result={result} />
      <p class="small soft">
        {t("worked.another")}{" "}
        <code>
          vertebra explore … --value {[value.layer, ..."CYX".slice(0, value.cell.length)].join(",")}
        </code>
      </p>
    </>
  );
}

function whichText({ asked, cell, output }: WorkedValue): string {
  if (asked) return "worked.asked";
  return output ? "worked.strongest_of_stage" : cell.length > 1 ? "worked.strongest" : "worked.strongest_output";
}

const cellText = ([channel, y, x]: number[]): string => t("worked.cell", { channel: channel!, y: y!, x: x! });

function placeText({ kind, cell }: WorkedValue): string {
  const [channel, y] = cell;
  if (kind === "linear") return t(y === undefined ? "worked.output" : "worked.output_row", { channel: channel!, y: y! });
  return cellText(cell);
}

/** Where the operands are from. */
function Source({ view, value }: { view: PanelProps["view"]; value: WorkedValue }) {
  const source = value.reads === null ? undefined : partOf(view.network, value.reads);
  const last = value.first + value.channels - 1;
  const which =
    value.kind === "linear"
      ? t("worked.reads_vector", { count: whole(value.channels) })
      : value.channels === 1
        ? t("worked.reads_channel", { channel: value.first })
        : t("worked.reads_channels", { count: whole(value.channels), first: value.first, last });
  return (
    <p>
      {which}
      {value.kind === "convolution" && windowText(value)}
      {t("label.sentences")}
      {source ? (
        <>
          {t("worked.from")}{" "}
          <button type="button" class="link" onClick={() => select(source.id)}>
            {source.name || source.type}
          </button>
        </>
      ) : (
        value.reads === "input" && t("worked.from_input")
      )}
    </p>
  );
}

function windowText(value: WorkedValue): string {
  const [rows, columns] = [0, 1].map((axis) => {
    const from = value.corner![axis]!;
    return { from, to: from + (value.kernel[axis]! - 1) * value.dilation![axis]!, side: value.size![axis]! };
  }) as [Span, Span];
  const isOne = rows.from === rows.to && columns.from === columns.to;
  const where = t(isOne ? "worked.window_of_one" : "worked.window", { rows: spanText(rows), columns: spanText(columns) });
  const isDilated = Math.max(...value.dilation!) > 1;
  const isOutside = [rows, columns].some(({ from, to, side }) => from < 0 || to >= side);
  return sentences(
    where,
    isDilated && t("worked.dilated", { step: value.dilation!.join(" × ") }),
    isOutside && t("worked.outside", { size: value.size!.join(" × ") }),
  );
}

interface Span {
  from: number;
  to: number;
  side: number;
}

const spanText = ({ from, to }: Span): string =>
  from === to ? exact(from) : t("worked.span", { from: exact(from), to: exact(to) });

/** Each step with its numbers: what it computes, the result, and the network's own value. */
function Chain({ value, result }: { value: WorkedValue; result: Result }) {
  const [sum, ...steps] = value.steps;
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={t("worked.chain")}>
      <table class="worked-chain">
        <caption class="said">{t("worked.chain")}</caption>
        <thead>
          <tr>
            <th scope="col">{t("worked.step")}</th>
            <th scope="col">{t("worked.calculation")}</th>
            <th scope="col">{t("worked.result")}</th>
            <th scope="col">{t("worked.own")}</th>
          </tr>
        </thead>
        <tbody>
          <Step
            name={t("worked.sum")}
            text={sumText(value, result)}
            result={result.products}
            own={value.bias === null ? sum!.value : null}
          />
          {value.bias !== null && (
            <Step
              name={t("worked.bias")}
              text={`${exact(result.products)} ${plus(value.bias)}`}
              result={result.sum}
              own={sum!.value}
            />
          )}
          {steps.map((step, index) => (
            <StepRows key={index} step={step} before={result.after[index]!} result={result.after[index + 1]!} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The sums of the channels where those are few, else how many products there are. */
function sumText(value: WorkedValue, { channels }: Result): string {
  const products = value.channels * value.kernel[0]! * value.kernel[1]!;
  if (channels.length === 1 || channels.length > 4 || value.left_out || channels.length === products)
    return t(products === 1 ? "worked.sum_of_one" : "worked.sum_of", { count: whole(products) });
  const [first, ...others] = [...channels].sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum)).map(({ sum }) => sum);
  return [exact(first!), ...others.map(plus)].join(" ");
}

function StepRows({ step, before, result }: { step: WorkedStep; before: number; result: number }) {
  if (step.op !== "batch_norm")
    return <Step name={t(`worked.op.${nameOf(step)}`, limits(step))} text={formula(step, before)} result={result} own={step.value} />;
  const { scale, shift } = folded(step);
  const scaled = step.weight === null || step.weight === undefined ? "" : ` × ${exact(step.weight)}`;
  const moved = step.bias === null || step.bias === undefined ? "" : ` ${plus(step.bias)}`;
  return (
    <>
      <Step
        name={t("worked.batch_norm")}
        text={`(${exact(before)} ${plus(inverse(step.mean!))}) / √(${exact(step.var!)} + ${exact(step.eps!)})${scaled}${moved}`}
        note={t(step.from_batch ? "worked.batch_norm_of_photo" : "worked.batch_norm_how")}
        result={result}
        own={step.value}
      />
      <Step
        name={t("worked.folded")}
        text={`${exact(before)} × ${exact(scale)} ${plus(shift)}`}
        note={t("worked.folded_how")}
        result={before * scale + shift}
        own={null}
      />
    </>
  );
}

const plus = (number: number | string): string => (Number(number) < 0 ? `− ${exact(inverse(number))}` : `+ ${exact(number)}`);

const nameOf = ({ op, low, high }: WorkedStep): string => (op === "clip" && low === 0 && high === 6 ? "relu6" : op);

const limits = (step: WorkedStep): Record<string, string> => ({
  low: step.low == null ? "−∞" : exact(Number(step.low)),
  high: step.high == null ? "∞" : exact(Number(step.high)),
});

function formula(step: WorkedStep, before: number): string {
  const v = before < 0 ? `(${exact(before)})` : exact(before);
  switch (step.op) {
    case "add":
      return `${exact(before)} ${plus(step.other!)}`;
    case "multiply":
      return `${exact(before)} × ${exact(step.other!)}`;
    case "concat":
      return t("worked.concat_as", { channel: step.channel! });
    case "max_pool":
      return t("worked.largest");
    case "relu":
      return `max(0, ${exact(before)})`;
    case "clip": {
      const { low, high } = limits(step);
      return `min(${high}, max(${low}, ${exact(before)}))`;
    }
    case "sigmoid":
      return `1 / (1 + exp(−${v}))`;
    case "silu":
      return `${exact(before)} / (1 + exp(−${v}))`;
    case "tanh":
      return `tanh(${exact(before)})`;
    case "hardsigmoid":
      return `min(6, max(0, ${exact(before)} + 3)) / 6`;
    case "hardswish":
      return `${exact(before)} × min(6, max(0, ${exact(before)} + 3)) / 6`;
    default:
      return before > 0 ? exact(before) : `${exact(before)} × ${exact(step.slope ?? 1)}`;
  }
}

interface StepProps {
  name: string;
  text: string;
  note?: string;
  result: number;
  own: number | string | null;
}

function Step({ name, text, note, result, own }: StepProps) {
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>
        <span class="worked-formula">{text}</span>
        {note && <small class="soft">{note}</small>}
      </td>
      <td class="number">= {exact(result)}</td>
      <td class="number soft">{own === null ? "" : exact(Number(own))}</td>
    </tr>
  );
}

function Check({ value, result }: { value: WorkedValue; result: Result }) {
  const [found, own] = [result.after.at(-1)!, Number(value.steps.at(-1)!.value)];
  if (!Number.isFinite(own) || !Number.isFinite(found))
    return (
      <p class="worked-check problem">
        <Icon name="alert" /> {t("worked.not_finite", { own: exact(own), found: exact(found) })}
      </p>
    );
  const isSame = agrees(found, own, result.size);
  return (
    <p class={isSame ? "worked-check" : "worked-check problem"} data-found={found} data-own={own}>
      {isSame ? <span aria-hidden="true">✓</span> : <Icon name="alert" />}{" "}
      {t(isSame ? "worked.same" : "worked.differs", { own: exact(own), difference: brief(Math.abs(found - own), 2) })}
    </p>
  );
}
