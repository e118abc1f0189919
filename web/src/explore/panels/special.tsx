/** What the panels of gates, additions, branches, dense blocks, activations and evidence share. */

import type { ComponentChildren } from "preact";
import type { Network, Part, Pictures, Seen, View } from "../document";
import { signed, significant } from "../numbers";
import { t } from "../state";
import { SignedBar } from "./vector";
import "./special.css";

type Listed = "gates" | "additions" | "branches" | "activations";
type Entry<K extends Listed> = NonNullable<Seen[K]>[number];

/** What a section has of the operations of a part; it is kept with the layers. */
export function entries<K extends Listed>(view: View, network: Network, part: Part, key: K): Entry<K>[] {
  const rows = new Set(part.rows);
  return network.parts
    .filter((other) => other.level !== "operation")
    .flatMap((other) => (view.parts[other.id]?.[key] ?? []) as Entry<K>[])
    .filter((entry) => rows.has(entry.row))
    .sort((one, other) => one.row - other.row);
}

interface Item {
  row: number;
  name: string;
  /** What the operation reads, where its own name is not enough. */
  source?: string;
}

/** One entry by itself; several as a list that unfolds, the first open where they are few. */
export function Entries<T extends Item>({
  found,
  said,
  children,
}: {
  found: T[];
  said: (entry: T) => string;
  /** Of an entry, and whether it stands alone, without what is said of it. */
  children: (entry: T, isAlone: boolean) => ComponentChildren;
}) {
  if (found.length === 1) return <>{children(found[0]!, true)}</>;
  return (
    <div class="special-list">
      {found.map((entry, index) => (
        <details key={entry.row} open={index === 0 && found.length < 5}>
          <summary>
            <code>{entry.source ? `${entry.source} → ${entry.name}` : entry.name}</code> <span class="soft small">{said(entry)}</span>
          </summary>
          <div class="stack special-inner">{children(entry, false)}</div>
        </details>
      ))}
    </div>
  );
}

/** A bar from the left. */
export function Bar({ share }: { share: number }) {
  return (
    <span class="track" aria-hidden="true">
      <span class="fill" style={{ width: `${100 * Math.min(1, Math.max(0, share))}%` }} />
    </span>
  );
}

interface MeasuresProps {
  norm: number;
  contribution: number | null;
  /** The largest norm, and the largest contribution, of those beside it. */
  highest: number;
  most: number;
}

/** The norm of a term or branch, and its contribution, each with a bar. */
export function Measures({ norm, contribution, highest, most }: MeasuresProps) {
  return (
    <>
      <p class="measure">
        <span>{t("special.norm")}</span> <b class="number">{significant(norm)}</b>
        <Bar share={highest ? norm / highest : 0} />
      </p>
      {contribution !== null && (
        <p class="measure">
          <span>{t("special.contribution")}</span> <b class="number">{signed(contribution)}</b>
          <SignedBar value={contribution} most={most} />
        </p>
      )}
    </>
  );
}

/** How the small pictures above it were made. */
export function PicturesNote({ pictures }: { pictures: Pictures | null }) {
  if (!pictures) return null;
  const { width, height, high } = pictures;
  return <p class="soft small">{t("special.pictures", { width, height, high: significant(high) })}</p>;
}

export const largest = (values: (number | null)[]): number =>
  values.reduce<number>((most, value) => Math.max(most, Math.abs(value ?? 0)), 0);
