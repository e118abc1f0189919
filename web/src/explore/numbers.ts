/** Numbers of the page, with a true minus sign. */

const minus = (text: string): string => text.replaceAll("-", "−");

/** JSON has neither, and null in their place. */
export const NOT_FINITE = "NaN / ∞";

/** 0.0123, 1.23, 123 with three significant digits; 1.2e−7 where there would be more than three zeros. */
export function significant(value: number | null, digits = 3): string {
  if (value === null) return NOT_FINITE;
  if (value === 0 || !Number.isFinite(value)) return minus(String(value));
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size < -4 || size > 6) return minus(value.toExponential(digits - 1));
  return minus(value.toFixed(Math.max(0, digits - 1 - size)));
}

/** With its sign: +0.31, −0.02. */
export const signed = (value: number | null, digits = 3): string => `${value !== null && value > 0 ? "+" : ""}${significant(value, digits)}`;

/** Decimals at which an error has two significant digits. */
const decimalsOf = (error: number): number => Math.max(0, 1 - Math.floor(Math.log10(error)));

/** Below it, powers of ten are shorter. */
const SMALLEST = 1e-5;

/** A value that is known to ± `error`, at as many decimals as make sense. */
export function fixed(value: number | null, error: number): string {
  if (value === null) return NOT_FINITE;
  if (error < SMALLEST) return significant(value, 4);
  const text = value.toFixed(decimalsOf(error));
  return minus(Number(text) === 0 ? text.replace("-", "") : text);
}

/** An error at two significant digits, rounded up so that it also holds for the rounded value. */
export function errorText(error: number): string {
  if (error === 0) return "0";
  const unit = 10 ** Math.floor(Math.log10(error) - 1);
  const up = (Math.ceil((1.001 * error) / unit + 0.5) * unit);
  return error < SMALLEST ? minus(up.toExponential(1)) : up.toFixed(decimalsOf(error));
}

/** The ends of a scale, at decimals that fit its width. */
export function ends(low: number, high: number): [string, string] {
  const width = high - low;
  if (width > 0 && (width < 1e-3 || width >= 1e6)) return [significant(low), significant(high)];
  const decimals = width > 0 ? Math.max(0, Math.min(3, 3 - Math.ceil(Math.log10(width)))) : 0;
  return [minus(low.toFixed(decimals)), minus(high.toFixed(decimals))];
}
