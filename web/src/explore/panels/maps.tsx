/** The feature maps of a part: the strongest channels, one of them enlarged. */

import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { percent, whole } from "../../format";
import { paint, paintScale, scaleOf, type Scale, type Theme } from "../colours";
import type { Maps } from "../document";
import { cellsSeeing, type Box } from "../fields";
import { useTheme, useVisible, useWidth } from "../hooks";
import { ends, errorText, fixed, significant, signed } from "../numbers";
import { Panel } from "../panel";
import { ARROWS, cellUnder, PHOTO, pointAt, pointedIn, within } from "../pointing";
import { page, partOf, select, set, t, useExploreState, type Cell, type PanelProps } from "../state";
import { unpack } from "../unpack";
import { FieldPhoto } from "./field";
import { classOf } from "../words";
import { SignedBar } from "./vector";

/** CSS pixels that a map of the grid, and the enlarged one, may take. */
const SMALL = 84;
const LARGE = 300;
/** A map of the grid that has more values than this is drawn smaller; the enlarged one never is. */
const SMALLEST = 112;
/** What a map of the grid takes at least, for the figures below it, and the space between two. */
const TILE = 88;
const SPACE = 4;

/** Maps of the grid before all are asked for, so that what follows is not far below; where there is room, these rows. */
const FIRST = 12;
const ROWS = 4;
let isAllKept = false;

export function MapsPanel(props: PanelProps) {
  const { part, view } = props;
  useExploreState();
  const maps = view.parts[part.id]?.maps;
  if (part.shape.length < 3 || view.parts[part.id]?.vector) return null;
  if (maps) return <MapsOf {...props} maps={maps} />;
  let parent = part.parent;
  while (parent && !view.parts[parent]?.maps) parent = partOf(view.network, parent)?.parent ?? null;
  return (
    <Panel title={t("maps.title")} name="maps">
      <p class="soft">{t("maps.none")}</p>
      {parent && (
        <p>
          <button type="button" class="link" onClick={() => select(parent)}>
            {t("maps.of", { name: partOf(view.network, parent)!.name })}
          </button>
        </p>
      )}
    </Panel>
  );
}

/** The bytes of one channel. */
const channelOf = (bytes: Uint8Array, { height, width }: Maps, place: number): Uint8Array =>
  bytes.subarray(place * height * width, (place + 1) * height * width);

/** Half a step of the quantisation. */
const errorOf = ({ low, high }: Maps, place: number): number => (high[place]! - low[place]!) / 255 / 2;

/** CSS pixels of one value in a map that may take so many. */
const sideOf = ({ height, width }: Maps, room: number): number => Math.max(1, Math.floor(room / Math.max(height, width)));

const valueOf = ({ low, high }: Maps, place: number, byte: number): number =>
  low[place]! + (byte / 255) * (high[place]! - low[place]!);

/** The scale of one channel, or the one of all channels and views. */
function useScales(maps: Maps, part: string): (place: number) => Scale {
  const { scale } = useExploreState();
  return useMemo(() => {
    if (scale === "own") {
      const scales = maps.low.map((low, place) => scaleOf(low, maps.high[place]!));
      return (place: number) => scales[place]!;
    }
    const all = page.views.flatMap((view) => view.parts[part]?.maps ?? []);
    const common = scaleOf(Math.min(...all.flatMap(({ low }) => low)), Math.max(...all.flatMap(({ high }) => high)));
    return () => common;
  }, [maps, part, scale]);
}

