/** Sends photos in a few concurrent requests, and retries while the server is busy or unreachable. */

import { alive, GoneError, predict, RefusedError } from "./api";
import { bytes } from "./format";
import { settle, type Item, type Outcome } from "./items";

const REQUESTS = 3;
const MAX_IMAGES = 8;
/** Limit of one request, which a slow connection must send before the server's timeout. */
const MAX_BYTES = 6e6;
/** Bytes of a multipart body besides the files. */
const OVERHEAD = 2_000;
const ATTEMPTS = 10;
const WINDOW_MS = 10_000;

interface Job {
  item: Item;
  model: string;
  attempts: number;
  /** Sent in a request of its own, since it may have caused the failure of a shared one. */
  alone: boolean;
}

export interface Host {
  changed(): void;
  limits(): { images: number; bytes: number };
  /** The server requires a key, or refused the given one. */
  locked(): void;
  /** The server is unreachable. */
  gone(): void;
  /** The server is busy: seconds until the next request; 0 when it may be sent. */
  busy(seconds: number, message: string): void;
  finished(total: number): void;
}

export class Queue {
  paused = false;
  /** Counts of this run, which starts when photos are added to an empty queue. */
  done = 0;
  total = 0;

  private waiting: Job[] = [];
  private sending = new Set<Job>();
  private requests = 0;
  private size = MAX_IMAGES;
  private held = false;
  private timer = 0;
  private ticks: [number, number][] = [];

  constructor(private readonly host: Host) {}

  get idle(): boolean {
    return !this.waiting.length && !this.requests;
  }

  get left(): number {
    return this.waiting.length + this.sending.size;
  }

  /** Recent photos per second; null if it is not known yet. */
  get rate(): number | null {
    const first = this.ticks[0];
    const last = this.ticks.at(-1);
    if (!first || !last || last[0] - first[0] < 500) return null;
    return (1000 * (last[1] - first[1])) / (last[0] - first[0]);
  }

  add(items: readonly Item[], model: string): void {
    if (this.idle) {
      this.done = 0;
      this.total = 0;
      this.ticks = [[performance.now(), 0]];
    }
    const most = this.host.limits().bytes;
    for (const item of items) {
      this.total += 1;
      if (item.file.size + OVERHEAD > most) {
        const message = `It has ${bytes(item.file.size)}; this server takes at most ${bytes(most)}. Save it smaller.`;
        this.end(item, model, { state: "failed", message, again: false });
      } else {
        settle(item, model, { state: "waiting" });
        this.waiting.push({ item, model, attempts: 0, alone: false });
      }
    }
    if (this.idle && items.length) this.host.finished(this.total);
    this.pump();
  }

  /** Remove queued photos: these, or those for other models. */
  drop(unwanted: (item: Item, model: string) => boolean): void {
    const before = this.waiting.length;
    this.waiting = this.waiting.filter(({ item, model }) => {
      if (!unwanted(item, model)) return true;
      item.outcomes.delete(model);
      item.version += 1;
      return false;
    });
    this.total -= before - this.waiting.length;
    this.host.changed();
  }

  pause(paused: boolean): void {
    this.paused = paused;
    this.ticks = [[performance.now(), this.done]];
    this.host.changed();
    this.pump();
  }

  /** Send nothing until `release`: the server is unreachable or requires a key. */
  hold(): void {
    this.held = true;
  }

  release(): void {
    this.held = false;
    this.ticks = [[performance.now(), this.done]];
    this.pump();
  }

  private pump(): void {
    while (!this.paused && !this.held && !this.timer && this.requests < REQUESTS && this.waiting.length) {
      void this.send(this.take());
    }
    this.host.changed();
  }

  private take(): Job[] {
    const first = this.waiting[0]!;
    const limits = this.host.limits();
    const most = first.alone ? 1 : Math.min(this.size, limits.images);
    let size = OVERHEAD;
    let count = 0;
    for (const job of this.waiting) {
      size += job.item.file.size + OVERHEAD;
      const fits = count === 0 || size <= Math.min(MAX_BYTES, limits.bytes);
      if (count === most || !fits || job.model !== first.model || (job.alone && count)) break;
      count += 1;
    }
    return this.waiting.splice(0, count);
  }

