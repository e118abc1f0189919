/** A network's stages as blocks: as high as their maps, as thick as they have channels. */

import { useState } from "preact/hooks";
import type { Anatomy, Stage } from "../api";
import { short, whole } from "../format";

const LEFT = 96;
const FLOOR = 208;
const MAX_HEIGHT = 132;
const MAX_DEPTH = 44;
const SLANT = 0.32;
const BAR = 44;

const share = (part: number, of: number): number => (of ? part / of : 0);
const rounded = (value: number): string => (value > 0 && value < 0.005 ? "< 1 %" : `${Math.round(100 * value)} %`);
const shape = ({ height, width, channels }: Stage): string =>
  height === 1 && width === 1 ? whole(channels) : `${height} × ${width} × ${whole(channels)}`;

/** Under its block there is room for a dozen letters: `denseblock1` of `features.denseblock1`, but all of `features.1`. */
function brief(name: string): string {
  const own = name.slice(name.lastIndexOf(".") + 1);
  const text = /^\d/.test(own) ? name : own;
  return text.length > 13 ? `${text.slice(0, 12)}…` : text;
}

export function AnatomyView({ anatomy, classes }: { anatomy: Anatomy; classes: number }) {
  const [current, setCurrent] = useState<number | null>(null);
  const { stages, input } = anatomy;
  const heaviest = stages.reduce((a, b) => (b.parameters > a.parameters ? b : a), stages[0]!);
  const busiest = stages.reduce((a, b) => (b.macs > a.macs ? b : a), stages[0]!);
  const summary =
    `${stages.length} stages turn ${input[0]} × ${input[1]} pixels into ${whole(classes)} classes. ` +
    `Most parameters, ${rounded(share(heaviest.parameters, anatomy.parameters))}, are in ${heaviest.name}; ` +
    `most of the arithmetic, ${rounded(share(busiest.macs, anatomy.macs))}, in ${busiest.name}.`;
  return (
    <section class="panel" aria-labelledby="anatomy">
      <h3 id="anatomy">Anatomy</h3>
      <p>{summary}</p>
      <div class="scroll" tabIndex={0} role="region" aria-label="Diagram of the stages; the table below says the same in words">
        <Diagram anatomy={anatomy} summary={summary} current={current} onPoint={setCurrent} />
      </div>
      <p class="soft small">Height: resolution. Thickness: channels. Both as square roots, so that small stages stay visible.</p>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of the stages">
        <table class="stages">
          <caption class="said">The stages from the photo to the classes</caption>
          <thead>
            <tr>
              <th scope="col">Stage</th>
              <th scope="col">Made of</th>
              <th scope="col">Output</th>
              <th scope="col">Layers</th>
              <th scope="col">Parameters</th>
              <th scope="col">MACs</th>
            </tr>
          </thead>
          <tbody>
            {stages.map((stage, place) => (
              <tr
                key={stage.name}
                class={place === current ? "current" : ""}
                onPointerEnter={() => setCurrent(place)}
                onPointerLeave={() => setCurrent(null)}
              >
                <th scope="row">{stage.name}</th>
                <td>{stage.kind}</td>
                <td class="number">{shape(stage)}</td>
                <td class="number">{stage.layers}</td>
                <Part value={stage.parameters} of={anatomy.parameters} />
                <Part value={stage.macs} of={anatomy.macs} />
              </tr>
            ))}
          </tbody>
          <tfoot>
            <tr>
              <th scope="row">Total</th>
              <td />
              <td />
              <td class="number">{stages.reduce((sum, stage) => sum + stage.layers, 0)}</td>
              <td class="number">{short(anatomy.parameters)}</td>
              <td class="number">{short(anatomy.macs)}</td>
            </tr>
          </tfoot>
        </table>
      </div>
    </section>
  );
}

function Part({ value, of }: { value: number; of: number }) {
  return (
    <td class="number part">
      <span>
        {short(value)} <span class="soft">{rounded(share(value, of))}</span>
      </span>
      <span class="track" aria-hidden="true">
        <span class="fill" style={{ width: `${100 * share(value, of)}%` }} />
      </span>
    </td>
  );
}

interface DiagramProps {
  anatomy: Anatomy;
  summary: string;
  current: number | null;
  onPoint: (place: number | null) => void;
}

