/** What the page shows: the document, and what is chosen. */

import type { Document } from "./document";

function json<T>(id: string): T {
  return JSON.parse(document.getElementById(id)!.textContent!) as T;
}

export const page = json<Document>("document");
export const texts = json<Record<string, Record<string, string>>>("texts");
