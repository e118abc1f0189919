/** Bytes of the document: base64 of a deflated (zlib) stream. */

/** Those used last are kept, as far as they fit. */
const MOST = 16e6;
const kept = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();
let total = 0;

/** The bytes of `data`; rejects where they are damaged. */
export function unpack(data: string): Promise<Uint8Array<ArrayBuffer>> {
  const found = kept.get(data);
  if (found) {
    kept.delete(data);
    kept.set(data, found);
    return found;
  }
  const made = inflate(data);
  kept.set(data, made);
  made.then(
    (bytes) => {
      total += bytes.length;
      for (const [old, promise] of kept) {
        if (total <= MOST || old === data) break;
        kept.delete(old);
        void promise.then((freed) => (total -= freed.length));
      }
    },
    () => kept.delete(data),
  );
  return made;
}

async function inflate(data: string): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytesOf(data)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The bytes of base64. */
export function bytesOf(data: string): Uint8Array<ArrayBuffer> {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
