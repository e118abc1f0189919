/** The feature maps of a part: the strongest channels, one of them enlarged. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { whole } from "../../format";
import { scaleOf, type Scale } from "../colours";
import type { Maps } from "../document";
import { cellsSeeing } from "../fields";
import { useTheme, useVisible, useWidth } from "../hooks";
import { errorText, significant, signed } from "../numbers";
import { Panel } from "../panel";
import { cellUnder, PHOTO, pointAt, pointedIn } from "../pointing";
import { page, partOf, select, set, t, useExploreState, type Cell, type PanelProps } from "../state";
import { unpack } from "../unpack";
import { classOf } from "../words";
import { LARGE, Large } from "./enlarged_map";
import { FieldPhoto } from "./field";
import { errorOf, MapCanvas, sideOf, valueAt, type CanvasProps } from "./map_canvas";
import { SignedBar } from "./vector";

/** CSS pixels that a map of the grid may take. */
const SMALL = 84;
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
              {t("label.sentences")}
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
