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
  /** What goes along it. */
  shape: readonly number[] | null;
  room: number;
  kind: "next" | "shortcut";
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

export const HEAD: Record<Level, number> = { stage: 52, block: 46, layer: 46, operation: 34 };
const OPEN = 36;
const GAP = 34;
const INNER = 12;
const TRACK = 20;
const MOST_TRACKS = 3;
export const BAND = 26;
const NARROWEST = 78;

/** The figure of a network at this width; wider where the columns need it. */
export function layout(network: Network, unfolded: ReadonlySet<string>, width: number): Drawing {
  const parts = new Map(network.parts.map((part) => [part.id, part]));
  const top = network.parts.filter((part) => part.parent === null).map((part) => part.id);
  const needed = Math.max(width, widthOf(top, parts, unfolded));
  const drawing: Drawing = { boxes: [], lines: [], bands: [], width: needed, height: 0 };
  const bottom = new Placing(parts, unfolded, drawing).place(top, { x: 0, y: 0, width: needed, level: 1, shape: network.input });
  drawing.height = bottom + GAP;
  const shape = parts.get(top.at(-1)!)!.shape;
  drawing.lines.push({ points: [[needed / 2, bottom], [needed / 2, drawing.height]], shape, room: needed, kind: "next" });
  return drawing;
}

interface Room {
  x: number;
  y: number;
  width: number;
  level: number;
  /** Of what comes in at the top. */
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
    const plan = planOf(ids, this.parts);
    const { boxes, lines, bands } = this.drawing;
    const bottoms: number[] = [];
    const centres: number[] = [];
    const lanes = new Map<number, number>();
    const isBand = plan.tracks > MOST_TRACKS;
    const margin = isBand ? BAND + 14 : 0;
    let floor = room.y;
    ids.forEach((id, i) => {
      const part = this.parts.get(id)!;
      const { column, columns, passing, reads } = plan.nodes[i]!;
      const free = room.width - (isBand ? margin : TRACK * passing.length);
      const each = (free - 8 * (columns - 1)) / columns;
      const x = room.x + column * (each + 8);
      // Below all that it reads and what stands in its column.
      const over = columns === 1 ? floor : Math.max(lanes.get(column) ?? 0, ...reads.map((from) => (from < 0 ? room.y : bottoms[from]!)));
      const y = over + GAP;
      if (columns === 1) lanes.clear();
      const open = this.unfolded.has(id) && part.children.length > 0;
      const box: Box = {
        part,
        x,
        y,
        width: each,
        height: HEAD[part.level],
        head: open ? OPEN : HEAD[part.level],
        open,
        level: room.level,
        place: i + 1,
        of: ids.length,
      };
      boxes.push(box);
      if (open) {
        const inner = { x: x + INNER, y: y + OPEN - 14, width: each - 2 * INNER, level: room.level + 1, shape: null };
        const bottom = this.place(part.children, inner);
        box.height = bottom + INNER - y;
        lines.push({ points: [[x + each / 2, bottom], [x + each / 2, bottom + INNER]], shape: null, room: 0, kind: "next" });
      }
      bottoms.push(y + box.height);
      centres.push(x + each / 2);
      lanes.set(column, y + box.height);
      floor = Math.max(floor, y + box.height);
      if (!isBand || reads.length < 2) {
        for (const from of reads) {
          const start = from < 0 ? room.y : bottoms[from]!;
          const shape = from < 0 ? room.shape : this.parts.get(ids[from]!)!.shape;
          const track = plan.track(from, i);
          if (track >= 0 && !isBand) {
            const right = room.x + room.width - TRACK * track - TRACK / 2;
            lines.push({ points: [[right, start], [right, y]], shape: null, room: 0, kind: "shortcut" });
          } else {
            // Between a wide box and one of several columns, the line stands over the column.
            const isFromColumn = from >= 0 && plan.nodes[from]!.columns > 1;
            const [above, below] = [isFromColumn ? centres[from]! : x + each / 2, columns > 1 || !isFromColumn ? x + each / 2 : centres[from]!];
            const turn = y - GAP / 2;
            lines.push({
              points: above === below ? [[above, start], [below, y]] : [[above, start], [above, turn], [below, turn], [below, y]],
              shape,
              room: isFromColumn ? boxes.find((box) => box.part.id === ids[from])!.width : each,
              kind: "next",
            });
          }
        }
      }
    });
    if (isBand) bands.push(this.band(ids, plan, bottoms, room));
    return floor;
  }

  private band(ids: readonly string[], plan: Plan, bottoms: readonly number[], room: Room): Band {
    const x = room.x + room.width - BAND;
    const { boxes, lines } = this.drawing;
    const mine = new Map(boxes.map((box) => [box.part.id, box]));
    const channels = ids.map((id) => this.parts.get(id)!.shape[0] ?? 0);
    const own = this.parts.get(ids[0]!)!;
    const sums = ids.map((_, i) => plan.nodes[i]!.reads.reduce((sum, from) => sum + (from < 0 ? 0 : channels[from]!), 0));
    const widest = Math.max(1, ...sums, channels.reduce((sum, each) => sum + each, 0));
    const steps: Band["steps"] = [];
    let sum = 0;
    ids.forEach((id, i) => {
      const box = mine.get(id)!;
      if (plan.nodes[i]!.reads.length > 1) {
        const centre = box.x + box.width / 2;
        lines.push({
          points: [[x, box.y - GAP / 2], [centre, box.y - GAP / 2], [centre, box.y]],
          shape: own.shape.length === 3 ? [sums[i]!, ...own.shape.slice(1)] : null,
          room: box.width,
          kind: "next",
        });
      }
      if (plan.isRead[i]) {
        const out = bottoms[i]! - Math.min(12, box.height / 3);
        lines.push({ points: [[box.x + box.width, out], [x, out]], shape: null, room: 0, kind: "shortcut" });
        sum += channels[i]!;
        steps.push({ y: out - 3, share: sum / widest });
      }
    });
    return { x, steps, bottom: bottoms.at(-1)! - 2 };
  }
}