function Diagram({ anatomy, summary, current, onPoint }: DiagramProps) {
  const { stages, input } = anatomy;
  // Few stages spread over the page; many are scrolled through.
  const column = Math.max(92, Math.min(140, 1000 / (stages.length + 1)));
  const width = LEFT + (stages.length + 1) * column + 8;
  const height = FLOOR + 208;
  const side = Math.max(input[0], ...stages.map((stage) => stage.height));
  const thick = Math.max(...stages.map((stage) => stage.channels));
  const block = (rows: number, channels: number) => ({
    high: Math.max(7, MAX_HEIGHT * Math.sqrt(rows / side)),
    wide: Math.max(3, MAX_DEPTH * Math.sqrt(channels / thick)),
  });
  const centre = (place: number) => LEFT + (place + 0.5) * column;
  const axis = FLOOR - 112;
  const most = [
    Math.max(...stages.map((stage) => share(stage.parameters, anatomy.parameters))),
    Math.max(...stages.map((stage) => share(stage.macs, anatomy.macs))),
  ];
  return (
    <svg class="diagram" viewBox={`0 0 ${width} ${height}`} width={width} height={height} role="img" aria-label={summary}>
      <line class="axis" x1={LEFT} x2={centre(stages.length) + 20} y1={axis} y2={axis} />
      <Block x={centre(0)} y={axis} {...block(input[0], input[2])} kind="input" />
      <Caption x={centre(0)} lines={["photo", `${input[0]} × ${input[1]}`, "× 3"]} />
      {["Parameters", "MACs"].map((title, row) => (
        <text class="row-title" key={title} x={0} y={FLOOR + 114 + row * (BAR + 34)}>
          {title}
        </text>
      ))}
      {stages.map((stage, place) => {
        const x = centre(place + 1);
        const spatial = stage.height > 1 || stage.width > 1;
        const shares = [share(stage.parameters, anatomy.parameters), share(stage.macs, anatomy.macs)];
        return (
          <g
            key={stage.name}
            class={place === current ? "stage current" : "stage"}
            onPointerEnter={() => onPoint(place)}
            onPointerLeave={() => onPoint(null)}
          >
            <title>{`${stage.name}: ${stage.kind}, ${shape(stage)}`}</title>
            <rect class="hit" x={x - column / 2} y={0} width={column} height={height} />
            <Block x={x} y={axis} {...block(stage.height, stage.channels)} kind={spatial ? "maps" : "vector"} />
            <Caption x={x} lines={[brief(stage.name), spatial ? `${stage.height} × ${stage.width}` : "", `${spatial ? "× " : ""}${whole(stage.channels)}`]} />
            {shares.map((value, row) => {
              const floor = FLOOR + 118 + row * (BAR + 34);
              const tall = Math.max(1.5, BAR * share(value, most[row]!));
              return (
                <g key={row}>
                  <rect class="share" x={x - 13} y={floor - tall} width={26} height={tall} rx={2} />
                  <text class="share-text" x={x} y={floor - tall - 5}>
                    {rounded(value)}
                  </text>
                </g>
              );
            })}
          </g>
        );
      })}
    </svg>
  );
}

interface BlockProps {
  x: number;
  y: number;
  high: number;
  wide: number;
  kind: string;
}

/** A box in oblique projection around a centre: the maps' rows stand upright, their columns go into the depth. */
function Block({ x, y, high, wide, kind }: BlockProps) {
  const back = high * SLANT;
  const left = x - (wide + back) / 2;
  const right = left + wide;
  const bottom = y + high / 2 + back / 2;
  const top = bottom - high;
  return (
    <g class={`block ${kind}`}>
      <path class="face" d={`M${left} ${top}H${right}V${bottom}H${left}z`} />
      <path class="top" d={`M${left} ${top}l${back} ${-back}h${wide}l${-back} ${back}z`} />
      <path class="side" d={`M${right} ${top}l${back} ${-back}v${high}l${-back} ${back}z`} />
    </g>
  );
}

function Caption({ x, lines }: { x: number; lines: string[] }) {
  return (
    <text class="caption" x={x} y={FLOOR + 6}>
      {lines.filter(Boolean).map((line, row) => (
        <tspan key={row} x={x} dy={row ? 15 : 0} class={row ? "" : "name"}>
          {line}
        </tspan>
      ))}
    </text>
  );
}
