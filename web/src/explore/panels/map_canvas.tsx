/** One channel of maps on a canvas, and its values in words. */

import { useEffect, useRef } from "preact/hooks";
import { paint, type Scale, type Theme } from "../colours";
import type { Maps } from "../document";
import type { Box } from "../fields";
import { useVisible } from "../hooks";
import { fixed } from "../numbers";
import type { Cell } from "../state";

/** The bytes of one channel. */
export const channelOf = (bytes: Uint8Array, { height, width }: Maps, place: number): Uint8Array =>
  bytes.subarray(place * height * width, (place + 1) * height * width);

/** Half a step of the quantisation. */
export const errorOf = ({ low, high }: Maps, place: number): number => (high[place]! - low[place]!) / 255 / 2;

/** CSS pixels of one value in a map that may take so many. */
export const sideOf = ({ height, width }: Maps, room: number): number => Math.max(1, Math.floor(room / Math.max(height, width)));

export const valueOf = ({ low, high }: Maps, place: number, byte: number): number =>
  low[place]! + (byte / 255) * (high[place]! - low[place]!);

/** The value of a cell in words, without its error. */
export function valueAt(maps: Maps, bytes: Uint8Array, place: number, { y, x }: Cell): string {
  const byte = channelOf(bytes, maps, place)[y * maps.width + x]!;
  return fixed(valueOf(maps, place, byte), errorOf(maps, place));
}

export interface CanvasProps {
  maps: Maps;
  bytes: Uint8Array | null;
  place: number;
  scale: Scale;
  theme: Theme;
  /** Longer side in CSS pixels, at most; more where one value is one pixel. */
  room: number;
  /** Longer side of a map that is drawn smaller than that. */
  most?: number;
  /** Cells with an outline. */
  marked: Box | null;
}

/** One channel: one value is a square of whole CSS pixels. */
export function MapCanvas({ maps, bytes, place, scale, theme, room, most = Infinity, marked }: CanvasProps) {
  const { height, width, low, high } = maps;
  const canvas = useRef<HTMLCanvasElement>(null);
  const [frame, isVisible] = useVisible<HTMLSpanElement>();
  useEffect(() => {
    if (!bytes || !isVisible) return;
    paint(canvas.current!, channelOf(bytes, maps, place), height, width, low[place]!, high[place]!, scale, theme);
  }, [bytes, isVisible, maps, place, scale, theme]);
  const times = Math.min(sideOf(maps, room), most / Math.max(height, width));
  return (
    <span class={times < 1 ? "map smaller" : "map"} ref={frame} style={{ width: `${times * width}px`, aspectRatio: `${width} / ${height}` }}>
      <canvas ref={canvas} width={width} height={height} aria-hidden="true" />
      {marked && (
        <span
          class="cell-mark"
          style={{
            left: `${(100 * marked.left) / width}%`,
            top: `${(100 * marked.top) / height}%`,
            width: `${(100 * (marked.right - marked.left)) / width}%`,
            height: `${(100 * (marked.bottom - marked.top)) / height}%`,
          }}
        />
      )}
    </span>
  );
}
