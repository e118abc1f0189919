/** Receptive fields: which pixels a cell of the selected part depends on, and which cells a pixel reaches. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useState } from "preact/hooks";
import { percent, whole } from "../../format";
import type { EffectiveField, Field, Part, View } from "../document";
import { boxOf, cellsSeeing, clipped, type Box } from "../fields";
import { Panel } from "../panel";
import { ARROWS, cellUnder, PHOTO, pointAt, pointedIn, within } from "../pointing";
import { get, partOf, set, t, useExploreState, type Cell, type PanelProps } from "../state";
import { unpack } from "../unpack";
import { sentences } from "../words";
import { CutPhoto, isStretched } from "./photo";
import "./field.css";

export function FieldPanel(props: PanelProps) {
  const field = props.view.parts[props.part.id]?.field;
  return field && props.part.shape.length === 3 ? <FieldOf {...props} field={field} /> : null;
}

/** The network's input with what is pointed at: the receptive field of a cell, or a pixel. Beside the maps. */
export function FieldPhoto({ part, view }: Omit<PanelProps, "network">) {
  const { pointed } = useExploreState();
  const field = view.parts[part.id]?.field;
  const { size } = view.photo;
  if (!field) return null;
  const pixel = pointedIn(pointed, PHOTO, size, size);
  const cell = pointedIn(pointed, part.id, part.shape[1]!, part.shape[2]!);
  return (
    <div class="field-beside">
      <Input view={view} label={t("field.point")} cursor={pixel}>
        {pixel && <Pixel {...pixel} />}
        {cell && <FieldBox box={boxOf(field, cell.y, cell.x)} size={size} />}
      </Input>
      <p class="small soft">{t("field.beside", { height: whole(field.size[0]!), width: whole(field.size[1]!) })}</p>
    </div>
  );
}

function FieldOf({ part, view, network, field }: PanelProps & { field: Field }) {
  const { pointed } = useExploreState();
  const [rows, columns] = part.shape.slice(1) as [number, number];
  const { size } = view.photo;
  const pixel = pointedIn(pointed, PHOTO, size, size);
  const chosen = pointedIn(pointed, part.id, rows, columns);
  const cell = chosen ?? { part: part.id, y: Math.floor(rows / 2), x: Math.floor(columns / 2) };
  const box = boxOf(field, cell.y, cell.x);
  const stage = stageOf(view, part);
  return (
    <Panel title={t("field.title")} name="field">
      <p class="small soft">
        {sentences(
          t("field.size", { height: whole(field.size[0]!), width: whole(field.size[1]!), jump: field.jump[0]!, input: size }),
          Math.max(...field.size) > size && t("field.larger"),
          field.sees_all && t("field.sees_all"),
        )}
      </p>
      <div class="fields">
        <figure>
          <Input view={view} label={t("field.point")} cursor={pixel}>
            {pixel ? <Pixel {...pixel} /> : <FieldBox box={box} size={size} />}
          </Input>
          <figcaption class="small">
            <p aria-live="polite">
              {pixel ? <Responding {...{ view, part }} pointed={pixel} /> : <Covered {...{ cell, box, size }} isCell={chosen !== null} />}
            </p>
            <p class="soft">{t("field.how")}</p>
          </figcaption>
        </figure>
        <figure class="field-cells">
          {pixel ? (
            <Cells {...{ rows, columns }} box={cellsSeeing(view, part, pixel.y, pixel.x)} />
          ) : (
            <CutPhoto photo={view.photo}>
              <g transform={toPhoto(view)}>
                <FieldBox box={box} size={size} />
              </g>
            </CutPhoto>
          )}
          <figcaption class="small soft">
            <p>{pixel ? t("field.cells_of", { height: rows, width: columns, name: part.name }) : t("field.on_photo")}</p>
            {!pixel && isStretched(view.photo.width, view.photo.height) && <p>{t("photo.stretched")}</p>}
          </figcaption>
        </figure>
        {stage && <Effective {...{ view, network, stage }} />}
      </div>
    </Panel>
  );
}

