"use strict";
/* What is done on a page that Vertebra wrote. Texts go in as text, never as markup; nothing is asked for from elsewhere
   but, when one photo is opened, that photo's own file. */
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const drawn = (tag, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const whole = (value) => value.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const counted = (count, what = "photo") => `${whole(count)} ${what}${count === 1 ? "" : "s"}`;
const isolated = (text) => make("bdi", {}, text);

// --- pictures: their small copies are in the page, once each
function picture(key, alt) {
  const found = key === null || key === undefined ? null : D.pictures[key];
  if (!found) return null;
  const [address, width, height, complete] = found;
  const image = make("img", { src: address, width, height, alt, decoding: "async" });
  if (complete) image.className = "pixels";
  return image;
}
function fill(frame, key) {
  frame.replaceChildren(picture(key, "") || (key === undefined || key === null ? "photo" : "cannot be read"));
}
for (const shot of document.querySelectorAll(".shot")) {
  fill(shot.firstElementChild, shot.dataset.picture);
  shot.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const all = [...shot.parentElement.querySelectorAll(":scope > .shot")];
    view(all.map((each) => ({ name: each.dataset.name, text: [each.dataset.text], link: each.getAttribute("href"), key: each.dataset.picture })), all.indexOf(shot));
  });
}

// --- one photo, large
const viewer = $("viewer"), photo = $("viewer-photo");
let items = [], at = 0;
function view(list, index) {
  items = list;
  show(index);
  if (!viewer.open) viewer.showModal();
  $("viewer-title").focus();
}
function show(index) {
  at = (index + items.length) % items.length;
  const { name, text, link, key } = items[at];
  $("viewer-title").replaceChildren(isolated(name));
  $("viewer-text").replaceChildren(...text);
  const hasFile = link !== "#";  // as thumbnails.py's NO_FILE
  $("viewer-link").href = link;
  $("viewer-link").hidden = !hasFile;
  $("viewer-link").textContent = "Open the file";
  for (const id of ["viewer-back", "viewer-next"]) $(id).hidden = items.length < 2;
  const small = key === null || key === undefined ? null : D.pictures[key];
  const complete = Boolean(small && small[3]);
  photo.alt = name;
  photo.className = complete ? "pixels" : "";
  photo.onerror = () => {
    photo.onerror = null;
    if (small) photo.src = small[0];
    else photo.removeAttribute("src");
  };
  // A small photo is whole in the page. Of the others its file is shown, where it is still there and of a kind that
  // browsers show.
  if (complete || (small && !hasFile)) photo.src = small[0];
  else if (hasFile) photo.src = link;
  else photo.removeAttribute("src");
}
$("viewer-close").addEventListener("click", () => viewer.close());
$("viewer-back").addEventListener("click", () => show(at - 1));
$("viewer-next").addEventListener("click", () => show(at + 1));
viewer.addEventListener("close", () => photo.removeAttribute("src"));
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && items.length > 1) { event.preventDefault(); show(at + step); }
});

