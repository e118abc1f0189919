/** Thumbnails for the grid, created when a card is near the viewport. Uploads are never resized. */

import type { Item } from "./items";

const WIDTH = 360;
const AT_A_TIME = 2;
/** Maximum number of cached thumbnails; the least recently used are discarded. */
const KEPT = 600;

/** An object URL; null for a file that this browser cannot show. */
type Ready = (url: string | null) => void;

const urls = new Map<number, string | null>();
const waiting = new Map<number, { item: Item; ready: Ready }>();
let working = 0;

export function want(item: Item, ready: Ready): void {
  const url = urls.get(item.id);
  if (url !== undefined) {
    urls.delete(item.id);
    urls.set(item.id, url);
    ready(url);
    return;
  }
  waiting.set(item.id, { item, ready });
  void work();
}

/** Cancel a thumbnail that has not been started; its card is gone or far away. */
export function unwant(item: Item): void {
  waiting.delete(item.id);
}

export function drop(item: Item): void {
  waiting.delete(item.id);
  const url = urls.get(item.id);
  if (url) URL.revokeObjectURL(url);
  urls.delete(item.id);
}

async function work(): Promise<void> {
  if (working >= AT_A_TIME) return;
  working += 1;
  for (let next = waiting.entries().next(); !next.done; next = waiting.entries().next()) {
    const [id, { item, ready }] = next.value;
    waiting.delete(id);
    const url = await shrink(item.file);
    urls.set(id, url);
    ready(url);
    for (const [old, stale] of urls) {
      if (urls.size <= KEPT) break;
      if (stale) URL.revokeObjectURL(stale);
      urls.delete(old);
    }
  }
  working -= 1;
}

async function shrink(file: File): Promise<string | null> {
  try {
    const bitmap = await createImageBitmap(file, { resizeWidth: WIDTH, resizeQuality: "medium" });
    const canvas = document.createElement("canvas");
    // Some browsers do not resize while decoding.
    canvas.width = Math.min(WIDTH, bitmap.width);
    canvas.height = Math.max(1, Math.round((bitmap.height * canvas.width) / bitmap.width));
    canvas.getContext("2d")!.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/webp", 0.8));
    return blob && URL.createObjectURL(blob);
  } catch {
    return null;
  }
}