function MapsOf({ part, view, maps }: PanelProps & { maps: Maps }) {
  const { channel, pointed, scale } = useExploreState();
  const [bytes, setBytes] = useState<Uint8Array | null>(null);
  const [damaged, setDamaged] = useState(false);
  const [isAllAsked, setAllAsked] = useState(isAllKept);
  const [panel, isVisible] = useVisible<HTMLDivElement>();
  const [side, available] = useWidth<HTMLDivElement>();
  const theme = useTheme();
  const scales = useScales(maps, part.id);
  const large = useRef<HTMLDivElement>(null);
  const grid = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!isVisible) return;
    let isCurrent = true;
    unpack(maps.data).then(
      (found) => isCurrent && setBytes(found),
      () => isCurrent && setDamaged(true),
    );
    return () => void (isCurrent = false);
  }, [maps, isVisible]);

  const found = channel === null ? 0 : maps.channels.indexOf(channel);
  const current = Math.max(0, found);
  const small = Math.max(TILE, Math.min(SMALLEST, sideOf(maps, SMALL) * maps.width) + SPACE);
  const columns = Math.max(1, Math.floor((available + SPACE) / (small + SPACE)));
  const first = Math.max(FIRST, ROWS * columns);
  const isAll = isAllAsked || current >= first;
  const cell = pointedIn(pointed, part.id, maps.height, maps.width);
  // Of a pixel of the photo: the cells whose receptive field holds it.
  const seeing = pointed?.part === PHOTO ? cellsSeeing(view, part, pointed.y, pointed.x) : null;
  const marked = cell ? { top: cell.y, left: cell.x, bottom: cell.y + 1, right: cell.x + 1 } : seeing;
  const strongest = Math.max(...(maps.contributions ?? [0]).map(Math.abs)) || 1;
  const errors = maps.low.map((_, place) => errorOf(maps, place));
  const target = classOf(view, view.target);

  const enlarge = (place: number, focus: boolean) => {
    set({ channel: maps.channels[place]! });
    if (!focus) return;
    large.current?.focus({ preventScroll: true });
    large.current?.scrollIntoView({ block: "nearest" });
  };
  const back = () => {
    set({ pointed: null });
    grid.current?.querySelector<HTMLElement>('[tabindex="0"]')?.focus();
  };
  return (
    <Panel title={t("maps.title")} name="maps">
      <div class="maps-all" ref={panel}>
        <div class="row maps-tools">
          <p class="soft small">
            {t(maps.contributions ? "maps.strongest" : "maps.largest", { shown: maps.channels.length, of: whole(maps.of), target })}
          </p>
          <fieldset class="tabs maps-scale">
            <legend class="said">{t("maps.scale")}</legend>
            {(["own", "common"] as const).map((choice) => (
              <button key={choice} type="button" aria-pressed={scale === choice} onClick={() => set({ scale: choice })}>
                {t(`maps.scale.${choice}`)}
              </button>
            ))}
          </fieldset>
        </div>
        {damaged && <p class="problem">{t("maps.damaged")}</p>}
        {found < 0 && <p class="soft">{t("maps.absent", { channel: channel! })}</p>}
        <div class="maps" style={{ "--large": `${Math.max(250, sideOf(maps, LARGE) * maps.width)}px`, "--small": `${small}px` }}>
          <Large
            {...{ maps, bytes, theme, cell, marked, target }}
            part={part.id}
            frame={large}
            place={current}
            scale={scales(current)}
            onBack={back}
          >
            <FieldPhoto view={view} part={part} />
          </Large>
          <div class="maps-side" ref={side}>
            <div
              class="maps-grid"
              role="listbox"
              aria-label={t("maps.grid")}
              ref={grid}
              onKeyDown={(event) => {
                const next = moved(event, grid.current!, current);
                if (event.key === "Enter" || event.key === " ") enlarge(current, true);
                else if (event.key === "Escape") set({ channel: null, pointed: null });
                else if (next === null) return;
                else {
                  enlarge(next, false);
                  (grid.current!.children[next] as HTMLElement).focus();
                }
                event.preventDefault();
              }}
            >
              {maps.channels.slice(0, isAll ? undefined : first).map((number, place) => (
                <Tile
                  key={number}
                  {...{ maps, bytes, theme, cell, marked, number, place, strongest }}
                  part={part.id}
                  isCurrent={place === current}
                  scale={scales(place)}
                  onEnlarge={() => enlarge(place, true)}
                />
              ))}
            </div>
            {!isAll && maps.channels.length > first && (
              <button
                type="button"
                class="button small"
                onClick={() => {
                  isAllKept = true;
                  setAllAsked(true);
                  // The button goes; what it showed gets the focus.
                  requestAnimationFrame(() => (grid.current?.children[first] as HTMLElement | undefined)?.focus());
                }}
              >
                {t("maps.all", { count: maps.channels.length })}
              </button>
            )}
          </div>
        </div>
        <p class="soft small">
          {t("maps.error", { error: errorText(Math.max(...errors)) })}
          {maps.channels.length < maps.of && (
            <>
              {" "}
              {t("maps.others", { shown: maps.channels.length, of: whole(maps.of) })}{" "}
              <code>
                vertebra explore … --channels {part.id}:{Math.min(...unshown(maps))},…
              </code>
            </>
          )}
        </p>
      </div>
    </Panel>
  );
}

/** Channels that are not shown, for an example. */
function unshown({ channels, of }: Maps): number[] {
  const shown = new Set(channels);
  return Array.from({ length: of }, (_, channel) => channel).filter((channel) => !shown.has(channel));
}

