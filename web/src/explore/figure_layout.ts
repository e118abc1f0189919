/** Where the figure's boxes and arrows stand: all lines go down; what runs side by side stands side by side.
 *
 * The parts of one parent follow each other from top to bottom. Parts that do not depend on each other (Inception's
 * branches) stand in columns. What passes by a part (a shortcut) goes down at its right. Where more than a few results
 * pass by (a dense block), they go together in one band that is as wide as the channels in it.
 */

import type { Level, Network, Part } from "./document";

export interface Box {
  part: Part;
  x: number;
  y: number;
  width: number;
  height: number;
  /** Of the box's own line; all of `height` where it is folded. */
  head: number;
  open: boolean;
  level: number;
  place: number;
  of: number;
}

export interface Line {
  /** From where to where, downwards. */
  points: [number, number][];
  /** Of what goes along it; several are of what is read together. */
  shapes: readonly (readonly number[])[];
  room: number;
  /** From one part to the next; past others, from a band, to a band; out of a part that is unfolded, on which it goes on. */
  kind: "next" | "shortcut" | "out";
}

/** All that was made so far in a dense block, going down at the right; `widths` are shares of the widest. */
export interface Band {
  x: number;
  steps: { y: number; share: number }[];
  bottom: number;
}

export interface Drawing {
  boxes: Box[];
  lines: Line[];
  bands: Band[];
  width: number;
  height: number;
}

export const HEAD: Record<Level, number> = { stage: 42, block: 42, layer: 42, operation: 32 };
const OPEN = 34;
const GAP = 30;
const INNER = 9;
const SPACE = 8;
const TRACK = 20;
export const BAND = 26;
const NARROWEST = 68;

/** The figure of a network at this width; wider where the columns need it. */
export function layout(network: Network, unfolded: ReadonlySet<string>, width: number): Drawing {
  const parts = new Map(network.parts.map((part) => [part.id, part]));
  const top = network.parts.filter((part) => part.parent === null).map((part) => part.id);
  const needed = Math.max(width, widthOf(top, parts, unfolded));
  const drawing: Drawing = { boxes: [], lines: [], bands: [], width: needed, height: 0 };
  const bottom = new Placing(parts, unfolded, drawing).place(top, { x: 0, y: 0, width: needed, level: 1, shape: network.input });
  drawing.height = bottom + GAP;
  const shape = parts.get(top.at(-1)!)!.shape;
  drawing.lines.push({ points: [[needed / 2, bottom], [needed / 2, drawing.height]], shapes: [shape], room: needed, kind: "next" });
  return drawing;
}

interface Room {
  x: number;
  y: number;
  width: number;
  level: number;
  /** Of what comes in at the top, where that is not told already. */
  shape: readonly number[] | null;
}

class Placing {
  constructor(
    private readonly parts: ReadonlyMap<string, Part>,
    private readonly unfolded: ReadonlySet<string>,
    private readonly drawing: Drawing,
  ) {}

