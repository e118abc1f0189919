/** The state of the page and its changes. Views read it and render again when notified. */

import { useLayoutEffect, useState } from "preact/hooks";
import * as api from "./api";
import { type Anatomy, type Card, GoneError, type Heat, type Info, type Model, RefusedError } from "./api";
import { className, counted, percent, whole } from "./format";
import type { Found, Gathered } from "./files";
import { best, doneOf, EVERYTHING, failed, type Item, makeItem, unsure, type View, viewed } from "./items";
import { Queue } from "./queue";
import * as thumbs from "./thumbs";

export type Tab = "photos" | "model";
export type Note = { kind: "tell" | "error"; text: string };

/** A model's card, classes and stages. */
export interface About {
  card: Card;
  classes: string[];
  /** Null if it cannot be read from the file. */
  anatomy: Anatomy | null;
}

/** Maximum number of photos that are classified automatically after a change of model. */
const FEW = 24;
const HEATS_KEPT = 32;
const EXPLAIN_ATTEMPTS = 6;

class Store {
  info: Info | null = null;
  models: Model[] = [];
  model: Model | null = null;
  tab: Tab = location.hash === "#model" ? "model" : "photos";
  items: Item[] = [];
  view: View = EVERYTHING;
  /** The photo whose dialog is open. */
  open: number | null = null;
  camera = false;
  /** The key dialog: shown for the first time, or after a key was refused. */
  lock: "closed" | "ask" | "wrong" = "closed";
  gone = false;
  busy: { seconds: number; message: string } | null = null;
  note: Note | null = null;
  /** The announcement for screen readers. */
  said = "";
  /** Null: not chosen; then it is computed if that takes no longer than a prediction. */
  heat: { wanted: boolean | null; opacity: number } = { wanted: null, opacity: 0.65 };
  readonly about = new Map<string, About | Error>();

  readonly queue = new Queue({
    changed: () => this.changed(),
    limits: () => this.info?.limits ?? { images: 64, bytes: 32e6 },
    locked: () => this.locked(),
    gone: () => this.lost(),
    busy: (seconds, message) => {
      this.busy = seconds ? { seconds, message } : null;
      this.changed();
    },
    finished: () => this.summary(),
  });

  private readonly learning = new Set<string>();
  private readonly listeners = new Set<() => void>();
  private readonly heats = new Map<string, Promise<Heat>>();
  private reconnecting: number | undefined;
  private reconnects = 0;

