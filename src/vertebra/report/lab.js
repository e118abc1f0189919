"use strict";
/* Filters of the table of verdicts, and one experiment at a time: by links, buttons and arrow keys. Without this script
   all experiments stand below the table. */
(() => {
const $ = (id) => document.getElementById(id);
const sections = [...document.querySelectorAll(".experiment")];
const rows = [...$("verdict-table").tBodies[0].rows];
const verdict = $("by-verdict"), family = $("by-family");
const title = document.title;
let current = null;

// --- filters
function filter() {
  for (const row of rows) {
    const fits = (!verdict.value || row.dataset.verdict === verdict.value) && (!family.value || row.dataset.family === family.value);
    row.hidden = !fits;
  }
  const count = rows.filter((row) => !row.hidden).length;
  $("shown").textContent = $("shown").dataset.text.replace("{0}", count).replace("{1}", rows.length);
  link();
}
/* The experiments that the filters leave, and always the one that is shown. */
const leafed = () => rows
  .filter((row) => row.dataset.name && (!row.hidden || row.dataset.name === current?.id))
  .map((row) => row.dataset.name);

// --- one at a time
function neighbour(step) {
  const names = leafed();
  const at = current ? names.indexOf(current.id) : -1;
  return names[current ? at + step : step > 0 ? 0 : -1];
}
function link() {
  if (!current) return;
  for (const [rel, step] of [["prev", -1], ["next", 1]]) {
    const anchor = current.querySelector(`a[rel="${rel}"]`), name = neighbour(step);
    if (!anchor) continue;
    anchor.hidden = !name;
    if (!name) continue;
    anchor.href = `#${name}`;
    anchor.setAttribute("aria-label", `${anchor.textContent.replace(/[←→]/g, "").trim()}: ${name}`);
  }
}
function show(moved) {
  const name = decodeURIComponent(location.hash.slice(1));
  current = sections.find((section) => section.id === name) || null;
  for (const section of sections) section.hidden = section !== current;
  for (const part of document.querySelectorAll(".overview")) part.hidden = current !== null;
  document.title = current ? `${current.id} · ${title}` : title;
  link();
  if (!moved) return;
  scrollTo(0, 0);
  (current ? current.querySelector("h2") : $("h-verdicts")).focus({ preventScroll: true });
}
addEventListener("hashchange", () => show(true));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.target.closest?.("select, input, textarea, .scroll, pre")) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const name = step && (current || step > 0) ? neighbour(step) : null;
  if (name) { event.preventDefault(); location.hash = name; }
  else if (event.key === "Escape" && current) location.hash = "verdicts";
});
verdict.addEventListener("change", filter);
family.addEventListener("change", filter);
$("filters").hidden = false;
filter();
show(location.hash.length > 1);
})();