/** The stage that a part belongs to, or it itself, if its effective field is known. */
function stageOf(view: View, part: Part): Part | null {
  let found: Part | undefined = part;
  while (found && !view.parts[found.id]?.effective) found = found.parent ? partOf(view.network, found.parent) : undefined;
  return found ?? null;
}

/** From pixels of the network's input to those of the photo. */
function toPhoto({ photo }: View): string {
  const [x, y] = photo.crop as [number, number];
  const [across, down] = [(photo.crop[2]! - x) / photo.size, (photo.crop[3]! - y) / photo.size];
  return `translate(${x} ${y}) scale(${across} ${down})`;
}

function Covered({ cell, box, size, isCell }: { cell: Cell; box: Box; size: number; isCell: boolean }) {
  const within = clipped(box, size, size);
  const values = { y: cell.y, x: cell.x, top: within.top, bottom: within.bottom - 1, left: within.left, right: within.right - 1 };
  const isBeyond = box.top < 0 || box.left < 0 || box.bottom > size || box.right > size;
  return <>{sentences(t(isCell ? "field.cell" : "field.centre", values), isBeyond && t("field.beyond"))}</>;
}

function Responding({ view, part, pointed }: { view: View; part: Part; pointed: Cell }) {
  const cells = cellsSeeing(view, part, pointed.y, pointed.x);
  if (!cells) return <>{t("field.no_cell", { y: pointed.y, x: pointed.x })}</>;
  const count = (cells.bottom - cells.top) * (cells.right - cells.left);
  return (
    <>
      {t("field.responding", {
        y: pointed.y,
        x: pointed.x,
        count: whole(count),
        of: whole(part.shape[1]! * part.shape[2]!),
        top: cells.top,
        bottom: cells.bottom - 1,
        left: cells.left,
        right: cells.right - 1,
      })}
    </>
  );
}

/** The network's input, on which one points with the mouse, a finger or the arrow keys. */
function Input({ view, label, cursor, children }: { view: View; label: string; cursor: Cell | null; children: ComponentChildren }) {
  const { size, input } = view.photo;
  const hint = useId();
  const follow = (event: PointerEvent) => pointAt(PHOTO, cellUnder(event, size, size));
  const forget = () => get().pointed?.part === PHOTO && set({ pointed: null });
  return (
    <>
      <svg
        class="field-input"
        viewBox={`0 0 ${size} ${size}`}
        tabIndex={0}
        role="application"
        aria-label={label}
        aria-describedby={hint}
        onPointerMove={follow}
        onPointerDown={follow}
        onPointerLeave={(event) => event.pointerType === "mouse" && document.activeElement !== event.currentTarget && forget()}
        onBlur={forget}
        onKeyDown={(event) => {
          if (event.key === "Escape" && cursor) return forget();
          const step = ARROWS[event.key];
          if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
          event.preventDefault();
          const far = event.shiftKey ? Math.max(1, Math.round(size / 14)) : 1;
          const from = cursor ?? { y: Math.floor(size / 2), x: Math.floor(size / 2) };
          pointAt(PHOTO, within(from.y + step[0] * far, from.x + step[1] * far, size, size));
        }}
      >
        <image href={input} width={size} height={size} />
        {children}
      </svg>
      <span class="said" id={hint}>
        {t("field.keys")}
      </span>
    </>
  );
}

function Pixel({ y, x }: Cell) {
  return (
    <g class="field-pixel">
      <path class="under" d={`M${x + 0.5} 0V4096M0 ${y + 0.5}H4096`} />
      <path d={`M${x + 0.5} 0V4096M0 ${y + 0.5}H4096`} />
      <circle cx={x + 0.5} cy={y + 0.5} r="3" />
    </g>
  );
}

