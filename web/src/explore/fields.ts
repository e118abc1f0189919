/** Which pixels of the network's input a cell depends on, and which cells a pixel reaches. */

import type { Field, Part, View } from "./document";

/** Rows top … bottom - 1 and columns left … right - 1. */
export interface Box {
  top: number;
  left: number;
  bottom: number;
  right: number;
}

/** The theoretical receptive field of a cell in pixels of the input, also beyond its border. */
export function boxOf({ start, jump, size }: Field, y: number, x: number): Box {
  const [top, left] = [start[0]! + y * jump[0]!, start[1]! + x * jump[1]!];
  return { top, left, bottom: top + size[0]!, right: left + size[1]! };
}

/** The cells of a part's maps whose receptive field holds a pixel of the input; null: there are none. */
export function cellsSeeing(view: View, part: Part, y: number, x: number): Box | null {
  const field = view.parts[part.id]?.field;
  if (!field || part.shape.length !== 3) return null;
  const [top, bottom] = along(field, 0, part.shape[1]!, y);
  const [left, right] = along(field, 1, part.shape[2]!, x);
  return top < bottom && left < right ? { top, left, bottom, right } : null;
}

/** First cell, and the one after the last, along one side. */
function along({ start, jump, size }: Field, side: 0 | 1, cells: number, pixel: number): [number, number] {
  const from = pixel - start[side]!;
  return [
    Math.max(0, Math.ceil((from - size[side]! + 1) / jump[side]!)),
    Math.min(cells, Math.floor(from / jump[side]!) + 1),
  ];
}

/** The part of a box that lies within a height and a width. */
export function clipped(box: Box, height: number, width: number): Box {
  return {
    top: Math.max(0, Math.min(height, box.top)),
    left: Math.max(0, Math.min(width, box.left)),
    bottom: Math.max(0, Math.min(height, box.bottom)),
    right: Math.max(0, Math.min(width, box.right)),
  };
}
