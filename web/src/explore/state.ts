/** What the page shows: the document, and what is chosen. */

import { useEffect, useState } from "preact/hooks";
import type { Cost, Document, Language, Network, Part, View } from "./document";
import { hasText, provideTexts, t, type Texts } from "./texts";

function json<T>(id: string, revive?: (key: string, value: unknown) => unknown): T {
  return JSON.parse(document.getElementById(id)!.textContent!, revive) as T;
}

// What the document has twice is stored once, and {"$": index} stands for it.
const shared = json<unknown[]>("shared");
const revive = (_: string, value: unknown) =>
  value !== null && typeof value === "object" && "$" in value ? shared[(value as { $: number }).$] : value;

export const page = json<Document>("document", shared.length ? revive : undefined);
provideTexts(json<Texts>("texts"), () => state.language);
export { hasText, t };

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
  /** Colours of the maps: each channel has its own scale, or all have one. */
  scale: "own" | "common";
  pointed: Cell | null;
}

const indices = page.networks.map((network) => new Map(network.parts.map((part) => [part.id, part])));

/** The part of this id in a network, if it has one. */
export const partOf = (network: number, id: string): Part | undefined => indices[network]?.get(id);

/** The stage that a part belongs to. */
export function stageOf(network: number, id: string): Part | undefined {
  let part = partOf(network, id);
  while (part?.parent) part = partOf(network, part.parent);
  return part;
}

/** The part of this id in the first network that has one. */
const anyPart = (id: string): Part | undefined => indices.find((index) => index.has(id))?.get(id);

/** The last stage that has maps. */
function lastMaps({ parts }: Network): string {
  const stages = parts.filter((part) => part.level === "stage");
  return (stages.filter((part) => part.shape.length === 3).at(-1) ?? stages.at(-1)!).id;
}

const first = lastMaps(page.networks[0]!);

/** Of each network the part that was selected last; it stays in view while one is selected that the network lacks. */
const lastSelected = page.networks.map(lastMaps);

/** Id of the part of a network that is in view. */
export const selectedIn = (network: number): string => (partOf(network, state.selected) ? state.selected : lastSelected[network]!);

let state: State = {
  language: kept("language") ?? page.language,
  selected: first,
  unfolded: new Set(),
  cost: "parameters",
  channel: null,
  scale: "own",
  pointed: null,
};
const listeners = new Set<() => void>();

/** Change part of the state. */
export function set(changes: Partial<State>): void {
  const before = state;
  state = { ...state, ...changes };
  page.networks.forEach((_, network) => (lastSelected[network] = selectedIn(network)));
  if (state.language !== before.language) keep("language", state.language);
  if (state.selected !== before.selected || state.channel !== before.channel) writeAddress(before);
  for (const listener of listeners) listener();
}

export const get = (): State => state;

/** The state, in a component that is drawn again when it changes. */
export const useExploreState = (): State => useChosen((state) => state);

/** What `pick` gives of the state, in a component that is drawn again only when that is another value. */
export function useChosen<T>(pick: (state: State) => T): T {
  const [, redraw] = useState<{ value: T }>({ value: pick(state) });
  useEffect(() => {
    const look = () =>
      redraw((shown) => {
        const value = pick(state);
        return Object.is(shown.value, value) ? shown : { value };
      });
    listeners.add(look);
    look();
    return () => void listeners.delete(look);
  }, []);
  return pick(state);
}

/** Select a part, and unfold all that holds it. */
export function select(id: string, channel: number | null = null): void {
  const unfolded = new Set(state.unfolded);
  for (let parent = anyPart(id)?.parent; parent; parent = anyPart(parent)?.parent) unfolded.add(parent);
  const changed = unfolded.size !== state.unfolded.size;
  set({ selected: id, channel, pointed: null, ...(changed ? { unfolded } : {}) });
}

/** What a panel is given. */
export interface PanelProps {
  view: View;
  network: Network;
  part: Part;
}

/** What a panel of the whole view is given. */
export type OverviewProps = Omit<PanelProps, "part">;

// --- the address holds what is selected: #block/layer1.0, #block/layer1.0:17 (a channel) ------------------------------

function address({ selected, channel }: State): string {
  const id = selected.split("/").map(encodeURIComponent).join("/");
  return `#${id}${channel === null ? "" : `:${channel}`}`;
}

/** Another part is a step of the browser's history, another channel of it is not. */
function writeAddress(before: State): void {
  const next = address(state);
  if (next === location.hash || (location.hash === "" && state.selected === first && state.channel === null)) return;
  if (state.selected !== before.selected) location.hash = next;
  else location.replace(next);
}

function readAddress(): void {
  const [, path, channel] = /^#(.+?)(?::(\d+))?$/.exec(location.hash) ?? [];
  let id = first;
  try {
    id = decodeURIComponent(path ?? first);
  } catch {
    // A broken address is that of the page.
  }
  if (!anyPart(id)) id = first;
  const number = channel === undefined ? null : Number(channel);
  if (id !== state.selected || number !== state.channel) select(id, number);
}

addEventListener("hashchange", readAddress);
readAddress();

// --- what is kept for the next page; a browser may refuse to ----------------------------------------------------------

/** A page that was made in another language has its own choice: `--lang ja` opens in Japanese. */
function key(name: string): string {
  return `vertebra.explore.${name}.${page.language}`;
}

function kept(name: "language"): Language | null {
  try {
    const value = localStorage.getItem(key(name));
    return value === "en" || value === "ja" ? value : null;
  } catch {
    return null;
  }
}

function keep(name: "language", value: string): void {
  try {
    localStorage.setItem(key(name), value);
  } catch {
    // It is forgotten then.
  }
}
