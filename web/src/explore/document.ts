/** The document that `vertebra.explore` writes into the page (`src/vertebra/explore/document.py`).
 *
 * A number that is NaN or infinite is null; of the layers where there are such, a note tells.
 */

export interface Document {
  schema: number;
  language: Language;
  networks: Network[];
  /** One, or two that are shown beside each other. */
  views: View[];
  /** What was left out, or has to be known: the key of a text, and its values. */
  notes: PageNote[];
}

export type Language = "en" | "ja";

/** What the reader has to know; of lists of names the page shows the first. */
export interface PageNote {
  key: string;
  values: Record<string, string | number | string[]>;
}

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
  patches?: Patches;
}

/** What a part is coloured by. */
export type Cost = "parameters" | "macs" | "bytes" | "ms";

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
  /** By channel and position of the last map; null where the network has none. */
  evidence: Evidence | null;
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
  /** Both sides are resized to the same length. */
  squashed: boolean;
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
  gates?: Gate[];
  additions?: Addition[];
  branches?: Concatenation[];
  dense?: DenseBlock;
  activations?: Activation[];
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
  /** Of the layer: channel, then row and column where there are. */
  cell: number[];
  /** Of a value of a stage's output: the id of the layer that it is made in, and its own channel, row and column. */
  made_in?: string;
  output?: number[];
  /** The sum, then batch norm and activation, and what else is on the way to a stage's output. */
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
  /** Which of the channels are here, counted from `first`, as base64 of a bit each, of a byte the lowest first; null: all. */
  kept: string | null;
  left_out: { channels: number; terms: number; sum: Real; size: Real } | null;
  /** base64 of float32: for each channel its rows and columns. */
  operands: string;
  weights: string;
  bias: Real | null;
}

/** `value` is the network's own after the step, in float32. */
export interface WorkedStep {
  op: string;
  row: number;
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
  /** Of "add" and "multiply". */
  other?: Real;
  /** Of "concat": its channel. */
  channel?: number;
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

/** Of a folder of photos, what excites the channels of a network most. */
export interface Patches {
  /** Photos that were read. */
  searched: number;
  /** Data URLs. */
  pictures: string[];
  /** Names. */
  photos: string[];
  /** By part and channel, the strongest first: [index of the picture, value, index of the photo]. */
  parts: Record<string, Record<string, [number, number, number][]>>;
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

/** A squeeze-excitation gate; `row` is the product's. */
export interface Gate {
  row: number;
  name: string;
  function: string;
  /** By channel. */
  values: number[];
  mean: number;
  low: number;
  high: number;
}

/** Pictures of the mean absolute value over channels, with one scale: value = byte / 255 × high. */
export interface Pictures {
  names: string[];
  height: number;
  width: number;
  high: number;
  /** base64 of deflated bytes, one picture after the other. */
  data: string;
}

export type Operand = "skip" | "branch";

/** The sum of a shortcut and a residual branch. */
export interface Addition {
  row: number;
  name: string;
  /** Whether nothing lies on the shortcut. */
  identity: boolean;
  /** Whether it is clear which operand is the shortcut: the one with fewer layers. */
  known: boolean;
  layers: Record<Operand, number>;
  sources: Record<Operand, string>;
  norms: Record<Operand | "sum", number>;
  contributions: Record<Operand | "sum", number | null>;
  cosine: number;
  pictures: Pictures | null;
}

export interface Concatenation {
  row: number;
  name: string;
  channels: number;
  contribution: number | null;
  branches: Branch[];
  /** Named by the index of the branch; null for many branches. */
  pictures: Pictures | null;
}

export interface Branch {
  name: string;
  steps: { label: Label[]; detail: string }[];
  start: number;
  channels: number;
  norm: number;
  contribution: number | null;
}

export interface DenseBlock {
  block: string;
  /** The sources after the first, which is the block's input. */
  sources: string[];
  readers: DenseReader[];
}

/** A layer of a dense block, or what reads the whole block; lists are by source. */
export interface DenseReader {
  name: string;
  row: number;
  channels: number[];
  /** Mean absolute weight. */
  weights: number[];
  contributions: number[] | null;
}

export interface Activation {
  row: number;
  name: string;
  /** Name of the operation that it reads. */
  source: string;
  function: string;
  /** Lower edge of the first of the bins, their width, and how many of them are below 0. */
  low: number;
  width: number;
  zero: number;
  before: number[];
  after: number[];
  values: number;
  /** Shares of values before it: below 0, above `cap`. */
  negative: number;
  capped: number | null;
  cap: number | null;
  /** Whether negative values become 0. */
  cut: boolean;
  lowest: number;
  /** Mean and standard deviation before and after the activation, and before and after the norm that it follows. */
  moments: number[][];
  norm: number[][] | null;
}

export interface Evidence {
  /** "linear": w × mean of the map, which adds up with the bias to the logit; "gradient": gradient × value. */
  formula: "linear" | "gradient";
  /** The layer of the last map. */
  part: string;
  row: number;
  name: string;
  channels: number;
  map: number[];
  height: number;
  width: number;
  classes: ClassEvidence[];
}

export interface ClassEvidence {
  index: number;
  logit: number;
  bias: number | null;
  sum: number;
  /** [channel, contribution], the strongest first. */
  for: [number, number][];
  against: [number, number][];
  positive: number;
  negative: number;
  /** Contribution of each position, by line. */
  cells: number[][];
}
