/** The photo on its way to the network: photo, resized, cropped, normalised. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { baseName, percent, whole } from "../../format";
import type { Photo } from "../document";
import { t, type OverviewProps } from "../state";
import "./photo.css";

const COLOURS = ["red", "green", "blue"] as const;

export function PhotoPanel({ view, network }: OverviewProps) {
  const { photo } = view;
  const channels = network.input[0]!;
  const isGrey = channels === 1;
  const [width, height] = photo.resized as [number, number];
  const isResized = width !== photo.strip[2]! - photo.strip[0]! || height !== photo.strip[3]! - photo.strip[1]!;
  const cut = 1 - keptShare(photo);
  return (
    <section class="photo-way">
      <h2>{t("photo.title")}</h2>
      <ol class="photo-steps">
        <Step
          title={t("photo.photo")}
          size={pixels(photo.width, photo.height)}
          picture={<CutPhoto photo={photo} />}
        >
          <p>{cut > 0.0005 ? t("photo.cut", { share: percent(cut) }) : t("photo.uncut")}</p>
          {isStretched(photo.width, photo.height) && <p>{t("photo.stretched")}</p>}
          {photo.done.map((key) => (
            <p key={key}>{t(`photo.done.${key}`)}</p>
          ))}
        </Step>
        <Step
          title={t("photo.resized")}
          size={pixels(width, height)}
          picture={<Resized photo={photo} />}
        >
          <p>
            {isResized
              ? t(photo.squashed ? "photo.squashed" : "photo.shorter", { size: Math.min(width, height), method: t(`photo.method.${photo.interpolation}`) })
              : t("photo.not_resized")}
          </p>
          {isStretched(width, height) && <p>{t("photo.stretched")}</p>}
          {photo.strip[2]! - photo.strip[0]! + photo.strip[3]! - photo.strip[1]! < photo.width + photo.height && (
            <p>{t("photo.strip", { width: whole(photo.strip[2]! - photo.strip[0]!), height: whole(photo.strip[3]! - photo.strip[1]!) })}</p>
          )}
        </Step>
        <Step
          title={t("photo.cropped")}
          size={pixels(photo.size, photo.size)}
          picture={<img src={photo.input} alt={t("photo.cropped_alt")} />}
        >
          <p>{t(reachesBeyond(photo) ? "photo.black" : "photo.centre")}</p>
          {!photo.lossless && <p>{t("photo.lossy")}</p>}
        </Step>
        <Step
          title={t("photo.normalised")}
          size={`${channels} × ${photo.size} × ${photo.size}`}
          picture={isGrey ? <img class="grey" src={photo.input} alt={t("photo.cropped_alt")} /> : <Channels photo={photo} />}
          wide={!isGrey}
        >
          {channels !== 3 && <p>{t(isGrey ? "note.input.grey" : "note.input.repeated", { channels })}</p>}
          {!isGrey && <ChannelTable photo={photo} />}
        </Step>
      </ol>
    </section>
  );
}

/** Of each colour how it is normalised, and what it comes to. */
function ChannelTable({ photo }: { photo: Photo }) {
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={t("photo.normalised")}>
      <table class="photo-channels">
        <thead>
          <tr>
            <td />
            <th scope="col">{t("photo.formula")}</th>
            <th scope="col">{t("photo.range")}</th>
            <th scope="col">{t("photo.mean_std")}</th>
          </tr>
        </thead>
        <tbody>
          {COLOURS.map((colour, c) => (
            <tr key={colour}>
              <th scope="row">{t(`photo.${colour}`)}</th>
              <td class="number">{`(v / 255 − ${digits(photo.mean[c]!)}) / ${digits(photo.std[c]!)}`.replace("− −", "+ ")}</td>
              <td class="number">{`${decimals(photo.channels[c]!.low)} … ${decimals(photo.channels[c]!.high)}`}</td>
              <td class="number">{`${decimals(photo.channels[c]!.mean)} ± ${decimals(photo.channels[c]!.std)}`}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const pixels = (width: number, height: number): string => t("photo.pixels", { width: whole(width), height: whole(height) });
const digits = (value: number): string => String(Number(value.toPrecision(3))).replace("-", "−");
const decimals = (value: number): string => value.toFixed(2).replace("-", "−");

interface StepProps {
  title: string;
  size: string;
  picture: ComponentChildren;
  children: ComponentChildren;
  wide?: boolean;
}

function Step({ title, size, picture, children, wide }: StepProps) {
  return (
    <li class={wide ? "wide" : ""}>
      <figure>
        <div class="photo-frame">{picture}</div>
        <figcaption class="small">
          <p>
            <b>{title}</b> <span class="number">{size}</span>
          </p>
          <div class="soft">{children}</div>
        </figcaption>
      </figure>
    </li>
  );
}

/** The share of the photo's pixels that the network sees. */
function keptShare({ crop, width, height }: Photo): number {
  const across = Math.min(width, crop[2]!) - Math.max(0, crop[0]!);
  const down = Math.min(height, crop[3]!) - Math.max(0, crop[1]!);
  return (across * down) / (width * height);
}

const reachesBeyond = ({ box, resized }: Photo): boolean =>
  box[0]! < 0 || box[1]! < 0 || box[2]! > resized[0]! || box[3]! > resized[1]!;

/** A longer picture than this is drawn with its shorter side stretched. */
const LONGEST = 10;
/** Up to this longer side the photo's pixels are drawn as squares. */
const TINY = 64;

export const isStretched = (width: number, height: number): boolean =>
  Math.max(width, height) > LONGEST * Math.min(width, height);

/** The whole photo, shaded where the network does not see it; black where it sees beyond the edges. */
export function CutPhoto({ photo, children }: { photo: Photo; children?: ComponentChildren }) {
  const { width, height, crop } = photo;
  return (
    <Framed
      width={width}
      height={height}
      box={crop}
      label={t("photo.photo_alt", { name: baseName(photo.name) })}
      picture={
        <image
          class={Math.max(width, height) <= TINY ? "pixels" : ""}
          href={photo.picture}
          width={width}
          height={height}
          preserveAspectRatio="none"
        />
      }
    >
      {children}
    </Framed>
  );
}

/** The photo after resizing, of which the box is cut out. */
function Resized({ photo }: { photo: Photo }) {
  const [width, height] = photo.resized as [number, number];
  const [left, top, right, bottom] = photo.strip as [number, number, number, number];
  const [across, down] = [width / (right - left), height / (bottom - top)];
  return (
    <Framed
      width={width}
      height={height}
      box={photo.box}
      label={t("photo.resized_alt")}
      picture={
        <image
          href={photo.picture}
          x={-left * across}
          y={-top * down}
          width={photo.width * across}
          height={photo.height * down}
          preserveAspectRatio="none"
        />
      }
    />
  );
}

interface FramedProps {
  width: number;
  height: number;
  box: number[];
  label: string;
  picture: ComponentChildren;
  children?: ComponentChildren;
}

function Framed({ width, height, box, label, picture, children }: FramedProps) {
  const [left, top, right, bottom] = box as [number, number, number, number];
  const [x, y] = [Math.min(0, left), Math.min(0, top)];
  const [across, down] = [Math.max(width, right) - x, Math.max(height, bottom) - y];
  const ratio = Math.max(1 / LONGEST, Math.min(LONGEST, across / down));
  const shape = `M0 0H${width}V${height}H0ZM${left} ${top}V${bottom}H${right}V${top}Z`;
  return (
    <svg
      class="photo-cut"
      viewBox={`${x} ${y} ${across} ${down}`}
      preserveAspectRatio="none"
      style={{ aspectRatio: `${ratio}`, width: `min(100%, calc(${ratio} * var(--tallest)))` }}
      role="img"
      aria-label={label}
    >
      <rect class="beyond" x={left} y={top} width={right - left} height={bottom - top} />
      <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none">
        {picture}
      </svg>
      <path class="cut" d={shape} fill-rule="evenodd" />
      <rect class="kept" x={left} y={top} width={right - left} height={bottom - top} />
      {children}
    </svg>
  );
}

/** Red, green and blue, each from its least (black) to its greatest value (white). */
function Channels({ photo }: { photo: Photo }) {
  const canvases = useRef<(HTMLCanvasElement | null)[]>([]);
  useEffect(() => {
    let isCurrent = true;
    const image = new Image();
    image.onload = () => {
      if (!isCurrent) return;
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const context = canvas.getContext("2d", { willReadFrequently: true })!;
      context.drawImage(image, 0, 0);
      const found = context.getImageData(0, 0, canvas.width, canvas.height);
      canvases.current.forEach((target, channel) => target && drawChannel(target, found, channel));
    };
    image.src = photo.input;
    return () => void (isCurrent = false);
  }, [photo.input]);
  return (
    <div class="photo-colours">
      {COLOURS.map((colour, channel) => (
        <canvas
          key={colour}
          ref={(canvas) => void (canvases.current[channel] = canvas)}
          width={photo.size}
          height={photo.size}
          role="img"
          aria-label={t(`photo.${colour}`)}
        />
      ))}
    </div>
  );
}

function drawChannel(canvas: HTMLCanvasElement, { data, width, height }: ImageData, channel: number): void {
  let [low, high] = [255, 0];
  for (let i = channel; i < data.length; i += 4) {
    low = Math.min(low, data[i]!);
    high = Math.max(high, data[i]!);
  }
  const grey = new ImageData(width, height);
  for (let i = 0; i < data.length; i += 4) {
    const value = high > low ? (255 * (data[i + channel]! - low)) / (high - low) : 128;
    grey.data.set([value, value, value, 255], i);
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d")!.putImageData(grey, 0, 0);
}
