/** Small pictures of maps on a canvas. */

import { useEffect, useRef, useState } from "preact/hooks";
import { paint, scaleOf } from "../colours";
import type { Pictures } from "../document";
import { useTheme } from "../hooks";
import { unpack } from "../unpack";

/** One of the pictures, with one scale for all of them. */
export function Picture({ pictures, name, label }: { pictures: Pictures; name: string; label: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [bytes, setBytes] = useState<Uint8Array | null>(null);
  const theme = useTheme();
  const { width, height, high } = pictures;
  useEffect(() => {
    let isWanted = true;
    unpack(pictures.data).then(
      (found) => isWanted && setBytes(found),
      () => undefined, // the page is damaged, which its maps tell
    );
    return () => void (isWanted = false);
  }, [pictures]);
  useEffect(() => {
    const start = pictures.names.indexOf(name) * width * height;
    const own = bytes?.subarray(start, start + width * height);
    if (own) paint(canvas.current!, own, height, width, 0, high, scaleOf(0, high), theme);
  }, [bytes, theme]);
  return <canvas ref={canvas} class="pixels" width={width} height={height} role="img" aria-label={label} />;
}

const FOR = [255, 106, 0] as const;
const AGAINST = [30, 90, 255] as const;

/** Contributions as a transparent layer: orange for positive, blue for negative ones, the strongest the most opaque. */
export function HeatMap({ cells, label }: { cells: number[][]; label: string }) {
  const values = cells.flat();
  const most = values.reduce((high, value) => Math.max(high, Math.abs(value)), 0) || 1;
  const pixels = new Uint8ClampedArray(4 * values.length);
  values.forEach((value, index) => pixels.set([...(value < 0 ? AGAINST : FOR), (190 * Math.abs(value)) / most], 4 * index));
  const canvas = useRef<HTMLCanvasElement>(null);
  const [height, width] = [cells.length, cells[0]!.length];
  useEffect(() => canvas.current!.getContext("2d")!.putImageData(new ImageData(pixels, width, height), 0, 0));
  return <canvas ref={canvas} class="pixels" width={width} height={height} role="img" aria-label={label} />;
}
