/** The arithmetic of one value, in float64, from the operands in the page. */

import type { Real, WorkedStep, WorkedValue } from "./document";
import { bytesOf } from "./unpack";

/** What one channel of the input gives: its values, their weights and the sum of the products. */
export interface ChannelSum {
  /** Of the input. */
  channel: number;
  operands: Float32Array;
  weights: Float32Array;
  sum: number;
}

export interface Result {
  channels: ChannelSum[];
  /** Of all products, those of the channels that were left out included. */
  products: number;
  /** With the bias. */
  sum: number;
  /** After each step; the first is `sum`. */
  after: number[];
}

export function workOut(value: WorkedValue): Result {
  const operands = new Float32Array(bytesOf(value.operands).buffer);
  const weights = new Float32Array(bytesOf(value.weights).buffer);
  const kept = value.kept === null ? null : indices(bytesOf(value.kept));
  const size = value.kernel[0]! * value.kernel[1]!;
  const channels: ChannelSum[] = [];
  let products = value.left_out ? Number(value.left_out.sum) : 0;
  for (let index = 0; index * size < operands.length; index++) {
    const [from, to] = [index * size, (index + 1) * size];
    let sum = 0;
    for (let at = from; at < to; at++) sum += operands[at]! * weights[at]!;
    products += sum;
    const channel = value.first + (kept ? kept[index]! : index);
    channels.push({ channel, operands: operands.subarray(from, to), weights: weights.subarray(from, to), sum });
  }
  const sum = products + (value.bias === null ? 0 : Number(value.bias));
  const after = [sum];
  for (const step of value.steps.slice(1)) after.push(apply(step, after.at(-1)!));
  return { channels, products, sum, after };
}

export function apply(step: WorkedStep, value: number): number {
  switch (step.op) {
    case "batch_norm": {
      const { scale, shift } = folded(step);
      return value * scale + shift;
    }
    case "add":
      return value + Number(step.other);
    case "multiply":
      return value * Number(step.other);
    case "concat":
    case "max_pool":
      return value;
    case "relu":
      return value > 0 || Number.isNaN(value) ? value : 0;
    case "clip":
      return clip(value, step.low ?? -Infinity, step.high ?? Infinity);
    case "sigmoid":
      return 1 / (1 + Math.exp(-value));
    case "silu":
      return value / (1 + Math.exp(-value));
    case "tanh":
      return Math.tanh(value);
    case "hardsigmoid":
      return clip(value + 3, 0, 6) / 6;
    case "hardswish":
      return (value * clip(value + 3, 0, 6)) / 6;
    case "leaky_relu":
      return value > 0 ? value : value * Number(step.slope);
    default:
      return NaN;
  }
}

/** Batch norm as one multiplication and one addition. */
export function folded(step: WorkedStep): { scale: number; shift: number } {
  const scale = Number(step.weight ?? 1) / Math.sqrt(Number(step.var) + Number(step.eps));
  return { scale, shift: Number(step.bias ?? 0) - Number(step.mean) * scale };
}

/** Whether two numbers are the same to 1e-4, of their size where that is more than one. */
export const agrees = (found: number, own: number): boolean =>
  Object.is(found, own) || Math.abs(found - own) <= 1e-4 * Math.max(1, Math.abs(own));

const clip = (value: number, low: Real, high: Real): number => Math.min(Math.max(value, Number(low)), Number(high));

/** Of the bits that are set. */
function indices(mask: Uint8Array): number[] {
  const found: number[] = [];
  for (let index = 0; index < 8 * mask.length; index++) if ((mask[index >> 3]! >> (index & 7)) & 1) found.push(index);
  return found;
}