  /** Put these siblings into the room; the bottom of the last. */
  place(ids: readonly string[], room: Room): number {
    const siblings = ids.map((id) => this.parts.get(id)!);
    const plan = planOf(siblings);
    const { boxes, lines, bands } = this.drawing;
    const mine: Box[] = [];
    let lanes = new Map<number, number>();
    let floor = room.y;
    siblings.forEach((part, i) => {
      const node = plan[i]!;
      const each = (room.width - node.beside - SPACE * (node.columns - 1)) / node.columns;
      const x = room.x + node.column * (each + SPACE);
      // Below all that it reads, and what stands in its column.
      if (node.columns === 1) lanes = new Map();
      const start = (read: Read): number => (read.from < 0 ? room.y : mine[read.from]!.y + mine[read.from]!.height);
      const over = node.columns === 1 ? floor : Math.max(lanes.get(node.column) ?? room.y, ...node.reads.map(start));
      const isFirst = over === room.y && !room.shape && node.reads.every((read) => read.shapes.length < 2);
      const y = over + (isFirst ? GAP / 2 : GAP);
      const open = this.unfolded.has(part.id) && part.children.length > 0;
      const head = open ? OPEN : HEAD[part.level];
      const box: Box = { part, x, y, width: each, height: head, head, open, level: room.level, place: i + 1, of: ids.length };
      boxes.push(box);
      mine.push(box);
      if (open) {
        const inner = { x: x + INNER, y: y + OPEN, width: each - 2 * INNER, level: room.level + 1, shape: null };
        const bottom = this.place(part.children, inner);
        box.height = bottom + INNER - y;
        const end = mine.at(-1)!.x + each / 2;
        lines.push({ points: [[end, bottom], [end, bottom + INNER]], shapes: [], room: 0, kind: "out" });
      }
      lanes.set(node.column, y + box.height);
      floor = Math.max(floor, y + box.height);
      const inBand: number[][] = [];
      for (const read of node.reads) {
        if (read.track === null) {
          const source = read.from >= 0 ? mine[read.from]! : null;
          const isBranch = source && plan[read.from]!.columns > 1;
          // Between a wide box and one of several columns, the line stands over the column; between two wide ones over
          // the middle of the one that leaves room for what passes by.
          const [own, other] = [x + each / 2, source ? source.x + source.width / 2 : x + each / 2];
          const below = node.columns > 1 ? own : isBranch ? other : Math.min(own, other);
          const above = isBranch ? other : below;
          const turn = y - GAP / 2;
          const shapes = read.from >= 0 || room.shape || read.shapes.length > 1 ? read.shapes : [];
          lines.push({
            points: above === below ? [[above, start(read)], [below, y]] : [[above, start(read)], [above, turn], [below, turn], [below, y]],
            shapes,
            // Beside an arrow that comes in from a band there is less.
            room: (source?.width ?? each) * (node.reads.some(({ isInBand }) => isInBand) ? 0.6 : 1),
            kind: "next",
          });
        } else if (read.isInBand) inBand.push(...read.shapes);
        else {
          const at = room.x + room.width - TRACK * read.track - TRACK / 2;
          lines.push({ points: [[at, start(read)], [at, y]], shapes: [], room: 0, kind: "shortcut" });
        }
      }
      if (inBand.length) {
        const [at, turn, from] = [x + each * 0.8, y - GAP / 2, room.x + room.width - BAND];
        lines.push({ points: [[from, turn], [at, turn], [at, y]], shapes: inBand, room: x + each - at, kind: "shortcut" });
      }
    });
    if (plan.some((node) => node.reads.some((read) => read.isInBand))) bands.push(this.band(plan, mine, room));
    return floor;
  }

  /** The band of a dense block: each result joins it below its box. */
  private band(plan: readonly Node[], boxes: readonly Box[], room: Room): Band {
    const x = room.x + room.width - BAND;
    const sources = new Map<number, { channels: number; last: number }>();
    plan.forEach((node, i) => {
      for (const { from, isInBand, shapes } of node.reads) if (isInBand) sources.set(from, { channels: shapes[0]?.[0] ?? 0, last: i });
    });
    const all = [...sources.values()].reduce((sum, { channels }) => sum + channels, 0) || 1;
    const steps: Band["steps"] = [];
    let sum = 0;
    let last = 0;
    for (const [from, source] of [...sources].sort(([a], [b]) => a - b)) {
      const box = boxes[from];
      const y = box ? box.y + box.height + 8 : room.y + 7;
      if (box) {
        const at = box.x + box.width - 14;
        this.drawing.lines.push({ points: [[at, box.y + box.height], [at, y], [x, y]], shapes: [], room: 0, kind: "shortcut" });
      }
      sum += source.channels;
      last = Math.max(last, source.last);
      steps.push({ y: y - 3, share: sum / all });
    }
    return { x, steps, bottom: boxes[last]!.y - GAP / 2 + 4 };
  }
}

