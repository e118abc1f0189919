/** The figure as an SVG file for print and for the web: the same boxes, arrows and texts as on the page.
 *
 * It needs nothing else: its colours follow the reader's light or dark scheme on a ground of their own, and its fonts are
 * those of the system. Networks that are compared stand side by side.
 */

import { percent } from "../format";
import type { Cost, Language, Network, Part } from "./document";
import { type Box, type Drawing, layout } from "./figure_layout";
import { arrowOf, bandPath } from "./figure_lines";
import { t } from "./texts";
import { channelsText, figureTexts, heatOf, highestShare, kindText, roleText, saidText, shareText, signOf, totalText } from "./words";

/** A network, or one part of it as a network, as it is drawn. */
export interface Panel {
  network: Network;
  unfolded: readonly string[];
  cost: Cost | null;
  /** Whether the operations of a layer stand in its box: "1×1 conv → batch normalisation → ReLU". */
  operations: boolean;
  /** The least width, in the unit of `WIDTH`. */
  width: number;
}

/** Of the file: that of a page's column in pixels, so that letters have about the size of the text. */
const WIDTH = 700;
const MARGIN = 10;
const BETWEEN = 28;
const END = { width: 150, height: 28 };
const LEGEND = 52;
const PAD = 11;
const SPACE = 7;
const SMALLEST = 10.5;

const FONTS = `system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Hiragino Sans","Noto Sans JP","Noto Sans CJK JP","Yu Gothic",Meiryo,IPAexGothic,sans-serif`;

// Plain properties: programs that convert SVG know no variables of CSS.
const STYLE = `
text{font-family:${FONTS};fill:#1d1c1a}
.ground{fill:#fff}
.box{fill:#fff;stroke:#8a857b}
.hot{fill:#0f6b61}
.frame{fill:none;stroke:#8a857b}
.head{fill:#efede8}
.end{fill:none;stroke:#8a857b;stroke-dasharray:4 3}
.soft{fill:#504c45}
.line{fill:none;stroke:#6f6a61;stroke-width:1.4}
.shortcut{stroke:#0f6b61;stroke-width:2}
.tip{stroke-linejoin:round;stroke-linecap:round}
.band{fill:#9fc7c3}
@media (prefers-color-scheme:dark){
text{fill:#ecedeb}
.ground,.box{fill:#1b1d1c}
.box,.frame,.end{stroke:#7d8481}
.hot{fill:#479185}
.head{fill:#2a2e2c}
.soft{fill:#b6bcb8}
.line{stroke:#949b98}
.shortcut{stroke:#5cc9b9}
.band{fill:#346058}
}
`;

/** Panels side by side, from left to right.
 *
 * Throws an error where a text does not fit its box.
 */
export function figureSvg(title: string, panels: readonly Panel[], language: Language): string {
  const drawn = panels.map((panel) => new Drawn(panel));
  const inner = drawn.reduce((sum, { drawing }) => sum + drawing.width, BETWEEN * (drawn.length - 1));
  const width = Math.max(WIDTH, inner + 2 * MARGIN);
  const height = Math.max(...drawn.map((each) => each.height)) + 2 * MARGIN;
  let x = (width - inner) / 2;
  const groups = drawn.map((each) => {
    const group = element("g", { transform: `translate(${round(x)} ${MARGIN})` }, ...each.elements());
    x += each.drawing.width + BETWEEN;
    return group;
  });
  const svg = element(
    "svg",
    { xmlns: "http://www.w3.org/2000/svg", "xml:lang": language, viewBox: `0 0 ${round(width)} ${round(height)}`, role: "img", "aria-labelledby": "title desc" },
    element("title", { id: "title" }, escape(title)),
    element("desc", { id: "desc" }, escape(drawn.flatMap((each) => each.said()).join("\n"))),
    element("style", {}, STYLE),
    element("rect", { class: "ground", width, height, rx: 8 }),
    ...groups,
  );
  return `${svg}\n`;
}

/** A panel's drawing, with its legend above and what goes in and comes out. */
class Drawn {
  readonly drawing: Drawing;
  readonly height: number;
  private readonly top: number;
  private readonly most: number;
  private readonly parts: ReadonlyMap<string, Part>;