/** Where an arrow key leads in a grid, in reading order; null for other keys. */
function moved(event: KeyboardEvent, grid: HTMLElement, from: number): number | null {
  const tiles = [...grid.children] as HTMLElement[];
  const columns = tiles.filter((tile) => tile.offsetTop === tiles[0]!.offsetTop).length;
  const steps: Record<string, number> = {
    ArrowLeft: from - 1,
    ArrowRight: from + 1,
    ArrowUp: from - columns,
    ArrowDown: from + columns,
    Home: 0,
    End: tiles.length - 1,
  };
  const to = steps[event.key];
  if (to === undefined) return null;
  return to < 0 || to >= tiles.length ? from : to;
}

interface CanvasProps {
  maps: Maps;
  bytes: Uint8Array | null;
  place: number;
  scale: Scale;
  theme: Theme;
  /** Longer side in CSS pixels, at most; more where one value is one pixel. */
  room: number;
  /** Longer side of a map that is drawn smaller than that. */
  most?: number;
  /** Cells with an outline. */
  marked: Box | null;
}

/** One channel: one value is a square of whole CSS pixels. */
function MapCanvas({ maps, bytes, place, scale, theme, room, most = Infinity, marked }: CanvasProps) {
  const { height, width, low, high } = maps;
  const canvas = useRef<HTMLCanvasElement>(null);
  const [frame, isVisible] = useVisible<HTMLSpanElement>();
  useEffect(() => {
    if (!bytes || !isVisible) return;
    paint(canvas.current!, channelOf(bytes, maps, place), height, width, low[place]!, high[place]!, scale, theme);
  }, [bytes, isVisible, maps, place, scale, theme]);
  const times = Math.min(sideOf(maps, room), most / Math.max(height, width));
  return (
    <span class={times < 1 ? "map smaller" : "map"} ref={frame} style={{ width: `${times * width}px`, aspectRatio: `${width} / ${height}` }}>
      <canvas ref={canvas} width={width} height={height} aria-hidden="true" />
      {marked && (
        <span
          class="cell-mark"
          style={{
            left: `${(100 * marked.left) / width}%`,
            top: `${(100 * marked.top) / height}%`,
            width: `${(100 * (marked.right - marked.left)) / width}%`,
            height: `${(100 * (marked.bottom - marked.top)) / height}%`,
          }}
        />
      )}
    </span>
  );
}

interface TileProps extends Omit<CanvasProps, "room"> {
  part: string;
  cell: Cell | null;
  number: number;
  strongest: number;
  isCurrent: boolean;
  onEnlarge: () => void;
}

function Tile({ part, cell, number, strongest, isCurrent, onEnlarge, ...shown }: TileProps) {
  const { maps, bytes, place } = shown;
  const contribution = maps.contributions?.[place];
  const range = { low: significant(maps.low[place]!), high: significant(maps.high[place]!) };
  const value = cell && bytes ? valueAt(maps, bytes, place, cell) : null;
  const label = t(contribution === undefined ? "maps.tile.plain" : "maps.tile", {
    channel: number,
    contribution: contribution === undefined ? "" : signed(contribution),
    ...range,
  });
  return (
    <div
      class="map-tile"
      role="option"
      aria-selected={isCurrent}
      aria-label={label}
      tabIndex={isCurrent ? 0 : -1}
      data-channel={number}
      onClick={(event) => {
        pointAt(part, cellUnder(event, maps.height, maps.width, event.currentTarget.querySelector(".map")!));
        onEnlarge();
      }}
      onPointerMove={(event) => {
        const map = event.currentTarget.querySelector(".map")!;
        if (event.pointerType === "mouse" && map.contains(event.target as Node)) pointAt(part, cellUnder(event, maps.height, maps.width, map));
      }}
    >
      <MapCanvas {...shown} room={SMALL} most={SMALLEST} />
      <span class="map-line">
        <b class="number">{number}</b>
        {contribution !== undefined && <span class="number soft">{signed(contribution, 2)}</span>}
      </span>
      {contribution !== undefined && <SignedBar value={contribution} most={strongest} />}
      <span class="map-value number soft">{value ?? `${significant(maps.low[place]!, 2)} … ${significant(maps.high[place]!, 2)}`}</span>
    </div>
  );
}

/** The value of a cell in words, without its error. */
function valueAt(maps: Maps, bytes: Uint8Array, place: number, { y, x }: Cell): string {
  const byte = channelOf(bytes, maps, place)[y * maps.width + x]!;
  return fixed(valueOf(maps, place, byte), errorOf(maps, place));
}