  changed(): void {
    for (const listener of this.listeners) listener();
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  say(text: string): void {
    // Screen readers only repeat the same text if something changes.
    this.said = text === this.said ? `${text}\u00a0` : text;
    this.changed();
  }

  tell(text: string, kind: Note["kind"] = "tell"): void {
    this.note = { kind, text };
    this.changed();
  }

  set(change: Partial<Pick<Store, "open" | "camera" | "note" | "view" | "heat">>): void {
    Object.assign(this, change);
    this.changed();
  }

  show(tab: Tab): void {
    this.tab = tab;
    history.replaceState(null, "", tab === "model" ? "#model" : "#");
    if (tab === "model") void this.learn();
    this.changed();
  }

  // --- the server -----------------------------------------------------------------------------------------------

  async start(): Promise<void> {
    try {
      this.info = await api.info();
      if (this.info.auth && !api.hasKey()) {
        this.lock = "ask";
        this.changed();
        return;
      }
      await this.listModels();
    } catch (error) {
      this.cannot(error, () => this.start());
    }
  }

  private async listModels(): Promise<void> {
    this.models = await api.models();
    const name = this.model?.name;
    this.model =
      this.models.find((model) => model.name === name) ??
      this.models.find((model) => model.default) ??
      this.models[0] ??
      null;
    this.lock = "closed";
    this.gone = false;
    this.busy = null;
    this.queue.release();
    if (this.tab === "model") void this.learn();
    // Photos added before the model was loaded are all for it.
    if (name === undefined) this.classify(this.unseen);
    else this.enqueueNew();
    this.changed();
  }

  /** An error that is not about one photo. */
  private cannot(error: unknown, again: () => Promise<void>): void {
    if (error instanceof GoneError) this.lost();
    else if (error instanceof RefusedError && error.status === 401) this.locked();
    else if (error instanceof RefusedError && error.status === 503) {
      this.busy = { seconds: error.retryAfter, message: error.message };
      this.changed();
      setTimeout(() => void again(), 1000 * error.retryAfter);
    } else this.tell(error instanceof Error ? error.message : String(error), "error");
  }

  private locked(): void {
    this.queue.hold();
    this.lock = api.hasKey() ? "wrong" : "ask";
    api.setKey(null);
    this.changed();
  }

  async unlock(key: string): Promise<void> {
    api.setKey(key);
    await this.start();
  }

  private lost(): void {
    this.queue.hold();
    this.gone = true;
    // Several requests may fail at the same time.
    if (this.reconnecting !== undefined) return;
    this.reconnecting = window.setTimeout(() => void this.reconnect(), 1000 * Math.min(10, 2 ** this.reconnects));
    this.reconnects += 1;
    this.changed();
  }

  async reconnect(): Promise<void> {
    clearTimeout(this.reconnecting);
    this.reconnecting = undefined;
    if (!(await api.alive())) {
      this.lost();
      return;
    }
    this.reconnects = 0;
    this.gone = false;
    this.say("The server answers again.");
    await this.start();
  }

  // --- models ---------------------------------------------------------------------------------------------------

  choose(name: string): void {
    const model = this.models.find((each) => each.name === name);
    if (!model) return;
    if (model.explain === "occlusion") this.heat = { ...this.heat, wanted: null };
    this.model = model;
    this.view = { ...this.view, className: "", only: "all" };
    this.queue.drop((_, of) => of !== name);
    this.enqueueNew();
    if (this.tab === "model") void this.learn();
    this.say(`Model ${name}.`);
  }

  /** Photos without a result of this model. */
  get unseen(): Item[] {
    const name = this.model?.name;
    return name === undefined ? [] : this.items.filter((item) => !item.outcomes.has(name));
  }

  private enqueueNew(): void {
    const unseen = this.unseen;
    if (unseen.length && unseen.length <= FEW) this.classify(unseen);
  }

  async learn(): Promise<void> {
    const name = this.model?.name;
    if (name === undefined || this.learning.has(name)) return;
    const known = this.about.get(name);
    if (known && !(known instanceof Error)) return;
    this.about.delete(name);
    this.learning.add(name);
    try {
      const [card, classes, anatomy] = await Promise.all([
        api.card(name),
        api.classes(name),
        api.anatomy(name).catch((error) => {
          if (error instanceof RefusedError && error.status !== 401) return null;
          throw error;
        }),
      ]);
      this.about.set(name, { card, classes, anatomy });
    } catch (error) {
      this.about.set(name, error as Error);
      if (!(error instanceof RefusedError) || error.status === 401) this.cannot(error, () => this.learn());
    }
    this.learning.delete(name);
    this.changed();
  }

  // --- photos ---------------------------------------------------------------------------------------------------

  add({ found, leftOut }: Gathered): void {
    const items = found.map(({ file, name }: Found) => makeItem(file, name));
    this.items = [...this.items, ...items];
    const rest = leftOut ? `${counted(leftOut, "file")} that ${leftOut === 1 ? "is no image was" : "are no images were"} left out.` : "";
    this.note = items.length ? (rest ? { kind: "tell", text: rest } : null) : { kind: "error", text: `There was no image in that. ${rest}` };
    if (items.length) {
      if (this.tab !== "photos") this.show("photos");
      this.say(`${counted(items.length, "photo")} added.`);
      this.classify(items);
    }
    this.changed();
  }

  classify(items: readonly Item[]): void {
    if (this.model) this.queue.add(items, this.model.name);
    else this.changed();
  }

  remove(item: Item): void {
    const shown = this.shown;
    const place = shown.indexOf(item);
    const next = shown[place + 1] ?? shown[place - 1];
    this.forget([item]);
    if (this.open === item.id) this.open = next && this.items.length > 1 ? next.id : null;
    this.say(`${item.name} removed.`);
  }

  clear(): void {
    this.forget(this.items);
    this.view = EVERYTHING;
    this.open = null;
    this.note = null;
    this.queue.paused = false;
    this.say("All photos removed.");
  }

  private forget(gone: readonly Item[]): void {
    const ids = new Set(gone.map(({ id }) => id));
    this.queue.drop((item) => ids.has(item.id));
    for (const item of gone) thumbs.drop(item);
    for (const key of this.heats.keys()) if (ids.has(Number(key.split("|", 1)[0]))) this.dropHeat(key);
    this.items = this.items.filter(({ id }) => !ids.has(id));
    // The pressed button may be gone, so the focus moves to the content.
    setTimeout(() => {
      if (document.activeElement === document.body) document.getElementById("content")?.focus();
    }, 100);
  }

  /** Filtered and sorted. */
  get shown(): Item[] {
    return viewed(this.items, this.model?.name ?? "", this.view);
  }

  private summary(): void {
    const name = this.model?.name ?? "";
    const errors = this.items.filter((item) => failed(item, name)).length;
    const doubtful = this.items.filter((item) => unsure(item, name)).length;
    const only = this.items.length === 1 ? this.items[0] : undefined;
    const top = only && best(only, name);
    if (only && top) {
      const doubt = doneOf(only, name)?.unsure ? "unsure; the best is " : "";
      this.say(`${only.name}: ${doubt}${className(top.class)}, ${percent(top.probability)}.`);
    } else if (only && errors) {
      const outcome = only.outcomes.get(name);
      this.say(`${only.name}: ${outcome?.state === "failed" ? outcome.message : ""}`);
    } else if (this.items.length) {
      const parts = [`${whole(this.items.length)} photos done`];
      if (doubtful) parts.push(`${whole(doubtful)} unsure`);
      if (errors) parts.push(counted(errors, "error"));
      this.say(`${parts.join(", ")}.`);
    }
  }

  // --- heat-maps ------------------------------------------------------------------------------------------------

  get heatOn(): boolean {
    return this.heat.wanted ?? this.model?.explain === "activation";
  }

  /** The heat-map of a class, cached so that going back and forth requests it once. */
  explain(item: Item, index: number, layer: "heat" | "overlay"): Promise<Heat> {
    const name = this.model?.name ?? "";
    const key = `${item.id}|${name}|${index}|${layer}`;
    let found = this.heats.get(key);
    if (found) this.heats.delete(key);
    else {
      found = this.explained(name, item, index, layer);
      found.catch(() => this.heats.delete(key));
    }
    this.heats.set(key, found);
    for (const old of this.heats.keys()) {
      if (this.heats.size <= HEATS_KEPT) break;
      this.dropHeat(old);
    }
    return found;
  }

  private async explained(model: string, item: Item, index: number, layer: string): Promise<Heat> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await api.explain(model, item.file, item.name, index, layer);
      } catch (error) {
        if (error instanceof GoneError && !(await api.alive())) this.lost();
        if (error instanceof RefusedError && error.status === 401) this.locked();
        if (!(error instanceof RefusedError) || error.status !== 503 || attempt === EXPLAIN_ATTEMPTS) throw error;
        await new Promise((done) => setTimeout(done, 1000 * error.retryAfter));
      }
    }
  }

  private dropHeat(key: string): void {
    this.heats.get(key)?.then(({ url }) => URL.revokeObjectURL(url), () => undefined);
    this.heats.delete(key);
  }
}

export const store = new Store();

/** Render this view after every change. */
export function useStore(): Store {
  const [, draw] = useState(0);
  useLayoutEffect(() => store.subscribe(() => draw((count) => count + 1)), []);
  return store;
}