interface Read {
  /** Place of the sibling; −1 is what comes in at the top. */
  from: number;
  shapes: number[][];
  /** Place at the right where it passes by others; null if it goes straight down. */
  track: number | null;
  isInBand: boolean;
}

interface Node {
  column: number;
  columns: number;
  reads: Read[];
  /** Room at its right for what passes by. */
  beside: number;
}

/** Columns and tracks of siblings, from the ranks and lanes that the document gives. */
function planOf(siblings: readonly Part[]): Node[] {
  const place = new Map(siblings.map((part, i) => [part.id, i]));
  const rankOf = (from: number): number => (from < 0 ? -1 : siblings[from]!.rank);
  const nodes: Node[] = siblings.map((part) => {
    const reads = new Map<number, Read>();
    part.reads.forEach((id, k) => {
      const from = place.get(id) ?? -1;
      const read = reads.get(from) ?? { from, shapes: [], track: null, isInBand: false };
      read.shapes.push(part.read_shapes[k]!);
      const lane = part.read_lanes[k]!;
      // Beside all columns unless it goes on in that of its source or comes in that of its reader.
      const isBeside = lane !== part.lane && lane !== siblings[from]?.lane && part.rank - rankOf(from) > 1;
      if (isBeside) read.track = lane;
      reads.set(from, read);
    });
    return { column: 0, columns: 1, reads: [...reads.values()], beside: 0 };
  });
  const passing = (rank: number, isWanted: (read: Read) => boolean): Read[] =>
    nodes.flatMap((node, i) => node.reads.filter((read) => rankOf(read.from) < rank && rank < siblings[i]!.rank && isWanted(read)));
  const byRank = new Map<number, number[]>();
  siblings.forEach((part, i) => byRank.set(part.rank, [...(byRank.get(part.rank) ?? []), i]));
  const ranks = [...byRank.keys()].sort((a, b) => a - b);
  const isWide = (rank: number): boolean => byRank.get(rank)!.length === 1 && !passing(rank, (read) => read.track === null).length;
  for (let start = 0; start < ranks.length; start += 1) {
    let end = start;
    while (end < ranks.length && !isWide(ranks[end]!)) end += 1;
    if (end === start) continue;
    const group = ranks.slice(start, end).flatMap((rank) => byRank.get(rank)!);
    const lanes = [...new Set(group.map((i) => siblings[i]!.lane))].sort((a, b) => a - b);
    for (const i of group) Object.assign(nodes[i]!, { column: lanes.indexOf(siblings[i]!.lane), columns: lanes.length });
    start = end;
  }
  // Several results in one lane are a band; other lanes become tracks, from the right.
  const beside = nodes.flatMap((node) => node.reads.filter((read) => read.track !== null));
  const sources = new Map<number, Set<number>>();
  for (const read of beside) sources.set(read.track!, (sources.get(read.track!) ?? new Set()).add(read.from));
  for (const read of beside) read.isInBand = sources.get(read.track!)!.size > 2;
  const lanes = [...sources.keys()].sort((a, b) => b - a);
  const hasBand = beside.some((read) => read.isInBand);
  for (const read of beside) read.track = lanes.indexOf(read.track!);
  nodes.forEach((node, i) => {
    const tracks = passing(siblings[i]!.rank, (read) => read.track !== null && !read.isInBand).map((read) => read.track!);
    node.beside = hasBand ? BAND + 10 : tracks.length ? TRACK * (Math.max(...tracks) + 1) : 0;
  });
  return nodes;
}

/** The least width at which the columns can be read. */
function widthOf(ids: readonly string[], parts: ReadonlyMap<string, Part>, unfolded: ReadonlySet<string>): number {
  const siblings = ids.map((id) => parts.get(id)!);
  return Math.max(
    ...planOf(siblings).map(({ columns, beside }, i) => {
      const part = siblings[i]!;
      const inner = unfolded.has(part.id) && part.children.length ? widthOf(part.children, parts, unfolded) + 2 * INNER : NARROWEST;
      return columns * inner + SPACE * (columns - 1) + beside;
    }),
  );
}
