/** Numbers of the page, with a true minus sign. */

const minus = (text: string): string => text.replaceAll("-", "−");

/** 0.0123, 1.23, 123 with three significant digits; 1.2e−7 where there would be more than three zeros. */
export function significant(value: number, digits = 3): string {
  if (value === 0 || !Number.isFinite(value)) return minus(String(value));
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size < -4 || size > 6) return minus(value.toExponential(digits - 1));
  return minus(value.toFixed(Math.max(0, digits - 1 - size)));
}

/** With its sign: +0.31, −0.02. */
export const signed = (value: number, digits = 3): string => `${value > 0 ? "+" : ""}${significant(value, digits)}`;

/** Decimals at which an error has two significant digits. */
export const decimalsOf = (error: number): number =>
  error > 0 ? Math.max(0, Math.min(9, 1 - Math.floor(Math.log10(error)))) : 4;

/** A value that is known to ± `error`, at as many decimals as make sense. */
export const fixed = (value: number, error: number): string => {
  const text = value.toFixed(decimalsOf(error));
  return minus(Number(text) === 0 ? text.replace("-", "") : text);
};

/** An error at two significant digits, rounded up so that it also holds for the rounded value. */
export function errorText(error: number): string {
  if (error <= 0) return "0";
  const unit = 10 ** -decimalsOf(error);
  return (Math.ceil((error + unit / 2) / unit) * unit).toFixed(decimalsOf(error));
}
