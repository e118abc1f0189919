/** Numbers, shapes and names as the page says them. */

import { percent } from "../format";
import type { Network, Part } from "./document";
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

/** The name within its parent: conv1 of layer1.0.conv1, but all of layer1.0. */
export function briefName(part: Part, parent: Part | undefined): string {
  const within = parent && part.name.startsWith(`${parent.name}.`) ? part.name.slice(parent.name.length + 1) : part.name;
  return (/^\d+$/.test(within) ? part.name : within) || roleText(part) || kindText(part);
}

/** What the part is: "Bottleneck", "3 × Bottleneck", "3×3 conv, stride 2". */
export function kindText(part: Part): string {
  const names = part.label.map(({ key, values, count }) => (count > 1 ? `${count} × ${t(key, values)}` : t(key, values)));
  const stride = /stride (\S+)/.exec(part.detail)?.[1];
  return [names.join(t("label.separator")), stride ? t("figure.stride", { stride }) : ""].filter(Boolean).join(t("label.separator"));
}

/** What it does in its block: "expand". */
export const roleText = (part: Part): string => (part.role && hasText(`role.${part.role}`) ? t(`role.${part.role}`) : "");