interface Node {
  column: number;
  columns: number;
  /** Sources of what passes by at the right. */
  passing: number[];
  /** Places of the siblings that it reads; −1 is what comes in at the top. */
  reads: number[];
}

interface Plan {
  nodes: Node[];
  tracks: number;
  isRead: boolean[];
  /** Which track the result of `from` takes to `to`; −1 if it goes straight down. */
  track(from: number, to: number): number;
}

/** How siblings depend on each other. */
function planOf(ids: readonly string[], parts: ReadonlyMap<string, Part>): Plan {
  const place = new Map(ids.map((id, i) => [id, i]));
  const told = ids.some((id) => parts.get(id)!.reads.length > 0);
  const reads = ids.map((id, i) => {
    if (!told) return [i - 1];
    const found = new Set(parts.get(id)!.reads.map((from) => place.get(from) ?? -1).filter((from) => from < i));
    return found.size ? [...found].sort((a, b) => a - b) : [-1];
  });
  // What each depends on, directly or not.
  const before: Set<number>[] = [];
  reads.forEach((froms) => {
    const all = new Set<number>();
    for (const from of froms) {
      if (from < 0) continue;
      all.add(from);
      for (const each of before[from]!) all.add(each);
    }
    before.push(all);
  });
  const isSolo = ids.map((_, i) => ids.every((__, j) => j === i || (j < i ? before[i]!.has(j) : before[j]!.has(i))));
  // Runs of parts that stand in columns.
  const columnOf = new Array<number>(ids.length).fill(0);
  const columnsOf = new Array<number>(ids.length).fill(1);
  for (let start = 0; start < ids.length; ) {
    if (isSolo[start]) {
      start += 1;
      continue;
    }
    let end = start;
    const lasts: number[] = [];
    for (; end < ids.length && !isSolo[end]; end += 1) {
      const found = lasts.findIndex((last) => reads[end]!.includes(last));
      const column = found < 0 ? lasts.length : found;
      lasts[column] = end;
      columnOf[end] = column;
    }
    columnsOf.fill(lasts.length, start, end);
    start = end;
  }
  // An edge goes straight down if nothing stands in its way: else it takes a track at the right.
  const inWay = (from: number, to: number): number[] => {
    const found: number[] = [];
    for (let i = from + 1; i < to; i += 1) {
      const same = columnsOf[i] === 1 || (columnsOf[to]! > 1 && columnOf[i] === columnOf[to]) || (from >= 0 && columnsOf[from]! > 1 && columnOf[i] === columnOf[from]);
      // A wide box over columns that all stand in the way of an edge that goes by all of them.
      const wide = columnsOf[to] === 1 && (from < 0 || columnsOf[from] === 1);
      if (same || wide) found.push(i);
    }
    return found;
  };
  const passing = ids.map(() => [] as number[]);
  const taken = new Set<string>();
  reads.forEach((froms, to) => {
    for (const from of froms) {
      const way = inWay(from, to);
      if (!way.length) continue;
      taken.add(`${from} ${to}`);
      for (const i of way) if (!passing[i]!.includes(from)) passing[i]!.push(from);
    }
  });
  // The part that a line leaves or reaches stands under or over it, so only those between make room.
  const widest = passing.map((each) => each.length);
  const sources = [...new Set([...taken].map((each) => Number(each.split(" ")[0])))];
  const trackOf = new Map(sources.map((from) => [from, Math.min(...passing.map((each) => (each.includes(from) ? each.indexOf(from) : Infinity)))]));
  const isRead = ids.map((_, i) => reads.some((froms, to) => froms.includes(i) && to > i));
  return {
    nodes: ids.map((_, i) => ({ column: columnOf[i]!, columns: columnsOf[i]!, passing: passing[i]!, reads: reads[i]! })),
    tracks: Math.max(0, ...widest),
    isRead,
    track: (from, to) => (taken.has(`${from} ${to}`) ? trackOf.get(from)! : -1),
  };
}

/** The least width at which the columns can be read. */
function widthOf(ids: readonly string[], parts: ReadonlyMap<string, Part>, unfolded: ReadonlySet<string>): number {
  const plan = planOf(ids, parts);
  return Math.max(
    ...ids.map((id, i) => {
      const part = parts.get(id)!;
      const inner = unfolded.has(id) && part.children.length ? widthOf(part.children, parts, unfolded) + 2 * INNER : NARROWEST;
      const { columns } = plan.nodes[i]!;
      return columns * inner + 8 * (columns - 1) + (plan.tracks > MOST_TRACKS ? BAND + 14 : TRACK * plan.nodes[i]!.passing.length);
    }),
  );
}