  constructor(private readonly panel: Panel) {
    const { network, unfolded, width, cost } = panel;
    this.parts = new Map(network.parts.map((part) => [part.id, part]));
    this.drawing = layout(network, new Set(unfolded), width);
    this.top = (cost ? LEGEND : 0) + END.height;
    this.height = this.top + this.drawing.height + END.height;
    this.most = cost ? highestShare(this.drawing.boxes, network, cost) : 0;
  }

  /** Each box in words, in the order in which they run. */
  said(): string[] {
    return this.drawing.boxes.map(({ part }) => saidText(part, this.panel.network, this.panel.cost));
  }

  elements(): string[] {
    const { drawing, panel, top } = this;
    const boxes = drawing.boxes.map((box) => this.box(box));
    const bands = drawing.bands.map((band) => element("path", { class: "band", d: path(bandPath(band)) }));
    return [
      ...(panel.cost ? this.legend(panel.cost) : []),
      ...this.end(top - END.height, t("figure.in")),
      element("g", { transform: `translate(0 ${top})` }, ...boxes, ...bands, ...this.lines()),
      ...this.end(top + drawing.height, t("figure.out")),
    ];
  }

  private legend(cost: Cost): string[] {
    const [steps, width] = [16, 96];
    const { drawing, panel, most } = this;
    // Linear in the share, as the numbers at its ends are.
    const ramp = Array.from({ length: steps }, (_, step) =>
      element("rect", { class: "hot", x: 32 + (width / steps) * step, y: 22, width: width / steps, height: 13, "fill-opacity": opacity(Math.sqrt((step + 0.5) / steps)) }),
    );
    return [
      label(0, 12, drawing.width, [{ text: t("figure.legend", { total: totalText(panel.network, cost) }) }], 13, { class: "soft" }),
      label(0, 33, 30, [{ text: "0 %" }], 12),
      ...ramp,
      element("rect", { class: "frame", x: 32, y: 22, width, height: 13 }),
      label(width + 38, 33, width, [{ text: percent(most) }], 12),
    ];
  }

  private end(y: number, text: string): string[] {
    const x = (this.drawing.width - END.width) / 2;
    return [
      element("rect", { class: "end", x: round(x), y: y + 0.5, width: END.width, height: END.height - 1, rx: 8 }),
      label(this.drawing.width / 2, y + 18.5, END.width, [{ text }], 13, { anchor: "middle", class: "soft" }),
    ];
  }

  private box(box: Box): string {
    const { part, x, y, width, height, head, open } = box;
    const { network, cost } = this.panel;
    const [title, detail] = this.texts(part);
    const place = { x: round(x), y: round(y), width: round(width), height: round(height), rx: 7 };
    if (open) {
      return [
        element("path", { class: "head", d: `M${round(x)},${round(y + head)}v${7 - head}a7,7 0 0 1 7,-7h${round(width - 14)}a7,7 0 0 1 7,7v${head - 7}z` }),
        element("rect", { class: "frame", ...place }),
        label(x + PAD, y + 22, width - 2 * PAD, [...title, { text: detail || kindText(part) }], 13),
      ].join("");
    }
    const boxed = [element("rect", { class: "box", ...place })];
    const percentage = cost ? shareText(part, network, cost) : "";
    if (cost) {
      boxed.push(element("rect", { class: "hot", ...place, "fill-opacity": opacity(heatOf(part, network, cost, this.most)) }));
      boxed.push(label(x + width - PAD, y + head / 2 + 5, width, [{ text: percentage }], 13, { anchor: "end" }));
    }
    const room = cost ? width - 3 * PAD - widthOf(percentage, 13) : width - 10;
    const at = cost ? x + PAD : x + width / 2;
    const look: Look = cost ? { isPlain: true } : { anchor: "middle" };
    if (part.level === "operation") boxed.push(label(at, y + 21, room, [...title, { text: detail }], 13, look));
    else {
      boxed.push(label(at, y + (detail ? 18 : head / 2 + 5), room, title, 13.5, look));
      if (detail) boxed.push(label(at, y + 34, room, [{ text: detail }], 12, { ...look, ...(cost ? {} : { class: "soft" }) }));
    }
    return boxed.join("");
  }