/** A receptive field; where it reaches beyond the border of `size` pixels, the border has a dashed line. */
function FieldBox({ box, size, name = "" }: { box: Box; size: number; name?: string }) {
  const { top, left, bottom, right } = clipped(box, size, size);
  const sides: [boolean, string][] = [
    [box.top < top, `M${left} ${top}H${right}`],
    [box.bottom > bottom, `M${left} ${bottom}H${right}`],
    [box.left < left, `M${left} ${top}V${bottom}`],
    [box.right > right, `M${right} ${top}V${bottom}`],
  ];
  const path = (isBeyond: boolean) => sides.filter(([is]) => is === isBeyond).map(([, line]) => line).join("");
  return (
    <g class={`field-box ${name}`}>
      <rect class="inside" x={left} y={top} width={right - left} height={bottom - top} />
      <path class="under" d={path(false) + path(true)} />
      <path d={path(false)} />
      <path class="dashed" d={path(true)} />
    </g>
  );
}

/** The grid of a part's cells, with those that respond to a pixel. */
function Cells({ rows, columns, box }: { rows: number; columns: number; box: Box | null }) {
  const isSmall = Math.max(rows, columns) <= 32;
  const lines = [
    ...Array.from({ length: isSmall ? columns - 1 : 0 }, (_, x) => `M${x + 1} 0V${rows}`),
    ...Array.from({ length: isSmall ? rows - 1 : 0 }, (_, y) => `M0 ${y + 1}H${columns}`),
  ];
  return (
    <svg class="cell-grid" viewBox={`0 0 ${columns} ${rows}`} aria-hidden="true">
      {box && <rect class="responding" x={box.left} y={box.top} width={box.right - box.left} height={box.bottom - box.top} />}
      <path d={lines.join("")} />
      <rect class="frame" width={columns} height={rows} />
    </svg>
  );
}

function Effective({ view, network, stage }: Omit<PanelProps, "part"> & { stage: Part }) {
  const { field, effective } = view.parts[stage.id]!;
  const { size, input } = view.photo;
  const heat = useHeat(effective!);
  const [y, x] = effective!.cell as [number, number];
  const box = boxOf(field!, y, x);
  const values = {
    name: stage.name,
    y,
    x,
    channels: whole(stage.shape[0]!),
    share: percent(effective!.share),
    side: whole(effective!.side),
    height: whole(field!.size[0]!),
    width: whole(field!.size[1]!),
    step: effective!.step,
  };
  const middle = { y: (box.top + box.bottom) / 2, x: (box.left + box.right) / 2 };
  const half = effective!.side / 2;
  const square = { top: middle.y - half, left: middle.x - half, bottom: middle.y + half, right: middle.x + half };
  const within = clipped(square, size, size);
  const isBeyond = within.bottom - within.top < effective!.side || within.right - within.left < effective!.side;
  return (
    <figure>
      <svg class="field-effective" viewBox={`0 0 ${size} ${size}`} role="img" aria-label={t("effective.alt", values)}>
        <image class="grey" href={input} width={size} height={size} />
        {heat && (
          <image
            href={heat}
            x={effective!.left}
            y={effective!.top}
            width={effective!.width * effective!.step}
            height={effective!.height * effective!.step}
            preserveAspectRatio="none"
          />
        )}
        <FieldBox box={box} size={size} />
        <FieldBox box={square} size={size} name="share" />
      </svg>
      <figcaption class="small">
        <p>
          <b>{t("effective.title", values)}</b> {sentences(t("effective.side", values), isBeyond && t("effective.beyond"))}
        </p>
        <p class="soft">
          {sentences(
            t("effective.what", values),
            effective!.step > 1 && t("effective.step", values),
            network.untrained && t("effective.untrained"),
          )}
        </p>
      </figcaption>
    </figure>
  );
}

/** The gradient as a picture: the more of it, the less transparent, by its square root so that weak ones show. */
function useHeat({ data, height, width }: EffectiveField): string | null {
  const [found, setFound] = useState<string | null>(null);
  useEffect(() => {
    let isCurrent = true;
    unpack(data).then(
      (bytes) => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [width, height];
        const picture = new ImageData(width, height);
        bytes.forEach((byte, i) => picture.data.set([255, 106, 0, Math.round(255 * Math.sqrt(byte / 255))], 4 * i));
        canvas.getContext("2d")!.putImageData(picture, 0, 0);
        if (isCurrent) setFound(canvas.toDataURL());
      },
      () => isCurrent && setFound(null),
    );
    return () => void (isCurrent = false);
  }, [data]);
  return found;
}
