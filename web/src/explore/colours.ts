/** Colours of values. Zero has the colour of the page; positive values go over orange to brown, negative ones to blue.
 *
 * Lightness changes evenly with the distance from zero, and orange and blue differ for all kinds of colour blindness.
 */

/** Values from `low` to `high` get colours; zero is neutral, and `extent` has the strongest colour. */
export interface Scale {
  low: number;
  high: number;
  extent: number;
}

/** The scale of values from `low` to `high`: zero belongs to every scale. */
export const scaleOf = (low: number, high: number): Scale => ({
  low: Math.min(0, low),
  high: Math.max(0, high),
  extent: Math.max(-low, high, 0) || 1,
});

/** Steps from zero to the strongest colour. */
const STEPS = 255;

interface Ramp {
  /** Lightness, chroma and hue (degrees) in OKLCH at zero, in the middle and at the end. */
  points: [number, number, number][];
}

const RAMPS: Record<"light" | "dark", { positive: Ramp; negative: Ramp }> = {
  light: {
    positive: { points: [[0.97, 0.004, 85], [0.72, 0.15, 62], [0.34, 0.09, 40]] },
    negative: { points: [[0.97, 0.004, 240], [0.7, 0.12, 243], [0.32, 0.12, 266]] },
  },
  dark: {
    positive: { points: [[0.22, 0.006, 60], [0.62, 0.15, 52], [0.95, 0.09, 95]] },
    negative: { points: [[0.22, 0.006, 250], [0.6, 0.14, 255], [0.94, 0.05, 215]] },
  },
};

export type Theme = keyof typeof RAMPS;

/** The theme that the page has now. */
export const themeNow = (): Theme => (document.documentElement.dataset["theme"] === "dark" ? "dark" : "light");

const tables = new Map<Theme, Uint8ClampedArray>();

/** RGB of −STEPS … STEPS, one after the other. */
function table(theme: Theme): Uint8ClampedArray {
  let found = tables.get(theme);
  if (!found) {
    found = new Uint8ClampedArray(3 * (2 * STEPS + 1));
    for (let step = -STEPS; step <= STEPS; step++) {
      const ramp = step < 0 ? RAMPS[theme].negative : RAMPS[theme].positive;
      found.set(colourOn(ramp, Math.abs(step) / STEPS), 3 * (step + STEPS));
    }
    tables.set(theme, found);
  }
  return found;
}

/** The colour of a share (0 to 1) of the way from zero to the end of a ramp. */
function colourOn({ points }: Ramp, share: number): [number, number, number] {
  const place = share * (points.length - 1);
  const index = Math.min(points.length - 2, Math.floor(place));
  const [from, to] = [points[index]!, points[index + 1]!];
  const at = (axis: 0 | 1 | 2) => from[axis] + (to[axis] - from[axis]) * (place - index);
  return rgb(at(0), at(1), at(2));
}

/** OKLCH → sRGB (Ottosson 2020, https://bottosson.github.io/posts/oklab/). */
function rgb(lightness: number, chroma: number, hue: number): [number, number, number] {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const gamma = (x: number) => 255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);
  return [
    gamma(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    gamma(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    gamma(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

const stepOf = (value: number, { extent }: Scale): number =>
  STEPS + Math.max(-STEPS, Math.min(STEPS, Math.round((value / extent) * STEPS)));

/** The colour of a value, as CSS. */
export function colour(value: number, scale: Scale, theme: Theme): string {
  const colours = table(theme);
  const start = 3 * stepOf(value, scale);
  return `rgb(${colours[start]} ${colours[start + 1]} ${colours[start + 2]})`;
}

/** Draw bytes, of which 0 is `low` and 255 is `high`, on a canvas of one pixel a value. */
export function paint(
  canvas: HTMLCanvasElement,
  bytes: Uint8Array,
  height: number,
  width: number,
  low: number,
  high: number,
  scale: Scale,
  theme: Theme,
): void {
  const colours = table(theme);
  // Of little-endian pixels; a table by byte, since there are more pixels than bytes.
  const pixelOf = new Uint32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    const start = 3 * stepOf(low + (byte / 255) * (high - low), scale);
    pixelOf[byte] = (255 << 24) | (colours[start + 2]! << 16) | (colours[start + 1]! << 8) | colours[start]!;
  }
  const pixels = new Uint32Array(height * width);
  for (let i = 0; i < pixels.length; i++) pixels[i] = pixelOf[bytes[i]!]!;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  canvas.getContext("2d")!.putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
}

/** Draw the scale itself, from low at the left to high at the right, on a canvas of one row. */
export function paintScale(canvas: HTMLCanvasElement, scale: Scale, theme: Theme): void {
  const bytes = Uint8Array.from({ length: 256 }, (_, byte) => byte);
  paint(canvas, bytes, 1, 256, scale.low, scale.high, scale, theme);
}
