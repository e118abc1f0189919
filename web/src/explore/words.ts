/** Numbers, shapes and names as the page says them. */

import { percent } from "../format";
import type { Label, Network, Part, View } from "./document";
import { type Cost, hasText, t } from "./state";

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

/** A part's share of the network's parameters, MACs, bytes or time. */
export function share(part: Part, network: Network, cost: Cost): number {
  const [own, all] = [part[cost], network[cost]];
  return own !== null && all ? own / all : 0;
}

export const shareText = (part: Part, network: Network, cost: Cost): string => percent(share(part, network, cost));

/** The name within its parent: conv1 of layer1.0.conv1; all of layer1.0, whose own name is a number. */
function briefName(part: Part, parent: Part | undefined): string {
  const within = parent && part.name.startsWith(`${parent.name}.`) ? part.name.slice(parent.name.length + 1) : part.name;
  const own = part.level === "block" ? within.slice(within.lastIndexOf(".") + 1) : within;
  return /^\d+$/.test(own) ? part.name : own;
}

const SIGNS: Record<string, string> = { addition: "⊕", concatenation: "∥", product: "⊗" };

/** Title and second line in the figure: a stage or block by its name, a layer by what it is, as in the papers. */
export function figureTexts(part: Part, parent: Part | undefined): [string, string] {
  const name = briefName(part, parent);
  if (part.level === "stage" || part.level === "block") return [name, kindText(part)];
  const role = roleText(part);
  const kind = kindText(part);
  const sign = SIGNS[part.role];
  const names = [kind.includes(role) || role.includes(kind) ? "" : role, name].filter(Boolean).join(" · ");
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

/** Role and kind: "expand · 1×1 conv"; the one that says it all where they are the same. */
export function descriptionText(part: Part): string {
  const [role, kind] = [roleText(part), kindText(part)];
  return !role || kind.includes(role) || part.level === "block" ? kind : `${role} · ${kind}`;
}

/** Classes without names are numbers. */
export const className = (name: string): string => (/^\d+$/.test(name) ? t("classes.number", { index: name }) : name);

/** The name of a class of a view; its number where it is not among the best. */
export const classOf = (view: View, index: number): string =>
  className(view.predictions.find((each) => each.index === index)?.name ?? String(index));
