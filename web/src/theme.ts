/** The colour theme: light, dark or the system's. */

export type Theme = "auto" | "light" | "dark";

const KEY = "vertebra.theme";
let chosen: Theme = "auto";
const dark = matchMedia("(prefers-color-scheme: dark)");

export function theme(): Theme {
  const kept = stored();
  return kept === "light" || kept === "dark" ? kept : "auto";
}

export function setTheme(next: Theme): void {
  try {
    if (next === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
  } catch {
    chosen = next;
  }
  apply();
}

/** A browser may refuse to keep anything; the choice then lasts as long as the page. */
function stored(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return chosen;
  }
}

export function apply(): void {
  const now = theme();
  document.documentElement.dataset["theme"] = now === "auto" ? (dark.matches ? "dark" : "light") : now;
}

dark.addEventListener("change", apply);
