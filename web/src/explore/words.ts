/** Numbers, shapes and names as the page says them. */

import { percent } from "../format";
import type { Network, Part } from "./document";
import { type Cost, hasText, t } from "./state";

/** (C, H, W) → 56 × 56 × 256, as in the papers' figures. */
export function shapeText(shape: readonly number[], isTight = false): string {
  const [channels, ...space] = shape;
  return [...space, channels].join(isTight ? "×" : " × ");
}

/** A part's share of the network's parameters, MACs, bytes or time. */
export function share(part: Part, network: Network, cost: Cost): number {
  const [own, all] = [part[cost], network[cost]];
  return own !== null && all ? own / all : 0;
}

export const shareText = (part: Part, network: Network, cost: Cost): string => percent(share(part, network, cost));

/** The name within its parent: conv1 of layer1.0.conv1. */
export function briefName(part: Part, parent: Part | undefined): string {
  const within = parent && part.name.startsWith(`${parent.name}.`) ? part.name.slice(parent.name.length + 1) : part.name;
  return within || part.type;
}

/** What the part is: "3 × Bottleneck", "3×3 conv, stride 2". */
export const kindText = (part: Part): string =>
  part.label.map(({ key, values, count }) => (count > 1 ? `${count} × ` : "") + t(key, values)).join(t("label.separator"));
