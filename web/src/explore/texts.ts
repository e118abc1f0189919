/** The texts by key, in the language that they are read in: of the page, or of a figure that is written to a file. */

import type { Language } from "./document";

export type Texts = Record<Language, Record<string, string>>;

let texts: Texts = { en: {}, ja: {} };
let language: () => Language = () => "en";

/** The texts of all languages, and which of these is asked for now. */
export function provideTexts(all: Texts, now: () => Language): void {
  texts = all;
  language = now;
}

/** A text in the chosen language, with its values put in. */
export function t(key: string, values: Record<string, string | number> = {}): string {
  const text = texts[language()][key] ?? texts.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

/** Whether there is such a text. */
export const hasText = (key: string): boolean => key in texts.en;
