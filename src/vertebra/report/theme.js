"use strict";
/* Light, dark, or as the system; the button says which. */
(() => {
const button = document.getElementById("theme");
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const KEY = "vertebra.theme";
let theme = "auto";
try { theme = localStorage.getItem(KEY) || "auto"; } catch { /* a page from a file may have no storage */ }
if (!(theme in NEXT)) theme = "auto";
function setTheme(next) {
  theme = next;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try { localStorage.setItem(KEY, theme); } catch { /* then it is forgotten */ }
  button.setAttribute("aria-label", button.dataset[theme]);
  button.title = button.dataset[theme];
}
setTheme(theme);
button.hidden = false;
button.addEventListener("click", () => setTheme(NEXT[theme]));
})();
