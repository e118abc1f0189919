/** Squeeze-excitation: by what each channel is multiplied. */

import { useState } from "preact/hooks";
import type { Gate } from "../document";
import { significant } from "../numbers";
import { Panel } from "../panel";
import { cellUnder } from "../pointing";
import { t, useChosen, type PanelProps } from "../state";
import { Entries, entries } from "./special";

const CLOSED = 0.1;
const OPEN = 0.9;
const LISTED = 24;

export function GatePanel({ view, network, part }: PanelProps) {
  useChosen((state) => state.language);
  const found = entries(view, network, part, "gates");
  if (!found.length) return null;
  return (
    <Panel title={t("gates.title")} name="gates">
      <p>{t("gates.what")}</p>
      <Entries found={found} said={(gate) => t("gates.short", { mean: significant(gate.mean), channels: gate.values.length })}>
        {(gate) => <Gates key={gate.row} gate={gate} />}
      </Entries>
    </Panel>
  );
}

function Gates({ gate }: { gate: Gate }) {
  const [sorted, setSorted] = useState(false);
  const [position, setPosition] = useState(0);
  const count = gate.values.length;
  const order = gate.values.map((_, channel) => channel);
  if (sorted) order.sort((one, other) => gate.values[other]! - gate.values[one]!);
  const bars = order.map((channel, x) => `M${x} 1V${1 - gate.values[channel]!}h0.9V1z`).join("");
  const channel = order[Math.min(position, count - 1)]!;
  const point = (event: PointerEvent) => setPosition(cellUnder(event, 1, count).x);
  return (
    <>
      <div class="row">
        <button type="button" class="button small" aria-pressed={!sorted} onClick={() => setSorted(false)}>
          {t("gates.order")}
        </button>
        <button type="button" class="button small" aria-pressed={sorted} onClick={() => setSorted(true)}>
          {t("gates.sorted")}
        </button>
      </div>
      <figure class="plot">
        <div class="plot-area tall">
          <span class="plot-y" aria-hidden="true">
            <span>1</span>
            <span>0.5</span>
            <span>0</span>
          </span>
          <svg
            viewBox={`0 0 ${count} 1`}
            preserveAspectRatio="none"
            role="img"
            aria-label={t("gates.summary", {
              channels: count,
              mean: significant(gate.mean),
              low: significant(gate.low),
              high: significant(gate.high),
            })}
            onPointerMove={point}
            onPointerDown={point}
          >
            <path class="plot-grid" d={`M0 0H${count}M0 0.5H${count}M0 1H${count}`} />
            <path class="plot-bars" d={bars} />
            <rect class="plot-mark" x={Math.min(position, count - 1)} y="0" width="0.9" height="1" />
          </svg>
        </div>
        <p class="plot-x small soft" aria-hidden="true">
          <span>{sorted ? t("gates.largest") : "0"}</span>
          <span>{sorted ? t("gates.by_size") : t("gates.channel")}</span>
          <span>{sorted ? t("gates.smallest") : count - 1}</span>
        </p>
      </figure>
      <label class="row">
        <input
          type="range"
          min="0"
          max={count - 1}
          value={Math.min(position, count - 1)}
          aria-valuetext={t("gates.one", { channel, value: gate.values[channel]!.toFixed(4) })}
          onInput={(event) => setPosition(Number(event.currentTarget.value))}
        />
        <span class="number">{t("gates.one", { channel, value: gate.values[channel]!.toFixed(4) })}</span>
      </label>
      <dl class="facts">
        <div>
          <dt>{t("gates.mean")}</dt>
          <dd class="number">{significant(gate.mean)}</dd>
        </div>
        <div>
          <dt>{t("gates.range")}</dt>
          <dd class="number">
            {significant(gate.low)} – {significant(gate.high)}
          </dd>
        </div>
        <Extreme title={t("gates.closed", { limit: CLOSED })} gate={gate} is={(value) => value < CLOSED} />
        <Extreme title={t("gates.open", { limit: OPEN })} gate={gate} is={(value) => value > OPEN} />
      </dl>
    </>
  );
}

function Extreme({ title, gate, is }: { title: string; gate: Gate; is: (value: number) => boolean }) {
  const channels = gate.values.flatMap((value, channel) => (is(value) ? [channel] : []));
  const rest = channels.length - LISTED;
  return (
    <div>
      <dt>{title}</dt>
      <dd>
        <b class="number">{channels.length}</b>
        {channels.length > 0 && <span class="soft small"> : {channels.slice(0, LISTED).join(", ")}</span>}
        {rest > 0 && <span class="soft small"> {t("gates.more", { count: rest })}</span>}
      </dd>
    </div>
  );
}
