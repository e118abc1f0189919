/** Cells of a grid, chosen by a pointer or arrow keys; which one is pointed at, all panels know. */

import { type Cell, get, set } from "./state";

/** Stands for the network's input, whose cells are pixels. */
export const PHOTO = "photo";

interface Place {
  y: number;
  x: number;
}

/** Rows and columns that an arrow key goes. */
export const ARROWS: Record<string, [number, number]> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

/** The nearest row and column of a grid. */
export function within(y: number, x: number, rows: number, columns: number): Place {
  const limit = (at: number, count: number) => Math.max(0, Math.min(count - 1, Math.floor(at)));
  return { y: limit(y, rows), x: limit(x, columns) };
}

/** The cell under the pointer in an element that the grid fills. */
export function cellUnder(event: MouseEvent, rows: number, columns: number, element = event.currentTarget as Element): Place {
  const box = element.getBoundingClientRect();
  const [down, across] = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
  return within(down * rows, across * columns, rows, columns);
}

/** Point at a cell of a part's maps, or of `PHOTO`. */
export function pointAt(part: string, { y, x }: Place): void {
  const { pointed } = get();
  if (pointed?.part !== part || pointed.y !== y || pointed.x !== x) set({ pointed: { part, y, x } });
}

/** What is pointed at, if it is a cell of this grid. */
export const pointedIn = (pointed: Cell | null, part: string, rows: number, columns: number): Cell | null =>
  pointed?.part === part && pointed.y < rows && pointed.x < columns ? pointed : null;
