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
  /** How large the numbers are that cancel out in the last one: its rounding error in float32 is a share of it. */
  size: number;
}

export function workOut(value: WorkedValue): Result {
  const operands = new Float32Array(bytesOf(value.operands).buffer);
  const weights = new Float32Array(bytesOf(value.weights).buffer);
  const kept = value.kept === null ? null : indices(bytesOf(value.kept));
  const size = value.kernel[0]! * value.kernel[1]!;
  const channels: ChannelSum[] = [];
  let products = value.left_out ? Number(value.left_out.sum) : 0;
  let magnitude = value.left_out ? Number(value.left_out.size) : 0;
  for (let index = 0; index * size < operands.length; index++) {
    const [from, to] = [index * size, (index + 1) * size];
    let sum = 0;
    for (let at = from; at < to; at++) {
      sum += operands[at]! * weights[at]!;
      magnitude += Math.abs(operands[at]! * weights[at]!);
    }
    products += sum;
    const channel = value.first + (kept ? kept[index]! : index);
    channels.push({ channel, operands: operands.subarray(from, to), weights: weights.subarray(from, to), sum });
  }
  const sum = products + (value.bias === null ? 0 : Number(value.bias));
  const after = [sum];
  magnitude += Math.abs(Number(value.bias ?? 0));
  for (const step of value.steps.slice(1)) {
    after.push(apply(step, after.at(-1)!));
    magnitude = grown(step, magnitude);
  }
  return { channels, products, sum, after, size: magnitude };
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

/** What `Result.size` is after a step. */
function grown(step: WorkedStep, size: number): number {
  switch (step.op) {
    case "batch_norm": {
      const { scale } = folded(step);
      return (size + Math.abs(Number(step.mean))) * Math.abs(scale) + Math.abs(Number(step.bias ?? 0));
    }
    case "add":
      return size + Math.abs(Number(step.other));
    case "multiply":
      return size * Math.abs(Number(step.other));
    default: // a function of one number, which is hardly steeper than 1
      return size;
  }
}

/** Rounding of float32 in a sum of thousands of products, as a share of their magnitudes. */
const ROUNDING = 1e-5;

/** Whether two numbers are the same to 1e-4 of their size, or to the rounding of numbers of this size that cancel out. */
export const agrees = (found: number, own: number, size: number): boolean =>
  found === own || Math.abs(found - own) <= Math.max(1e-4 * Math.abs(own), ROUNDING * size);

const clip = (value: number, low: Real, high: Real): number => Math.min(Math.max(value, Number(low)), Number(high));

/** Of the bits that are set. */
function indices(mask: Uint8Array): number[] {
  const found: number[] = [];
  for (let index = 0; index < 8 * mask.length; index++) if ((mask[index >> 3]! >> (index & 7)) & 1) found.push(index);
  return found;
}
