/** Numbers, shapes and names as the page says them. */

import { percent, short } from "../format";
import type { Cost, Label, Network, Part, View } from "./document";
import { hasText, t } from "./texts";

/** (C, H, W) → 56 × 56 × 256, as in the papers' figures. */
export function shapeText(shape: readonly number[], isTight = false): string {
  const [channels, ...space] = shape;
  return [...space, channels].join(isTight ? "×" : " × ");
}

/** Of several that are read together: 56 × 56 × (64 + 32 + 32). */
export function shapesText(shapes: readonly (readonly number[])[], isTight = false): string {
  const [first] = shapes;
  if (shapes.length === 1) return shapeText(first!, isTight);
  const channels = shapes.map((shape) => shape[0]!);
  const shown = channels.length > 3 ? [channels[0]!, "…", channels.at(-1)!] : channels;
  const [, ...space] = first!;
  return [...space, `(${shown.join(" + ")})`].join(isTight ? "×" : " × ");
}

/** The channels of several that are read together, the last as one product where they are equal and at least `many`: 64 + 3×32. */
export function channelsText(shapes: readonly (readonly number[])[], many: number): string {
  const channels = shapes.map((shape) => shape[0]!);
  let equal = 1;
  while (equal < channels.length && channels.at(-1 - equal) === channels.at(-1)) equal += 1;
  const shown = equal >= many ? [...channels.slice(0, -equal), `${equal}×${channels.at(-1)}`] : channels;
  return shown.join(" + ");
}

/** A part's share of the network's parameters, MACs, bytes or time. */
export function share(part: Part, network: Network, cost: Cost): number {
  const [own, all] = [part[cost], network[cost]];
  return own !== null && all ? own / all : 0;
}

export const shareText = (part: Part, network: Network, cost: Cost): string => percent(share(part, network, cost));

/** The highest share of the boxes that are coloured. */
export const highestShare = (boxes: readonly { part: Part; open: boolean }[], network: Network, cost: Cost): number =>
  Math.max(0, ...boxes.filter((box) => !box.open).map((box) => share(box.part, network, cost)));

/** How strong the colour of a part is, 0 to 1, where `most` is the highest share. */
export const heatOf = (part: Part, network: Network, cost: Cost, most: number): number =>
  most ? Math.sqrt(share(part, network, cost) / most) : 0;

/** 25.6 M parameters, 4.09 G MACs, 120 MB, 41 ms. */
export function totalText(network: Network, cost: Cost): string {
  const value = network[cost] ?? 0;
  if (cost === "bytes") return t("total.bytes", { value: short(value) });
  if (cost === "ms") return t("total.ms", { value: value.toFixed(value < 10 ? 1 : 0) });
  return t(`total.${cost}`, { value: short(value) });
}

/** All of a part's box for one who does not see it: name, kind, shape, share of the cost. */
export const saidText = (part: Part, network: Network, cost: Cost | null): string =>
  [
    part.name,
    descriptionText(part),
    t("figure.output", { shape: shapeText(part.shape) }),
    cost ? t("figure.share", { share: shareText(part, network, cost), cost: t(`cost.${cost}`) }) : "",
  ]
    .filter(Boolean)
    .join(t("label.separator"));

/** The name within its parent: conv1 of layer1.0.conv1; all of layer1.0, whose own name is a number. */
function briefName(part: Part, parent: Part | undefined): string {
  const within = parent && part.name.startsWith(`${parent.name}.`) ? part.name.slice(parent.name.length + 1) : part.name;
  const own = part.level === "block" ? within.slice(within.lastIndexOf(".") + 1) : within;
  return /^\d+$/.test(own) ? part.name : own;
}

const SIGNS: Record<string, string> = { addition: "⊕", concatenation: "∥", product: "⊗" };

/** The sign of what joins two results, if the part does. */
export const signOf = (part: Part): string | undefined => SIGNS[part.role];

/** Title and second line in the figure: a stage or block by its name, a layer by what it is, as in the papers. */
export function figureTexts(part: Part, parent: Part | undefined): [string, string] {
  const name = briefName(part, parent);
  if (part.level === "stage" || part.level === "block") return [name, kindText(part)];
  const [role, kind] = [roleText(part), kindText(part)];
  const sign = signOf(part);
  const names = [saysRole(kind, part) || name.includes(role) ? "" : role, name].filter(Boolean).join(" · ");
  return [sign ? `${sign} ${kind}` : kind, names];
}

/** Sentences one after the other, with a space between them where the language has one. */
export const sentences = (...texts: readonly (string | false)[]): string => texts.filter(Boolean).join(t("label.sentences"));

/** What the part is: "3 × Bottleneck", "3×3 conv, stride 2". */
export const kindText = (part: Part): string => labelText(part.label);

export const labelText = (labels: readonly Label[]): string =>
  labels.map((label) => (label.count > 1 ? `${label.count} × ` : "") + nameText(label)).join(t("label.separator"));

/** Some classes have a name in words, such as Transition. */
const nameText = ({ key, values }: Label): string => {
  const own = `type.${values["name"]}`;
  return key === "label.named" && hasText(own) ? t(own) : t(key, values);
};

/** What it does in its block: "expand". */
export const roleText = (part: Part): string => (part.role && hasText(`role.${part.role}`) ? t(`role.${part.role}`) : "");

/** Whether the kind says the role too: "3×3 conv" is a convolution. */
const saysRole = (kind: string, part: Part): boolean => part.role === "conv" || kind.includes(roleText(part)) || roleText(part).includes(kind);

/** Role and kind: "expand · 1×1 conv"; the one that says it all where they are the same. */
export function descriptionText(part: Part): string {
  const [role, kind] = [roleText(part), kindText(part)];
  return !role || saysRole(kind, part) || part.level === "block" ? kind : `${role} · ${kind}`;
}

/** Classes without names are numbers. */
export const className = (name: string): string => (/^\d+$/.test(name) ? t("classes.number", { index: name }) : name);

/** The name of a class of a view; its number where it is not among the best. */
export const classOf = (view: View, index: number): string =>
  className(view.predictions.find((each) => each.index === index)?.name ?? String(index));
