"""A local folder as a `Source`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vertebra.photo_files import SUFFIXES
from vertebra.sources.chunks import Record
from vertebra.storage import Location

PHOTOS = 256  # of a chunk


@dataclass(frozen=True)
class FolderChunk:
    """Some photos of a folder, by their paths."""

    name: str
    paths: tuple[str, ...]

    def read(self, threads: int = 8) -> Iterator[Record]:
        """Read its photos in order."""
        paths = iter(self.paths)
        with ThreadPoolExecutor(threads) as pool:
            while some := list(islice(paths, 4 * threads)):
                yield from pool.map(_read, some)


def _read(path: str) -> Record:
    try:
        return Record(path, Path(path).read_bytes())
    except OSError as error:
        return Record(path, error=f"{path} cannot be read ({error.strerror})")


class FolderSource:
    """The photos in a folder and below it."""

    kind = "folder"

    def __init__(self, folder: str) -> None:
        self.uri = folder
        self._paths = [str(entry.location) for entry in Location(folder).list() if entry.location.suffix in SUFFIXES]
        self.photos: int | None = len(self._paths)
        self.digest = hashlib.sha256("\0".join(self._paths).encode("utf-8", "surrogateescape")).hexdigest()

    def __len__(self) -> int:
        return -(-len(self._paths) // PHOTOS)

    def chunk(self, index: int) -> FolderChunk:
        """Return a chunk by its number."""
        first = index * PHOTOS
        paths = tuple(self._paths[first : first + PHOTOS])
        return FolderChunk(f"{self.uri} {first + 1:,} to {first + len(paths):,}", paths)
