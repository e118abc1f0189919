/** Results as a table, with the columns that `vertebra predict --out FILE.csv` writes. */

import { doneOf, type Item } from "./items";

const SHOWN = 5;

/** RFC 4180. A value that a spreadsheet would read as a formula gets a leading apostrophe. */
function cell(value: string): string {
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function table(items: readonly Item[], model: string, threshold: boolean): string {
  const ranks = [...Array(SHOWN).keys()];
  const head = ["path", ...ranks.flatMap((rank) => [`class_${rank + 1}`, `probability_${rank + 1}`])];
  if (threshold) head.push("unsure");
  const lines = [[...head, "error"]];
  for (const item of items) {
    const outcome = item.outcomes.get(model);
    const result = doneOf(item, model);
    const line = [item.name];
    for (const rank of ranks) {
      const found = result?.predictions[rank];
      line.push(found?.class ?? "", found ? String(Number(found.probability.toPrecision(6))) : "");
    }
    if (threshold) line.push(result ? String(result.unsure ?? "") : "");
    line.push(outcome?.state === "failed" ? outcome.message : result ? "" : "not classified yet");
    lines.push(line);
  }
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

export function save(text: string, name: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
