/** The program that `docs/make_figures.py` runs: figures as JSON on its standard input, SVG files as JSON on its output. */

import { readFileSync } from "node:fs";
import type { Language } from "./document";
import { figureSvg, type Panel } from "./figure_svg";
import { provideTexts, type Texts } from "./texts";

interface Request {
  texts: Texts;
  /** By name: the title, which is not seen, and panels from left to right. */
  figures: Record<string, { title: string; panels: Panel[] }>;
}

const LANGUAGES: Language[] = ["en", "ja"];

const { texts, figures } = JSON.parse(readFileSync(0, "utf8")) as Request;
let language: Language = "en";
provideTexts(texts, () => language);
const files: Record<string, string> = {};
for (const [name, { title, panels }] of Object.entries(figures)) {
  for (language of LANGUAGES) {
    try {
      files[`${name}${language === "en" ? "" : `.${language}`}.svg`] = figureSvg(title, panels, language);
    } catch (error) {
      throw new Error(`figure ${name} in ${language}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}
process.stdout.write(JSON.stringify(files));