  /** The two lines of the page; but what joins others is no module: instead of a name it has what a sum of channels is. */
  private texts(part: Part): [Piece[], string] {
    const [title, detail] = figureTexts(part, part.parent ? this.parts.get(part.parent) : undefined);
    const inner = part.children.map((id) => this.parts.get(id)!);
    const sum = part.role === "concatenation" ? `${channelsText(part.read_shapes, 3)} = ${part.shape[0]}` : "";
    const names = signOf(part) ? sum : detail;
    if (!this.panel.operations || part.level !== "layer" || part.role === "gate" || !inner.length) return [[{ text: title, isBold: true }], names];
    const pieces = inner.flatMap((each, index): Piece[] => {
      const isMain = each.rows.includes(part.main);
      const kind = each.role === "view" ? roleText(each) : kindText(each); // "view" is no word of a figure
      return [...(index ? [{ text: "→" }] : []), { text: isMain ? title : kind, isBold: isMain }];
    });
    return [pieces, names];
  }

  private lines(): string[] {
    return this.drawing.lines.flatMap((line) => {
      const { line: way, tip, label: shape } = arrowOf(line);
      const ground = shape?.ground;
      return [
        element("path", { class: `line ${line.kind}`, d: path(way) }),
        tip ? element("path", { class: `line ${line.kind} tip`, d: path(tip) }) : "",
        ground ? element("rect", { class: "ground", x: round(ground.x), y: round(ground.y), width: round(ground.width), height: ground.height }) : "",
        shape ? label(shape.x, shape.y, WIDTH, [{ text: shape.text }], shape.isTight ? 11 : 12, { ...(ground ? { anchor: "middle" } : {}), class: "soft" }) : "",
      ];
    });
  }
}

/** Of a share of the highest one, 0 to 1. At the strongest the text on it has a contrast of more than 4.5. */
const opacity = (heat: number): number => round(0.62 * heat);

/** A part of a line of text. */
interface Piece {
  text: string;
  isBold?: boolean;
}

interface Look {
  anchor?: "middle" | "end";
  class?: string;
  /** Whether what is not bold is as dark as what is: on a colour. */
  isPlain?: boolean;
}

/** Pieces beside each other, in letters of this size or of a smaller one for which there is room. */
function label(x: number, y: number, room: number, pieces: readonly Piece[], size: number, { anchor, class: name, isPlain }: Look = {}): string {
  const written = pieces.filter(({ text }) => text);
  const needed = written.reduce((sum, { text, isBold }) => sum + widthOf(text, size, isBold), 0) + SPACE * (written.length - 1);
  const found = Math.min(size, (size * room) / needed);
  const whole = written.map(({ text }) => text).join(" ");
  if (found < SMALLEST) throw new Error(`"${whole}" needs more room than ${Math.round(room)}: make its panel wider`);
  const attributes = { x: round(x), y: round(y), "font-size": round(found), ...(anchor ? { "text-anchor": anchor } : {}), ...(name ? { class: name } : {}) };
  const [first] = written;
  if (written.length === 1) return element("text", { ...attributes, ...(first!.isBold ? { "font-weight": 600 } : {}) }, escape(whole));
  const spans = written.map(({ text, isBold }, index) => element("tspan", { ...(index ? { dx: SPACE } : {}), ...(isBold ? { "font-weight": 600 } : isPlain ? {} : { class: "soft" }) }, escape(text)));
  return element("text", attributes, ...spans);
}

/** Widths of letters in ems, in DejaVu Sans: the widest of the usual fonts. There is none here to measure in. */
const WIDTHS: [RegExp, number][] = [
  [/[\u3000-\u9fff\uff00-\uffef]/, 1],
  [/[\s.,:;·|iljI'’]/, 0.33],
  [/[tfr()[\]]/, 0.42],
  [/[sczk]/, 0.56],
  [/[mMW%]/, 0.96],
  [/[w×⊕⊗∥+–→…]/, 0.84],
  [/[A-Z]/, 0.72],
  [/./, 0.64],
];

function widthOf(text: string, size: number, isBold = false): number {
  const ems = [...text].reduce((sum, letter) => sum + WIDTHS.find(([letters]) => letters.test(letter))![1], 0);
  return ems * size * (isBold ? 1.12 : 1);
}

/** The numbers of a path, rounded. */
const path = (d: string): string => d.replace(/\d+\.\d+/g, (number) => String(round(Number(number))));

const round = (value: number): number => Math.round(value * 100) / 100;

const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function element(name: string, attributes: Record<string, string | number>, ...children: string[]): string {
  const written = Object.entries(attributes).map(([key, value]) => ` ${key}="${escape(String(value)).replaceAll('"', "&quot;")}"`);
  const inner = children.join("");
  return `<${name}${written.join("")}${inner ? `>${inner}</${name}>` : "/>"}`;
}
