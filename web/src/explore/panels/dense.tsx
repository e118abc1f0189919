/** A dense block: which earlier layers each layer reads, and how strongly. */

import { useState } from "preact/hooks";
import type { DenseBlock, DenseReader, Network } from "../document";
import { signed, significant } from "../numbers";
import { Panel } from "../panel";
import { cellUnder } from "../pointing";
import { select, t, useChosen, type PanelProps } from "../state";
import { Bar, largest } from "./special";
import { SignedBar } from "./vector";

type Shown = "weights" | "contributions";

export function DensePanel({ view, network, part }: PanelProps) {
  useChosen((state) => state.language);
  const whole = view.parts[part.id]?.dense;
  if (whole)
    return (
      <Panel title={t("dense.title_block")} name="dense">
        <p>{t("dense.what_block")}</p>
        <Matrix block={whole} choose={(reader) => select(layerOf(network, reader.row))} />
      </Panel>
    );
  for (const { dense } of Object.values(view.parts)) {
    const reader = dense?.readers.find(({ row }) => part.rows.includes(row));
    if (dense && reader && part.level !== "stage")
      return (
        <Panel title={t("dense.title")} name="dense">
          <p>{t("dense.what")}</p>
          <Sources block={dense} reader={reader} />
        </Panel>
      );
  }
  return null;
}

const sourceName = (block: DenseBlock, index: number): string =>
  index === 0 ? t("dense.input") : block.sources[index - 1]!;

/** denselayer3 of features.denseblock1.denselayer3.conv1 */
const readerName = (block: DenseBlock, reader: DenseReader): string =>
  reader.name.startsWith(`${block.block}.`)
    ? reader.name.slice(block.block.length + 1).split(".")[0]!
    : reader.name;

function Sources({ block, reader }: { block: DenseBlock; reader: DenseReader }) {
  const highest = largest(reader.weights);
  const most = largest(reader.contributions ?? []);
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={t("dense.title")}>
      <table class="sources">
        <thead>
          <tr>
            <th scope="col">{t("dense.source")}</th>
            <th scope="col" class="number">
              {t("dense.channels")}
            </th>
            <th scope="col">{t("dense.weights")}</th>
            {reader.contributions && <th scope="col">{t("dense.contributions")}</th>}
          </tr>
        </thead>
        <tbody>
          {reader.weights.map((weight, index) => (
            <tr key={index}>
              <th scope="row">{sourceName(block, index)}</th>
              <td class="number">{reader.channels[index]}</td>
              <td>
                <span class="number">{significant(weight)}</span>
                <Bar share={highest ? weight / highest : 0} />
              </td>
              {reader.contributions && (
                <td>
                  <span class="number">{signed(reader.contributions[index]!)}</span>
                  <SignedBar value={reader.contributions[index]!} most={most} />
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The layer that an operation belongs to. */
const layerOf = (network: Network, row: number): string =>
  network.parts.find((part) => part.level === "layer" && part.rows.includes(row))!.id;

function Matrix({ block, choose }: { block: DenseBlock; choose: (reader: DenseReader) => void }) {
  const [shown, setShown] = useState<Shown>("weights");
  const [pointed, setPointed] = useState<[number, number] | null>(null);
  const { readers } = block;
  const known = readers.every((reader) => reader.contributions);
  const valueAt = (reader: number, source: number): number | undefined => readers[reader]?.[shown]?.[source];
  const most = largest(readers.flatMap((reader) => reader[shown] ?? [])) || 1;
  const rows = block.sources.length + 1;
  const point = (event: PointerEvent) => {
    const { y, x } = cellUnder(event, rows, readers.length);
    setPointed([x, y]);
  };
  const value = pointed ? valueAt(...pointed) : undefined;
  return (
    <>
      {known && (
        <div class="row">
          {(["weights", "contributions"] as const).map((key) => (
            <button
              key={key}
              type="button"
              class="button small"
              aria-pressed={shown === key}
              onClick={() => setShown(key)}
            >
              {t(`dense.${key}`)}
            </button>
          ))}
        </div>
      )}
      <figure class="matrix">
        <p class="matrix-y small soft" aria-hidden="true">
          <span>{t("dense.input")}</span>
          <span>{t("dense.source")}</span>
          <span>{block.sources.at(-1)}</span>
        </p>
        <svg
          viewBox={`0 0 ${readers.length} ${rows}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={t("dense.summary", { readers: readers.length, sources: rows, most: significant(most) })}
          onPointerMove={point}
          onPointerDown={point}
          onPointerLeave={() => setPointed(null)}
        >
          {readers.map((reader, x) =>
            (reader[shown] ?? []).map((found, y) => (
              <rect
                key={`${x},${y}`}
                class={found < 0 ? "cell against" : shown === "weights" ? "cell weight" : "cell for"}
                x={x + 0.03}
                y={y + 0.03}
                width="0.94"
                height="0.94"
                fill-opacity={Math.abs(found) / most}
              />
            )),
          )}
          {pointed && value !== undefined && (
            <rect class="cell-mark" x={pointed[0]} y={pointed[1]} width="1" height="1" vector-effect="non-scaling-stroke" />
          )}
        </svg>
        <p class="matrix-x small soft" aria-hidden="true">
          <span>{readerName(block, readers[0]!)}</span>
          <span>{t("dense.reader")}</span>
          <span>{readerName(block, readers.at(-1)!)}</span>
        </p>
      </figure>
      <p class="legend small">
        {shown === "weights" ? (
          <>
            <span class="number">0</span> <span class="ramp weight" aria-hidden="true" />{" "}
            <span class="number">{significant(most)}</span>
          </>
        ) : (
          <>
            <span class="number">{significant(-most)}</span> <span class="ramp both" aria-hidden="true" />{" "}
            <span class="number">{signed(most)}</span>
          </>
        )}
        <span class="soft"> {t(`dense.${shown}_unit`)}</span>
      </p>
      <p class="readout" role="status">
        {pointed && value !== undefined
          ? t("dense.one", {
              reader: readerName(block, readers[pointed[0]]!),
              source: sourceName(block, pointed[1]),
              value: shown === "weights" ? significant(value) : signed(value),
            })
          : t("dense.point")}
      </p>
      <div class="row" role="group" aria-label={t("dense.readers")}>
        <span class="small soft">{t("dense.readers")}</span>
        {readers.filter((reader) => readerName(block, reader) !== reader.name).map((reader) => (
          <button key={reader.row} type="button" class="link small" onClick={() => choose(reader)}>
            {readerName(block, reader)}
          </button>
        ))}
      </div>
    </>
  );
}
