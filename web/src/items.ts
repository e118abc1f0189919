/** The photos of this page with their results by model. */

import type { Result } from "./api";

export type Outcome =
  | { state: "waiting" | "sending" }
  | { state: "done"; result: Result }
  | { state: "failed"; message: string; again: boolean };

export interface Item {
  readonly id: number;
  readonly file: File;
  /** Its path within a folder that was chosen, or the file's name. */
  readonly name: string;
  readonly outcomes: Map<string, Outcome>;
  /** Incremented on each change, so that only changed cards are rendered. */
  version: number;
}

let last = 0;

export function makeItem(file: File, name: string): Item {
  last += 1;
  return { id: last, file, name, outcomes: new Map(), version: 0 };
}

export function doneOf(item: Item, model: string): Result | null {
  const outcome = item.outcomes.get(model);
  return outcome?.state === "done" ? outcome.result : null;
}

export function settle(item: Item, model: string, outcome: Outcome): void {
  item.outcomes.set(model, outcome);
  item.version += 1;
}

export const best = (item: Item, model: string) => doneOf(item, model)?.predictions[0];
export const failed = (item: Item, model: string) => item.outcomes.get(model)?.state === "failed";
export const unsure = (item: Item, model: string) => doneOf(item, model)?.unsure === true;

export type Only = "all" | "unsure" | "errors";
export type Order = "added" | "name" | "class" | "most" | "least";

export interface View {
  only: Only;
  className: string;
  text: string;
  order: Order;
}

export const EVERYTHING: View = { only: "all", className: "", text: "", order: "added" };

const names = new Intl.Collator("en", { numeric: true });

/** The filtered photos, sorted. */
export function viewed(items: readonly Item[], model: string, view: View): Item[] {
  const text = view.text.trim().toLowerCase();
  const found = items.filter((item) => {
    const top = best(item, model)?.class;
    if (view.only === "unsure" && !unsure(item, model)) return false;
    if (view.only === "errors" && !failed(item, model)) return false;
    if (view.className && top !== view.className) return false;
    return !text || item.name.toLowerCase().includes(text) || (top?.toLowerCase().includes(text) ?? false);
  });
  const sureness = (item: Item) => best(item, model)?.probability ?? -1;
  // Photos without a class come last, whatever the order.
  const without = (item: Item) => (best(item, model) ? 0 : 1);
  switch (view.order) {
    case "name":
      return found.sort((a, b) => names.compare(a.name, b.name));
    case "class":
      return found.sort(
        (a, b) =>
          without(a) - without(b) ||
          names.compare(best(a, model)?.class ?? "", best(b, model)?.class ?? "") ||
          sureness(b) - sureness(a),
      );
    case "most":
      return found.sort((a, b) => sureness(b) - sureness(a));
    case "least":
      return found.sort((a, b) => without(a) - without(b) || sureness(a) - sureness(b));
    case "added":
      return found;
  }
}

/** The best classes and how many photos each has, the most frequent first. */
export function tally(items: readonly Item[], model: string): [string, number][] {
  const counts = new Map<string, number>();
  for (const item of items) {
    const top = best(item, model)?.class;
    if (top !== undefined) counts.set(top, (counts.get(top) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1] || names.compare(a[0], b[0]));
}