// --- a short text beside what the pointer or the focus is on
const tip = $("tip");
let told = null;
function tell(target, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  told = target;
  beside();
}
function beside() {
  if (!told) return;
  const box = told.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(box.left + box.width / 2 - own.width / 2, room - own.width - 4))}px`;
  tip.style.top = `${box.bottom + 8 + own.height < innerHeight ? box.bottom + 8 : Math.max(4, box.top - own.height - 8)}px`;
}
const hush = () => {
  tip.hidden = true;
  told = null;
};
addEventListener("scroll", beside, { passive: true, capture: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });

// --- tables that can be sorted
for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], given = [...body.rows];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const numbers = given.every((row) => row.cells[column].dataset.value !== undefined);
      const first = numbers ? "descending" : "ascending";
      const turned = head.getAttribute("aria-sort") === first;
      const direction = turned ? (first === "ascending" ? "descending" : "ascending") : first;
      const sign = direction === "ascending" ? 1 : -1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      const compare = numbers ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
      body.replaceChildren(...[...given].sort((a, b) => sign * compare(a, b)));
    });
  });
}

if (!D.held) return;

// --- photos that were held out, by their numbers in the page
const { names, root, shown, links, truth, predicted, confidence, own, keys } = D.held;
const total = truth.length;
const address = (i) => links[i] ?? root + shown[i].split("/").map(encodeURIComponent).join("/");
const baseName = (path) => path.slice(path.lastIndexOf("/") + 1);
const item = (i) => ({
  name: shown[i],
  link: address(i),
  key: keys[i],
  text: truth[i] === predicted[i]
    ? ["Predicted rightly: ", isolated(names[truth[i]]), `, confidence ${percent(confidence[i])}.`]
    : ["Labelled ", isolated(names[truth[i]]), ", predicted ", isolated(names[predicted[i]]),
      ` with confidence ${percent(confidence[i])}; the label has ${percent(own[i] ?? 0)}.`],
});
const PART = innerWidth < 640 ? 12 : 24;
/** Photos as small copies, where the page has them, and as names that lead to their files. */
function gallery(place, indices, describe) {
  const listed = indices.filter((i) => i < shown.length);
  const withCopy = listed.filter((i) => keys[i] !== undefined), others = listed.filter((i) => keys[i] === undefined);
  const all = [...withCopy, ...others].map(item);
  const grid = make("div", { class: "shots" }), files = make("ul", { class: "files" });
  const open = (event, position) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    view(all, position);
  };
  let grown = 0, filed = 0;
  const more = make("button", { type: "button", class: "button small" });
  const grow = () => {
    for (const i of withCopy.slice(grown, grown + PART)) {
      const position = grown++;
      const frame = make("span", { class: "frame" });
      fill(frame, keys[i]);
      const shot = make("a", { class: "shot", href: address(i) }, frame,
        make("span", { class: "words" }, make("span", { class: "name" }, baseName(shown[i])), make("span", { class: "soft" }, ...describe(i))));
      shot.addEventListener("click", (event) => open(event, position));
      grid.append(shot);
    }
    if (grown === withCopy.length) {
      const until = filed + 4 * PART;
      for (; filed < others.length && filed < until; filed++) {
        const position = withCopy.length + filed, i = others[filed];
        const link = make("a", { href: address(i) }, isolated(shown[i]));
        link.addEventListener("click", (event) => open(event, position));
        files.append(make("li", {}, link));
      }
    }
    const left = listed.length - grown - filed;
    more.hidden = left === 0;
    more.textContent = `Show more: ${counted(left)}`;
  };
  grow();
  more.addEventListener("click", () => {
    const before = grown, beforeFiles = filed;
    grow();
    (grid.children[before] ?? files.children[beforeFiles]?.firstElementChild ?? place).focus();
  });
  const box = make("div", { class: "gallery" }, grid, files, more);
  if (!withCopy.length) grid.remove();
  if (!others.length) files.remove();
  if (listed.length < indices.length) box.append(make("p", { class: "soft small" }, `and ${counted(indices.length - listed.length)} more, which this page does not name`));
  place.replaceChildren(box);
}
const pair = (i) => truth[i] === predicted[i]
  ? [isolated(names[truth[i]]), ` · ${percent(confidence[i])}`]
  : [isolated(names[truth[i]]), " → ", isolated(names[predicted[i]]), ` · ${percent(confidence[i])}`];

gallery($("other-errors"), D.held.others, pair);

// --- the threshold
const byConfidence = [...truth.keys()].sort((a, b) => confidence[b] - confidence[a]);
const slider = $("slider"), exact = $("slider-number"), chart = $("chart-coverage"), mark = $("here-coverage");
let wait = 0;
function tryThreshold(value) {
  // So many of the most confident photos are answered: those whose confidence is no lower.
  let answered = 0, high = total;
  while (answered < high) {
    const middle = (answered + high) >> 1;
    if (confidence[byConfidence[middle]] >= value) answered = middle + 1; else high = middle;
  }
  const wrong = byConfidence.slice(0, answered).filter((i) => truth[i] !== predicted[i]).length;
  const refused = byConfidence.slice(answered);
  const lost = refused.filter((i) => truth[i] === predicted[i]).length;
  const share = answered / total;
  $("try-coverage").replaceChildren(percent(share), make("small", {}, `${whole(answered)} of ${counted(total)}`));
  $("try-precision").replaceChildren(answered ? percent((answered - wrong) / answered) : "–", make("small", {}, `${whole(answered - wrong)} right of ${whole(answered)}`));
  $("try-refused").replaceChildren(whole(total - answered), make("small", {}, `${whole(lost)} right, ${counted(refused.length - lost, "error")}`));
  $("try-wrong").replaceChildren(whole(wrong), make("small", {}, `of ${counted(D.held.wrong, "error")}`));
  $("refused-title").textContent = refused.length ? `Photos that would be refused: ${whole(refused.length)}, the most confident first` : "No photo would be refused";
  gallery($("refused"), refused, pair);
  const { left, right, low, high: end } = chart.dataset;
  const x = +left + (share - low) / (end - low) * (right - left);
  mark.setAttribute("x1", x);
  mark.setAttribute("x2", x);
  mark.setAttribute("visibility", "visible");
}
const set = (value) => {
  slider.value = value;
  exact.value = String(Math.round(value * 1e4) / 1e4);
  tryThreshold(value);
};
slider.addEventListener("input", () => {
  exact.value = slider.value;
  cancelAnimationFrame(wait);
  wait = requestAnimationFrame(() => tryThreshold(+slider.value));
});
exact.addEventListener("input", () => {
  if (exact.value === "" || !exact.validity.valid && !(+exact.value >= 0 && +exact.value <= 1)) return;
  slider.value = exact.value;
  tryThreshold(+exact.value);
});
if (D.held.threshold !== null) {
  $("slider-own").textContent = `Back to the exported threshold, ${D.held.threshold.toFixed(3)}`;
  $("slider-own").hidden = false;
  $("slider-own").addEventListener("click", () => set(D.held.threshold));
}
set(D.held.threshold ?? 0);
$("threshold").hidden = false;

// --- the confusion matrix
const matrix = $("matrix"), room = $("matrix-room"), order = $("matrix-order"), onlyWrong = $("matrix-wrong");
const cells = new Map(D.held.matrix.map(([true_, guess, count]) => [true_ * names.length + guess, count]));
const count = (true_, guess) => cells.get(true_ * names.length + guess) ?? 0;
const ofClass = names.map(() => 0), errors = names.map(() => 0);
for (const [true_, guess, photos] of D.held.matrix) {
  ofClass[true_] += photos;
  if (true_ !== guess) { errors[true_] += photos; errors[guess] += photos; }
}
const ORDERS = {
  name: [...names.keys()].sort((a, b) => names[a].localeCompare(names[b], "en", { numeric: true })),
  errors: [...names.keys()].sort((a, b) => errors[b] - errors[a] || a - b),
  clustered: D.held.clustered,
};
// As many as can be read: of more classes, those with the most errors.
const MOST = 200, among = new Set(ORDERS.errors.slice(0, MOST));
const canvas = document.createElement("canvas").getContext("2d");
function cut(text, most, font) {
  canvas.font = font;
  if (canvas.measureText(text).width <= most) return text;
  const letters = [...text];
  while (letters.length > 1 && canvas.measureText(`${letters.join("")}…`).width > most) letters.pop();
  return `${letters.join("")}…`;
}
let side = 0;  // pixels of a cell; 0: as they fit
let chosen = null;
function fitting(classes, labels) {
  const free = room.clientWidth - labels - 12;
  return Math.max(classes > 30 ? 12 : 24, Math.min(classes > 60 ? 14 : classes > 4 ? 46 : 72, Math.floor(free / classes)));
}
function draw() {
  const list = ORDERS[order.value].filter((c) => (!onlyWrong.checked || errors[c]) && among.has(c));
  const narrow = room.clientWidth < 600, most = narrow ? 92 : 150;
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  canvas.font = font;
  const label = Math.min(most, Math.ceil(Math.max(0, ...list.map((c) => canvas.measureText(names[c]).width)))) + 12;
  const cell = side || fitting(list.length, label + 18);
  const size = cell * list.length, short = list.map((c) => cut(names[c], label - 12, font));
  const place = new Map(list.map((c, position) => [c, position]));
  const middle = (position) => position * cell + cell / 2;
  const titled = (element, text) => { element.append(drawn("title", {}, text)); return element; };
  const left = drawn("svg", { class: "side", width: label + 18, height: size, "aria-hidden": "true" },
    drawn("text", { class: "axis-name", transform: `translate(12 ${Math.min(size / 2, 160)}) rotate(-90)`, "text-anchor": "middle" }, "true class"));
  const top = drawn("svg", { class: "top", width: size, height: label + 18, "aria-hidden": "true" },
    drawn("text", { class: "axis-name", x: Math.min(size / 2, 160), y: 13, "text-anchor": "middle" }, "predicted class"));
  const rows = list.map((c, i) => titled(drawn("text", { x: label + 12, y: middle(i) + 4, "text-anchor": "end", "font-size": 11 }, short[i]), names[c]));
  const columns = list.map((c, i) => titled(drawn("text", { transform: `translate(${middle(i) + 4} ${label + 12}) rotate(-90)`, "font-size": 11 }, short[i]), names[c]));
  left.append(...rows);
  top.append(...columns);
  const body = drawn("svg", { width: size, height: size, role: "group", "aria-label": "Cells with photos" },
    drawn("rect", { class: "grid-bg", width: size, height: size }));
  let lines = "";
  for (let i = 1; i < list.length; i++) lines += `M0 ${i * cell}H${size}M${i * cell} 0V${size}`;
  body.append(drawn("path", { class: "grid-lines", d: lines }));
  const at = new Map();
  const text = (true_, guess) => {
    const photos = count(true_, guess), share = photos / ofClass[true_];
    return [isolated(names[true_]), true_ === guess ? " predicted rightly: " : " predicted as ", ...(true_ === guess ? [] : [isolated(names[guess]), ": "]), `${counted(photos)}, ${percent(share)} of ${whole(ofClass[true_])}`];
  };
  for (const [true_, guess, photos] of D.held.matrix) {
    const row = place.get(true_), column = place.get(guess);
    if (row === undefined || column === undefined) continue;
    const share = photos / ofClass[true_], strength = 0.18 + 0.82 * Math.sqrt(share);
    const right = true_ === guess;
    const mine = drawn("g", {
      class: `cell${right ? " right" : ""}${strength > 0.6 ? " full" : ""}`, role: "button", tabindex: -1,
      "aria-label": `${names[true_]} predicted as ${names[guess]}: ${counted(photos)}`,
    }, drawn("rect", { x: column * cell + 0.5, y: row * cell + 0.5, width: cell - 1, height: cell - 1, "fill-opacity": strength.toFixed(2) }));
    if (cell >= 22) mine.append(drawn("text", { x: middle(column), y: middle(row) + 4, "font-size": photos > 999 ? 9 : 12 }, String(photos)));
    const enter = () => {
      tell(mine, ...text(true_, guess));
      rows[row].classList.add("current");
      columns[column].classList.add("current");
    };
    const leave = () => {
      hush();
      rows[row].classList.remove("current");
      columns[column].classList.remove("current");
    };
    mine.addEventListener("pointerenter", enter);
    mine.addEventListener("pointerleave", leave);
    mine.addEventListener("focus", enter);
    mine.addEventListener("blur", leave);
    mine.addEventListener("click", () => choose(true_, guess));
    at.set(row * list.length + column, mine);
    mine.place = [row, column];
    if (chosen && chosen[0] === true_ && chosen[1] === guess) mine.classList.add("chosen");
    mine.identity = [true_, guess];
    body.append(mine);
  }
  const first = [...at.entries()].sort((a, b) => a[0] - b[0])[0];
  if (first) first[1].setAttribute("tabindex", 0);
  body.addEventListener("keydown", (event) => {
    const now = document.activeElement;
    if (!now?.place) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(...now.identity);
      return;
    }
    const [down, across] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!down && !across) return;
    event.preventDefault();
    let [row, column] = now.place;
    for (;;) {
      row += down;
      column += across;
      if (row < 0 || column < 0 || row >= list.length || column >= list.length) return;
      const next = at.get(row * list.length + column);
      if (!next) continue;
      now.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
      return;
    }
  });
  const corner = drawn("svg", { class: "corner", width: label + 18, height: label + 18, "aria-hidden": "true" });
  matrix.replaceChildren(corner, top, left, body);
  matrix.dataset.cell = cell;
}
function choose(true_, guess) {
  chosen = [true_, guess];
  for (const cell of matrix.querySelectorAll(".cell")) cell.classList.toggle("chosen", cell.identity[0] === true_ && cell.identity[1] === guess);
  const found = byConfidence.filter((i) => truth[i] === true_ && predicted[i] === guess);
  const title = true_ === guess
    ? ["Right: ", isolated(names[true_]), `, ${counted(found.length)}`]
    : ["True class ", isolated(names[true_]), ", predicted ", isolated(names[guess]), `: ${counted(found.length)}`];
  const photos = make("div");
  $("cell").replaceChildren(make("h3", { tabindex: -1 }, ...title), photos);
  gallery(photos, found, (i) => [percent(confidence[i])]);
}
function resize(factor) {
  const now = side || +matrix.dataset.cell;
  side = Math.max(8, Math.min(64, Math.round(now * factor)));
  draw();
}
order.value = names.length > 12 ? "clustered" : "name";
order.addEventListener("change", draw);
onlyWrong.addEventListener("change", () => { side = 0; draw(); });
$("matrix-smaller").addEventListener("click", () => resize(0.8));
$("matrix-larger").addEventListener("click", () => resize(1.25));
let width = 0;
new ResizeObserver(() => {
  // Not where only its height has changed: drawing it does that.
  if (room.clientWidth === width) return;
  width = room.clientWidth;
  draw();
}).observe(room);
draw();
width = room.clientWidth;
if (names.length > MOST) $("matrix-tools").append(make("span", { class: "soft small" }, `the ${MOST} classes with the most errors, of ${whole(names.length)}`));
const worst = D.held.matrix.filter(([true_, guess]) => true_ !== guess).sort((a, b) => b[2] - a[2])[0];
if (worst) choose(worst[0], worst[1]);
$("matrix-tools").hidden = false;
const confused = $("confused");
for (const row of confused ? confused.tBodies[0].rows : []) {
  const cell = row.cells[2], button = make("button", { type: "button", class: "link", "aria-label": `${cell.textContent}: show the photos` }, cell.textContent);
  cell.replaceChildren(button);
  button.addEventListener("click", () => {
    choose(+row.dataset.true, +row.dataset.predicted);
    $("cell").scrollIntoView({ block: "center" });
    $("cell").firstElementChild.focus();
  });
}
})();
