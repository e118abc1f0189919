/** The enlarged channel of a part's maps, the scale of its colours, and its figures. */

import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { percent } from "../../format";
import { paintScale, type Scale, type Theme } from "../colours";
import type { Maps } from "../document";
import { useWidth } from "../hooks";
import { ends, errorText, fixed, significant, signed } from "../numbers";
import { ARROWS, cellUnder, pointAt, within } from "../pointing";
import { t, type Cell } from "../state";
import { channelOf, errorOf, MapCanvas, valueAt, valueOf, type CanvasProps } from "./map_canvas";

/** CSS pixels that it may take. */
export const LARGE = 300;

interface LargeProps extends Omit<CanvasProps, "room"> {
  part: string;
  cell: Cell | null;
  frame: { current: HTMLDivElement | null };
  target: string;
  onBack: () => void;
  /** Below the channel. */
  children: ComponentChildren;
}

/** The enlarged channel, the scale of its colours, and its figures. */
export function Large({ part, cell, frame, target, onBack, children, ...shown }: LargeProps) {
  const { maps, bytes, place, scale, theme, marked } = shown;
  const [outer, available] = useWidth<HTMLDivElement>();
  const error = errorOf(maps, place);
  const contribution = maps.contributions?.[place];
  const figures = useMemo(() => (bytes ? figuresOf(maps, bytes, place) : null), [maps, bytes, place]);
  const room = Math.min(LARGE, available || LARGE);
  const move = (event: KeyboardEvent) => {
    const step = ARROWS[event.key];
    if (event.key === "Escape") onBack();
    else if (!step) return;
    else {
      const from = cell ?? { y: Math.floor(maps.height / 2) - step[0], x: Math.floor(maps.width / 2) - step[1] };
      pointAt(part, within(from.y + step[0], from.x + step[1], maps.height, maps.width));
    }
    event.preventDefault();
  };
  const pointer = (event: PointerEvent) =>
    pointAt(part, cellUnder(event, maps.height, maps.width, frame.current!.querySelector(".map")!));
  return (
    <div class="map-large" ref={outer}>
      <h4>{t("maps.enlarged", { channel: maps.channels[place]! })}</h4>
      <div
        class="map-frame"
        ref={frame}
        role="application"
        tabIndex={0}
        aria-label={t("maps.pointing", { channel: maps.channels[place]!, width: maps.width, height: maps.height })}
        onKeyDown={move}
        onPointerDown={pointer}
        onPointerMove={pointer}
      >
        <MapCanvas {...shown} room={room} />
      </div>
      <Legend scale={scale} theme={theme} />
      <output class="map-readout">
        {cell && bytes
          ? t("maps.value", { y: cell.y, x: cell.x, value: valueAt(maps, bytes, place, cell), error: errorText(error) })
          : marked
            ? t("maps.seeing", { count: (marked.bottom - marked.top) * (marked.right - marked.left) })
            : t("maps.point")}
      </output>
      {children}
      <dl class="map-figures">
        {contribution !== undefined && (
          <div>
            <dt>{t("maps.contribution.to", { target })}</dt>
            <dd class="number">{signed(contribution)}</dd>
          </div>
        )}
        <div>
          <dt>{t("maps.range")}</dt>
          <dd class="number">
            {significant(maps.low[place]!, 4)} … {significant(maps.high[place]!, 4)}
          </dd>
        </div>
        <div>
          <dt>{t("maps.mean")}</dt>
          <dd class="number">{figures ? fixed(figures.mean, error) : "…"}</dd>
        </div>
        <div>
          <dt>{t("maps.zeros", { error: errorText(error) })}</dt>
          <dd class="number">{figures ? percent(figures.zeros) : "…"}</dd>
        </div>
      </dl>
    </div>
  );
}

/** Mean, and share of values that are zero within the error. */
function figuresOf(maps: Maps, bytes: Uint8Array, place: number): { mean: number; zeros: number } {
  const own = channelOf(bytes, maps, place);
  const error = errorOf(maps, place);
  const counts = new Array<number>(256).fill(0);
  for (const byte of own) counts[byte]!++;
  let sum = 0;
  let zeros = 0;
  for (const [byte, count] of counts.entries()) {
    const value = valueOf(maps, place, byte);
    sum += count * value;
    if (Math.abs(value) <= error) zeros += count;
  }
  return { mean: sum / own.length, zeros: zeros / own.length };
}

/** Colours and their values: low … 0 … high. */
function Legend({ scale, theme }: { scale: Scale; theme: Theme }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => paintScale(canvas.current!, scale, theme), [scale, theme]);
  const zero = (100 * -scale.low) / (scale.high - scale.low || 1);
  const [low, high] = ends(scale.low, scale.high);
  return (
    <div class="map-legend" role="img" aria-label={t("maps.legend", { low, high })}>
      <canvas ref={canvas} width={256} height={1} aria-hidden="true" />
      <span class="map-legend-ticks number small soft" aria-hidden="true">
        {scale.low < 0 && <span>{low}</span>}
        <span class="map-legend-zero" style={{ left: `${zero}%` }}>
          0
        </span>
        {scale.high > 0 && <span class="map-legend-high">{high}</span>}
      </span>
    </div>
  );
}
