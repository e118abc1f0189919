/** The figure's arrows with the shapes on them, and the bands of dense blocks, as SVG's paths: on the page and in files. */

import { BAND, type Band, type Line } from "./figure_layout";
import { channelsText, shapesText } from "./words";

export interface Arrow {
  /** The line and its tip, as the attribute d. */
  line: string;
  tip: string;
  label: ArrowLabel | null;
}

export interface ArrowLabel {
  text: string;
  x: number;
  y: number;
  /** Smaller letters, where there is little room. */
  isTight: boolean;
  /** What is behind it where it is in the line's place; null where it is beside the line. */
  ground: { x: number; y: number; width: number; height: number } | null;
}

export function arrowOf({ points, shapes, room, kind }: Line): Arrow {
  const [x, y] = points.at(-1)!;
  const [before] = points.at(-2)!;
  const isSideways = before !== x;
  const tip = isSideways ? `M${x - 4},${y - 3.5}L${x},${y}L${x - 4},${y + 3.5}` : `M${x - 3.5},${y - 5}L${x},${y - 0.5}L${x + 3.5},${y - 5}`;
  return {
    line: `M${points.map((point) => point.join(",")).join("L")}`,
    tip: kind === "out" ? "" : tip,
    label: !shapes.length ? null : kind === "shortcut" ? bandLabel(shapes, x, y, room) : shapeLabel(shapes, x, y, room),
  };
}

/** At the line where it ends at (x, y); in the line's place in a narrow column. */
function shapeLabel(shapes: Line["shapes"], x: number, y: number, room: number): ArrowLabel {
  const isTight = room < 130;
  const text = shapesText(shapes, isTight);
  const width = text.length * (isTight ? 5.6 : 6.4) + 6;
  return width + 9 < room / 2
    ? { text, x: x + 9, y: y - 11, isTight: false, ground: null }
    : { text, x, y: y - 14, isTight, ground: { x: x - width / 2, y: y - 28, width, height: 18 } };
}

/** The channels that come in from a band, below the line; without room, none. */
function bandLabel(shapes: Line["shapes"], x: number, y: number, room: number): ArrowLabel | null {
  const text = channelsText(shapes, 2);
  return text.length * 5.8 + 8 < room ? { text, x: x + 8, y: y - 4, isTight: true, ground: null } : null;
}

export function bandPath({ x, steps, bottom }: Band): string {
  const [first] = steps;
  if (!first) return "";
  const right = (share: number): number => x + 2 + (BAND - 4) * share;
  const outline = steps.map(({ y, share }, index) => {
    const next = steps[index + 1]?.y ?? bottom;
    return `L${right(share)},${y + 8}L${right(share)},${Math.max(next, y + 8)}`;
  });
  return `M${x},${first.y - 4}L${right(first.share)},${first.y - 4}${outline.join("")}L${x},${bottom}Z`;
}
