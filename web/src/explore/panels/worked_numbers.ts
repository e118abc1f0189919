/** Numbers of a calculation, short but with enough digits to follow it. */

import { significant } from "../numbers";

/** 0.012345, −1.2346, 1.2346e−6 */
export const brief = (value: number | string, digits = 5): string => trimmed(significant(Number(value), digits));

/** With the digits that float32 has. */
export const exact = (value: number | string): string => brief(value, 8);

/** For a small cell of a table. */
export function tiny(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(0).replaceAll("-", "−");
  return brief(value, size < 0.01 ? 2 : 3);
}

export const inverse = (value: number | string): number => -Number(value);

/** Without zeros at the end: 1.5000 is 1.5, and 6.0000 is 6. */
const trimmed = (text: string): string => text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");