interface LargeProps extends Omit<CanvasProps, "room"> {
  part: string;
  cell: Cell | null;
  frame: { current: HTMLDivElement | null };
  target: string;
  onBack: () => void;
  /** Below the channel. */
  children: ComponentChildren;
}

/** The enlarged channel, the scale of its colours, and its figures. */
function Large({ part, cell, frame, target, onBack, children, ...shown }: LargeProps) {
  const { maps, bytes, place, scale, theme, marked } = shown;
  const [outer, available] = useWidth<HTMLDivElement>();
  const error = errorOf(maps, place);
  const contribution = maps.contributions?.[place];
  const figures = useMemo(() => (bytes ? figuresOf(maps, bytes, place) : null), [maps, bytes, place]);
  const room = Math.min(LARGE, available || LARGE);
  const move = (event: KeyboardEvent) => {
    const step = ARROWS[event.key];
    if (event.key === "Escape") onBack();
    else if (!step) return;
    else {
      const from = cell ?? { y: Math.floor(maps.height / 2) - step[0], x: Math.floor(maps.width / 2) - step[1] };
      pointAt(part, within(from.y + step[0], from.x + step[1], maps.height, maps.width));
    }
    event.preventDefault();
  };
  const pointer = (event: PointerEvent) =>
    pointAt(part, cellUnder(event, maps.height, maps.width, frame.current!.querySelector(".map")!));
  return (
    <div class="map-large" ref={outer}>
      <h4>{t("maps.enlarged", { channel: maps.channels[place]! })}</h4>
      <div
        class="map-frame"
        ref={frame}
        role="application"
        tabIndex={0}
        aria-label={t("maps.pointing", { channel: maps.channels[place]!, width: maps.width, height: maps.height })}
        onKeyDown={move}
        onPointerDown={pointer}
        onPointerMove={pointer}
      >
        <MapCanvas {...shown} room={room} />
      </div>
      <Legend scale={scale} theme={theme} />
      <output class="map-readout">
        {cell && bytes
          ? t("maps.value", { y: cell.y, x: cell.x, value: valueAt(maps, bytes, place, cell), error: errorText(error) })
          : marked
            ? t("maps.seeing", { count: (marked.bottom - marked.top) * (marked.right - marked.left) })
            : t("maps.point")}
      </output>
      {children}
      <dl class="map-figures">
        {contribution !== undefined && (
          <div>
            <dt>{t("maps.contribution.to", { target })}</dt>
            <dd class="number">{signed(contribution)}</dd>
          </div>
        )}
        <div>
          <dt>{t("maps.range")}</dt>
          <dd class="number">
            {significant(maps.low[place]!, 4)} … {significant(maps.high[place]!, 4)}
          </dd>
        </div>
        <div>
          <dt>{t("maps.mean")}</dt>
          <dd class="number">{figures ? fixed(figures.mean, error) : "…"}</dd>
        </div>
        <div>
          <dt>{t("maps.zeros", { error: errorText(error) })}</dt>
          <dd class="number">{figures ? percent(figures.zeros) : "…"}</dd>
        </div>
      </dl>
    </div>
  );
}

/** Mean, and share of values that are zero within the error. */
function figuresOf(maps: Maps, bytes: Uint8Array, place: number): { mean: number; zeros: number } {
  const own = channelOf(bytes, maps, place);
  const error = errorOf(maps, place);
  const counts = new Array<number>(256).fill(0);
  for (const byte of own) counts[byte]!++;
  let sum = 0;
  let zeros = 0;
  for (const [byte, count] of counts.entries()) {
    const value = valueOf(maps, place, byte);
    sum += count * value;
    if (Math.abs(value) <= error) zeros += count;
  }
  return { mean: sum / own.length, zeros: zeros / own.length };
}

/** Colours and their values: low … 0 … high. */
function Legend({ scale, theme }: { scale: Scale; theme: Theme }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => paintScale(canvas.current!, scale, theme), [scale, theme]);
  const zero = (100 * -scale.low) / (scale.high - scale.low || 1);
  const [low, high] = ends(scale.low, scale.high);
  return (
    <div class="map-legend" role="img" aria-label={t("maps.legend", { low, high })}>
      <canvas ref={canvas} width={256} height={1} aria-hidden="true" />
      <span class="map-legend-ticks number small soft" aria-hidden="true">
        {scale.low < 0 && <span>{low}</span>}
        <span class="map-legend-zero" style={{ left: `${zero}%` }}>
          0
        </span>
        {scale.high > 0 && <span class="map-legend-high">{high}</span>}
      </span>
    </div>
  );
}
