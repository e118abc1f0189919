/** The server's API: requests, responses and errors. */

export interface Info {
  version: string;
  auth: boolean;
  limits: { images: number; bytes: number; pixels: number };
}

export interface Model {
  name: string;
  architecture: string;
  classes: number;
  input_size: number;
  engine: string;
  precision?: string;
  threshold: number | null;
  explain: "activation" | "occlusion";
  metrics: Record<string, Record<string, unknown>>;
  loaded: string;
  default: boolean;
  error?: string | null;
}

export interface Card {
  architecture: string;
  preprocessing: {
    crop_size: number;
    resize_size: number;
    crop_mode?: string;
    interpolation: string;
    mean: number[];
    std: number[];
  };
  classes: string[] | null;
  weights: { name: string; sha256: string | null; url: string | null } | null;
  metrics: Record<string, unknown>;
  versions: Record<string, string>;
  licence: string | null;
  precision: string;
  created: string | null;
  temperature: number;
  threshold: number | null;
}

export interface Stage {
  name: string;
  kind: string;
  channels: number;
  height: number;
  width: number;
  parameters: number;
  macs: number;
  layers: number;
}

export interface Anatomy {
  input: [number, number, number];
  stages: Stage[];
  parameters: number;
  macs: number;
}

export interface Prediction {
  class: string;
  index: number;
  probability: number;
}

export interface Timing {
  decode_ms: number;
  queue_ms: number;
  inference_ms: number;
  batch: number;
}

export interface Result {
  name: string;
  error: string | null;
  width?: number;
  height?: number;
  predictions: Prediction[];
  unsure?: boolean | null;
  timing?: Timing;
}

export interface Heat {
  url: string;
  method: string;
}

/** The server responded with an error. */
export class RefusedError extends Error {
  constructor(
    message: string,
    readonly status: number,
    /** Seconds after which to retry. */
    readonly retryAfter: number,
  ) {
    super(message);
  }
}

/** There was no response: no server, no network, a broken connection, or an unreadable file. */
export class GoneError extends Error {}

const KEY = "vertebra.key";
const TIMEOUT_MS = 90_000;
/** The number of classes in a result; the page shows half of them at first. */
export const TOP = 10;

export function hasKey(): boolean {
  return sessionStorage.getItem(KEY) !== null;
}

export function setKey(key: string | null): void {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

async function call(path: string, init: RequestInit = {}, timeout = TIMEOUT_MS): Promise<Response> {
  const key = sessionStorage.getItem(KEY);
  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, signal: AbortSignal.timeout(timeout) });
  } catch (error) {
    throw new GoneError(String(error));
  }
  if (response.ok) return response;
  // A proxy reports an unreachable server.
  if (response.status === 502 || response.status === 504) throw new GoneError(`status ${response.status}`);
  throw await refusal(response);
}

async function refusal(response: Response): Promise<RefusedError> {
  let message = `The server answered with status ${response.status}.`;
  try {
    const body = await response.json();
    if (typeof body?.error?.message === "string") message = sentence(body.error.message);
    else if (Array.isArray(body?.results)) return new FailedResults(body.results);
  } catch {
    // Not JSON: the response is a proxy's.
  }
  return new RefusedError(message, response.status, waiting(response.headers.get("Retry-After")));
}

/** Status 422 with a result for each image: none could be decoded. */
class FailedResults extends RefusedError {
  constructor(readonly results: Result[]) {
    super("No image could be read.", 422, 0);
  }
}

function waiting(header: string | null): number {
  const seconds = Number(header ?? 1);
  if (Number.isFinite(seconds)) return Math.min(60, Math.max(1, seconds));
  const date = Date.parse(header ?? "");
  return Number.isNaN(date) ? 1 : Math.min(60, Math.max(1, (date - Date.now()) / 1000));
}

function sentence(text: string): string {
  const first = text.split(" ", 1)[0] ?? "";
  // A name or a number at the beginning stays as it is.
  return /^[a-z]+$/.test(first) ? text[0]!.toUpperCase() + text.slice(1) : text;
}

async function json<T>(path: string, init?: RequestInit, timeout?: number): Promise<T> {
  const response = await call(path, init, timeout);
  try {
    return (await response.json()) as T;
  } catch (error) {
    throw new GoneError(String(error));
  }
}

const named = (model: string) => `v1/models/${encodeURIComponent(model)}`;

export const info = () => json<Info>("v1/info", {}, 10_000);
export const models = async () => (await json<{ models: Model[] }>("v1/models")).models;
export const card = (model: string) => json<Card>(`${named(model)}/card`);
export const classes = async (model: string) => (await json<{ classes: string[] }>(`${named(model)}/classes`)).classes;
export const anatomy = (model: string) => json<Anatomy>(`${named(model)}/anatomy`);

/** Whether the server is reachable. */
export async function alive(): Promise<boolean> {
  try {
    return (await fetch("healthz", { signal: AbortSignal.timeout(5_000), cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** One result for each file, in their order. */
export async function predict(model: string, files: readonly { file: Blob; name: string }[]): Promise<Result[]> {
  const body = new FormData();
  for (const { file, name } of files) body.append("files", file, name);
  const query = new URLSearchParams({ model, top: String(TOP) });
  try {
    return (await json<{ results: Result[] }>(`v1/predict?${query}`, { method: "POST", body })).results;
  } catch (error) {
    if (error instanceof FailedResults) return error.results;
    throw error;
  }
}

/** The heat-map of a class as an object URL, which the caller revokes. */
export async function explain(model: string, file: Blob, name: string, index: number, layer: string): Promise<Heat> {
  const body = new FormData();
  body.append("files", file, name);
  const query = new URLSearchParams({ model, index: String(index), layer });
  const response = await call(`v1/explain?${query}`, { method: "POST", body });
  try {
    return { url: URL.createObjectURL(await response.blob()), method: response.headers.get("X-Method") ?? "" };
  } catch (error) {
    throw new GoneError(String(error));
  }
}
