/** The document that `vertebra.explore` writes into the page (`src/vertebra/explore/document.py`). */

export interface Document {
  schema: number;
  language: Language;
  networks: Network[];
  /** One, or two that are shown beside each other. */
  views: View[];
  /** What was left out, or has to be known: the key of a text, and its values. */
  notes: Note[];
}

export type Language = "en" | "ja";

export interface Note {
  key: string;
  values: Record<string, string | number>;
}

export interface Network {
  name: string;
  type: string;
  untrained: boolean;
  weights: string;
  /** (C, H, W) */
  input: number[];
  classes: number;
  parameters: number;
  macs: number;
  bytes: number;
  /** Sum over the parts, as timed on the machine that made the page. */
  ms: number | null;
  /** Parents before their children, in the order in which they run. */
  parts: Part[];
  /** Modules with parameters that do not run, such as heads for training only. */
  unused: { name: string; type: string; parameters: number }[];
}

export type Level = "stage" | "block" | "layer" | "operation";

/** What a part is called: the key of a text, its values, and how many of them follow each other ("3 × Bottleneck"). */
export interface Label extends Note {
  count: number;
}

export interface Part {
  /** From the path of its module, "layer/layer1.0.conv1": the same in two networks of one architecture. */
  id: string;
  level: Level;
  name: string;
  /** What it does in its block: the text `role.${role}`; "" for a stage. */
  role: string;
  /** Joined by the text "label.separator". */
  label: Label[];
  /** The label in English. */
  type: string;
  rows: number[];
  /** The row that a layer is named after: its convolution. */
  main: number;
  parent: string | null;
  children: string[];
  /** Ids of parts of the same parent, or of the outermost part outside that does not hold this one; or "input". */
  reads: string[];
  /** Of each of `reads`, without the batch. */
  read_shapes: number[][];
  /** Of each of `reads`: the lane in which its arrow passes the ranks between the two; sideways only between ranks. */
  read_lanes: number[];
  /** Column and row among the children of its parent, from 0; what is outside is above row 0. */
  lane: number;
  rank: number;
  /** Of the output, without the batch: (C, H, W) or (C,). */
  shape: number[];
  detail: string;
  parameters: number;
  macs: number;
  bytes: number;
  ms: number | null;
}

export interface View {
  network: number;
  photo: Photo;
  /** The best classes, the best first. */
  predictions: Prediction[];
  /** Index of the class that all contributions are to. */
  target: number;
  parts: Record<string, Seen>;
}

export interface Prediction {
  index: number;
  name: string;
  logit: number;
  probability: number;
}

export interface Photo {
  name: string;
  width: number;
  height: number;
  /** What was done to the file's picture: `photo.done.…` are the texts. */
  done: string[];
  /** The part that is resized: all but of a long strip. Boxes are (left, top, right, bottom), here in pixels of the photo. */
  strip: number[];
  /** What the network sees, in pixels of the photo; black beyond its edges. */
  crop: number[];
  /** (width, height) of the photo after resizing, of which `box`, `size` × `size` pixels, is cut out. */
  resized: number[];
  interpolation: string;
  box: number[];
  size: number;
  mean: number[];
  std: number[];
  /** Of the normalised red, green and blue. */
  channels: { low: number; high: number; mean: number; std: number }[];
  /** The photo, at most 1024 pixels long, and the pixels that the network sees, as data URLs. */
  picture: string;
  input: string;
  /** Whether `input` has just those pixels. */
  lossless: boolean;
}

/** What is known of a part on this photo; each section of `SECTIONS` in document.py has a key. */
export interface Seen {
  maps?: Maps;
  vector?: Vector;
  formula?: Formula;
  field?: Field;
  effective?: EffectiveField;
  /** Those that were asked for, then the one that contributes most. */
  worked?: (WorkedValue | RefusedValue)[];
}

/** A number; "NaN", "Infinity" or "-Infinity", which JSON does not have. */
export type Real = number | string;

/** A layer of which no value is worked out: the key of the text that says why. */
export interface RefusedValue {
  refused: string;
}

/** A value of a layer with weights, with all that it is made of. */
export interface WorkedValue {
  refused?: undefined;
  /** Path of the convolution or linear layer. */
  layer: string;
  asked: boolean;
  /** Channel, then row and column where there are. */
  cell: number[];
  /** The sum, then batch norm and activation. */
  steps: WorkedStep[];
  kind: "convolution" | "linear";
  /** Id of the layer whose output it reads, or "input". */
  reads: string | null;
  /** The channels of the input that are read: `channels` of them from `first` on. */
  first: number;
  channels: number;
  /** (rows, columns) */
  kernel: number[];
  /** Of a convolution: row and column of the input under the kernel's first weight; outside of it there are zeros. */
  corner?: number[];
  dilation?: number[];
  /** (rows, columns) of the input. */
  size?: number[];
  /** Of a linear layer that reads flattened maps: their (C, H, W). */
  flattened?: number[] | null;
  /** Which of the channels are here, counted from `first`, as base64 of uint32; null: all. */
  kept: string | null;
  left_out: { channels: number; terms: number; sum: Real } | null;
  /** base64 of float32: for each channel its rows and columns. */
  operands: string;
  weights: string;
  bias: Real | null;
}

/** `value` is the network's own after the step, in float32. */
export interface WorkedStep {
  op: string;
  value: Real;
  /** Of batch norm. */
  mean?: Real;
  var?: Real;
  eps?: Real;
  weight?: Real | null;
  bias?: Real | null;
  from_batch?: boolean;
  /** Of "clip", each null where there is no limit. */
  low?: Real | null;
  high?: Real | null;
  /** Of "leaky_relu". */
  slope?: Real;
}

/**
 * The theoretical receptive field, (rows, columns): cell i depends on the pixels from start + i × jump to
 * start + i × jump + size − 1 of the input.
 */
export interface Field {
  size: number[];
  jump: number[];
  start: number[];
  /** Whether it depends on the whole input besides, by a gate or a global pooling. */
  sees_all: boolean;
}

/** |gradient| of the sum over channels at one cell with respect to the input, summed over colours, on this photo. */
export interface EffectiveField {
  /** (row, column) */
  cell: number[];
  /** The part of the input that `data` covers: first row and column, in pixels. */
  top: number;
  left: number;
  /** Of `data`; each value is the mean of step × step pixels. */
  height: number;
  width: number;
  step: number;
  /** Side in pixels of the smallest square, centred where the theoretical field is, with this share of the gradient. */
  side: number;
  share: number;
  /** base64 of deflated bytes, row by row; 255 is the largest value. */
  data: string;
}

export interface Maps {
  channels: number[];
  of: number;
  height: number;
  width: number;
  low: number[];
  high: number[];
  contributions: number[] | null;
  /** base64 of deflated bytes, channel by channel: value = low + byte / 255 × (high − low). */
  data: string;
}

/** An output of one value a channel. */
export interface Vector {
  channels: number[];
  of: number;
  values: number[];
  contributions: number[] | null;
}

/** MACs = product of `spatial`, `outputs`, `inputs` / `groups` and `kernel`; of a linear layer the first and last are empty. */
export interface Formula {
  spatial: number[];
  outputs: number;
  inputs: number;
  groups: number;
  kernel: number[];
  macs: number;
}