  private async send(batch: Job[]): Promise<void> {
    this.requests += 1;
    for (const job of batch) {
      this.sending.add(job);
      settle(job.item, job.model, { state: "sending" });
    }
    try {
      const results = await predict(batch[0]!.model, batch.map(({ item }) => item));
      batch.forEach(({ item, model }, index) => {
        const result = results[index];
        if (result && result.error === null) this.end(item, model, { state: "done", result });
        else this.end(item, model, { state: "failed", message: plain(result?.error ?? "The server left it out.", item), again: false });
      });
      this.size = Math.min(MAX_IMAGES, this.size + 1);
    } catch (error) {
      await this.trouble(error, batch);
    } finally {
      this.requests -= 1;
      for (const job of batch) this.sending.delete(job);
      if (this.idle) this.host.finished(this.total);
      this.pump();
    }
  }

  private end(item: Item, model: string, outcome: Outcome): void {
    settle(item, model, outcome);
    this.done += 1;
    const now = performance.now();
    this.ticks.push([now, this.done]);
    while (this.ticks.length > 2 && now - this.ticks[0]![0] > WINDOW_MS) this.ticks.shift();
  }

  private async trouble(error: unknown, batch: Job[]): Promise<void> {
    if (error instanceof GoneError) {
      if (await alive()) await this.brokenOff(batch);
      else {
        this.again(batch);
        this.held = true;
        this.host.gone();
      }
      return;
    }
    if (!(error instanceof RefusedError)) throw error;
    if (error.status === 401) {
      this.again(batch);
      this.held = true;
      this.host.locked();
    } else if (error.status === 503 || error.status === 408 || error.status === 429) {
      this.size = Math.max(1, this.size >> 1);
      this.retry(batch, error.message);
      this.wait(error.retryAfter, error.message);
    } else if (batch.length > 1) {
      this.again(batch.map((job) => Object.assign(job, { alone: true })));
    } else {
      for (const { item, model } of batch) {
        this.end(item, model, { state: "failed", message: error.message, again: error.status >= 500 });
      }
    }
  }

  /** The server is reachable but did not respond: for example, a file can no longer be read. */
  private async brokenOff(batch: Job[]): Promise<void> {
    const readable: Job[] = [];
    for (const job of batch) {
      try {
        await job.item.file.slice(0, 1).arrayBuffer();
        readable.push(job);
      } catch {
        const message = "It cannot be read any more: it was moved, changed or deleted after you chose it.";
        this.end(job.item, job.model, { state: "failed", message, again: false });
      }
    }
    this.retry(readable, "The connection broke off again and again.");
    this.wait(1, "The connection broke off.");
  }

  private retry(batch: Job[], message: string): void {
    for (const job of batch) job.attempts += 1;
    for (const { item, model } of batch.filter((job) => job.attempts >= ATTEMPTS)) {
      this.end(item, model, { state: "failed", message, again: true });
    }
    this.again(batch.filter((job) => job.attempts < ATTEMPTS));
  }

  private again(batch: Job[]): void {
    for (const { item, model } of batch) settle(item, model, { state: "waiting" });
    this.waiting.unshift(...batch);
  }

  private wait(seconds: number, message: string): void {
    clearTimeout(this.timer);
    this.host.busy(seconds, message);
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      this.host.busy(0, "");
      this.pump();
    }, 1000 * seconds);
  }
}

/** Remove the photo's name from an error, since the page shows it next to the name. */
function plain(message: string, item: Item): string {
  const name = item.name.slice(item.name.lastIndexOf("/") + 1);
  const rest = message.startsWith(`${name} `) ? `It ${message.slice(name.length + 1)}` : message;
  return /[.!?)]$/.test(rest) ? rest : `${rest}.`;
}
