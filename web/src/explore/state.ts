/** What the page shows: the document, and what is chosen. */

import { useEffect, useState } from "preact/hooks";
import type { Document, Language, Network, Part, View } from "./document";

function json<T>(id: string): T {
  return JSON.parse(document.getElementById(id)!.textContent!) as T;
}

export const page = json<Document>("document");
export const texts = json<Record<Language, Record<string, string>>>("texts");

export type Cost = "parameters" | "macs" | "bytes" | "ms";

/** A cell of a part's maps, or, with the part "photo", a pixel of the network's input. */
export interface Cell {
  part: string;
  y: number;
  x: number;
}

export interface State {
  language: Language;
  /** Id of the part whose panels are shown. */
  selected: string;
  /** Ids of the parts whose children are shown. */
  unfolded: ReadonlySet<string>;
  /** What colours the parts. */
  cost: Cost | null;
  /** The channel that is enlarged in the selected part's maps. */
  channel: number | null;
  pointed: Cell | null;
}

const first = page.networks[0]!.parts.filter((part) => part.level === "stage").at(-1)!;
let state: State = {
  language: page.language,
  selected: first.id,
  unfolded: new Set(),
  cost: null,
  channel: null,
  pointed: null,
};
const listeners = new Set<(state: State) => void>();

/** Change part of the state. */
export function set(changes: Partial<State>): void {
  state = { ...state, ...changes };
  for (const listener of listeners) listener(state);
}

export const get = (): State => state;

/** The state, in a component that is drawn again when it changes. */
export function useExploreState(): State {
  const [, redraw] = useState<State>(state);
  useEffect(() => {
    listeners.add(redraw);
    return () => void listeners.delete(redraw);
  }, []);
  return state;
}

/** A text of the page in the chosen language, with its values put in. */
export function t(key: string, values: Record<string, string | number> = {}): string {
  const text = texts[state.language][key] ?? texts.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

const indices = page.networks.map((network) => new Map(network.parts.map((part) => [part.id, part])));

/** The part of this id in a network, if it has one. */
export const partOf = (network: number, id: string): Part | undefined => indices[network]?.get(id);

/** What a panel is given. */
export interface PanelProps {
  view: View;
  network: Network;
  part: Part;
}
