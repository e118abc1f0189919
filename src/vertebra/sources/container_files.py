"""Sources that are files with photos in them: shards and Parquet. Their chunks are shards, or rows of a file."""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from vertebra.errors import DataError, UsageError, shortened
from vertebra.prefetch import in_order
from vertebra.progress import Progress
from vertebra.storage import FileState, Location

from .chunks import Chunk
from .parquet_bytes import ParquetChunk, open_parquet, photo_column_of, row_ends, row_ranges
from .path_columns import choose_path_column, name_column
from .path_table import PathChunk, is_local, none_there, root_of
from .photo_column import BytesColumns, bytes_columns, photo_column, text_columns
from .tar_shards import TarChunk

R = TypeVar("R")

_THREADS = 16  # that ask for the states of files at once
_PATH_PIECES = 1_000_000  # of a row group of paths, which are decoded in no time


@dataclass(frozen=True)
class ShardSource:
    """WebDataset shards, each of which is a chunk."""

    uri: str
    digest: str
    shards: tuple[tuple[Location, FileState], ...]
    kind: str = "webdataset"
    photos: None = None  # not known before they are read

    def __len__(self) -> int:
        return len(self.shards)

    def chunk(self, index: int) -> Chunk:
        """Return a chunk by its number."""
        return TarChunk(*self.shards[index])


@dataclass(frozen=True)
class ParquetFile:
    """One Parquet file: its rows, and where its photos are."""

    location: Location
    state: FileState
    ranges: tuple[tuple[int, int], ...]  # first row and number of rows of each chunk
    columns: BytesColumns | None  # None: it has paths
    path_column: str | None


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files with the bytes of photos, or with their paths."""

    uri: str
    kind: str  # "parquet" or "table"
    digest: str
    photos: int
    files: tuple[ParquetFile, ...]
    ends: tuple[int, ...]  # the chunk behind the last of each file
    image_root: str | None

    def __len__(self) -> int:
        return self.ends[-1]

    def chunk(self, index: int) -> Chunk:
        """Return a chunk by its number."""
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        number = bisect.bisect_right(self.ends, index)
        file = self.files[number]
        first, rows = file.ranges[index - (self.ends[number - 1] if number else 0)]
        if file.columns is not None:
            return ParquetChunk(file.location, file.state, file.columns, first, rows)
        root = root_of(file.location, self.image_root)
        return PathChunk(file.location, file.state, str(file.path_column), root, first, rows)


def open_shards(uri: str, shards: Sequence[Location], progress: Progress) -> ShardSource:
    """List shards with their versions.

    Raises:
        StorageError: one is missing or cannot be read.
    """
    states = _each(shards, Location.state, progress)
    found = tuple(zip(shards, states, strict=True))
    return ShardSource(uri, _digest(found), found)


def open_parquet_files(
    uri: str,
    files: Sequence[Location],
    chunk_photos: int,
    chunk_rows: int,
    path_column: str | None,
    image_root: str | None,
    progress: Progress,
) -> ParquetSource:
    """Read the footers of Parquet files: of paths in chunks of `chunk_photos`, with bytes of `chunk_rows` rows.

    Raises:
        StorageError: one is missing, cannot be read or is no Parquet file.
        UsageError: some have bytes and others paths, or it is not clear which column has them.
        DataError: there are no rows, or of the first photos none is there.
    """
    found = _each(files, lambda file: _open(file, chunk_photos, chunk_rows, path_column), progress)
    digest = _digest([(file.location, file.state) for file in found])
    found = [file for file in found if file.ranges]
    if not found:
        raise DataError(f"{uri} lists no photos: it has no rows.")
    for file in found[1:]:
        if (file.columns is None) != (found[0].columns is None):
            kinds = sorted(("paths" if f.columns is None else "bytes", str(f.location)) for f in (found[0], file))
            raise UsageError(
                f"{kinds[0][1]} has the bytes of photos, and {kinds[1][1]} their paths. Give files of one kind."
            )
    photos = sum(rows for file in found for _, rows in file.ranges)
    ends = tuple(accumulate(len(file.ranges) for file in found))
    kind = "table" if found[0].columns is None else "parquet"
    source = ParquetSource(uri, kind, digest, photos, tuple(found), ends, image_root)
    if kind == "table":
        _require_some(source)
    elif image_root is not None:
        raise UsageError(f"--image-root is for tables of paths, and {uri} has the bytes of photos. Leave it out.")
    return source


def _open(location: Location, chunk_photos: int, chunk_rows: int, path_column: str | None) -> ParquetFile:
    state = location.state()
    with open_parquet(location) as file:
        schema, ends = file.schema_arrow, row_ends(file)
        photo = photo_column_of(file, location, path_column)
    texts = text_columns(schema)
    if photo is None and (path_column is not None or name_column(texts) is None):
        photo = photo_column(schema, location, path_column)  # whatever is in its first row
    columns = bytes_columns(schema, location, photo)
    if columns is not None:
        return ParquetFile(location, state, tuple(row_ranges(ends, chunk_rows)), columns, None)
    if path_column is not None and path_column in schema.names and path_column not in texts:
        kind = schema.field(path_column).type if schema.names.count(path_column) == 1 else "no column of its own"
        raise UsageError(f"{location}: the column {path_column!r} has neither text nor bytes (its type is {kind}).")
    if not texts:
        there = ", ".join(f"{column.name} ({column.type})" for column in schema) or "no columns"
        raise DataError(
            f"{location} has neither a column of image bytes nor one of paths; it has {shortened(there, 200)}."
        )
    column = choose_path_column(texts, str(location), path_column)
    return ParquetFile(location, state, tuple(row_ranges(ends, chunk_photos, _PATH_PIECES)), None, column)


def _require_some(source: ParquetSource) -> None:
    """Raise a `DataError` if of the first photos none is there."""
    first = source.chunk(0)
    if isinstance(first, PathChunk):
        photos = first.listed()[:100]
        if all(photo.error is None and is_local(photo.name) and not os.path.lexists(photo.name) for photo in photos):
            raise none_there(first.location, first.root, photos[0].name)


def _each(files: Sequence[Location], work: Callable[[Location], R], progress: Progress) -> list[R]:
    """Apply `work` to files in several threads, in order."""
    found: list[R] = []
    threads = _THREADS if files[0].is_remote else 1
    for result in in_order(files, lambda some: [work(file) for file in some], workers=threads, chunk=1):
        found.append(result)
        progress("listing", len(found), len(files))
    return found


def _digest(files: Sequence[tuple[Location, FileState]]) -> str:
    found = hashlib.sha256()
    for location, state in files:
        for part in (os.fsencode(str(location)), str(state.size).encode(), state.version.encode()):
            found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()
