/** Files from a drop, the clipboard or a dialog; folders are walked. */

export interface Found {
  file: File;
  name: string;
}

export interface Gathered {
  found: Found[];
  /** Files in folders that are not images; they are ignored. */
  leftOut: number;
}

const IMAGES = /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|heic|heif|jp2|ppm|pgm|tga)$/i;

const isImage = (file: File) => file.type.startsWith("image/") || IMAGES.test(file.name);

/** Files of an <input type=file>; those of a folder have a path. */
export function chosen(list: FileList | null): Gathered {
  return sorted([...(list ?? [])].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
}

export function pasted(data: DataTransfer | null): Found[] {
  // An image copied from a page has no file name.
  const stamp = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  return [...(data?.files ?? [])].filter(isImage).map((file, index) => {
    const suffix = index ? `-${index + 1}` : "";
    const name = file.name && file.name !== "image.png" ? file.name : `pasted-${stamp}${suffix}.png`;
    return { file, name };
  });
}

export async function dropped(data: DataTransfer | null): Promise<Gathered> {
  if (!data) return { found: [], leftOut: 0 };
  // The list is cleared after the event, so it is read before the first await.
  const entries = [...data.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry());
  const files = [...data.files];
  if (!entries.some((entry) => entry?.isDirectory)) return { found: files.map((file) => ({ file, name: file.name })), leftOut: 0 };
  const found: Found[] = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return sorted(found);
}

async function walk(entry: FileSystemEntry, found: Found[]): Promise<void> {
  try {
    if (entry.isFile) {
      const file = await new Promise<File>((take, fail) => (entry as FileSystemFileEntry).file(take, fail));
      found.push({ file, name: entry.fullPath.replace(/^\//, "") });
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    for (;;) {
      // A call returns at most 100 entries.
      const part = await new Promise<FileSystemEntry[]>((take, fail) => reader.readEntries(take, fail));
      if (!part.length) return;
      for (const inner of part) await walk(inner, found);
    }
  } catch {
    // An unreadable file or folder; the others are still read.
  }
}

function sorted(all: Found[]): Gathered {
  const found = all.filter(({ file, name }) => !name.includes("/") || (isImage(file) && !/(^|\/)\./.test(name)));
  return { found, leftOut: all.length - found.length };
}
