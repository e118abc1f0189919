"""Photos by path or URI, listed in Parquet files: chunk i is a row group of a part, so that no list is in memory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.cache import scratch_dir
from vertebra.errors import ImageError, first_line, require_extra
from vertebra.photo_download import fetch, is_url
from vertebra.prefetch import in_order
from vertebra.storage import Location, StorageError

from .chunks import Record
from .folder_sample import FolderSample
from .reading import MAX_PHOTO, reading

PART_PHOTOS = 65_536  # of a part of the list, in row groups of one chunk each
_VERSION = b"vertebra.listing"  # key of a part's checksum in its metadata


class DamagedListError(StorageError):
    """A part of a list is not as it was written."""


@dataclass(frozen=True)
class Listed:
    """One photo of a list."""

    name: str  # path or URI
    size: int | None = None  # bytes; None: not known
    version: str = ""  # what tells that it has changed, if that is known
    error: str | None = None  # why it is not read at all


class ListingWriter:
    """Writes photos into parts in a folder, as they are found."""

    def __init__(self, folder: Location | None, chunk_photos: int) -> None:
        with require_extra("parquet", "the list of a source's photos"):
            import pyarrow
            from pyarrow import parquet
        self._pyarrow, self._parquet = pyarrow, parquet
        if folder is None:  # this machine's processes alone read it
            folder = Location(tempfile.mkdtemp(prefix="listing-", dir=scratch_dir()))
        self.folder = folder
        self.chunk_photos = chunk_photos
        self._part_photos = chunk_photos * groups_of(chunk_photos)
        self.photos = 0
        self.parts: list[str] = []  # the checksum of each
        self._rows: list[Listed] = []
        self._digest = hashlib.sha256()
        self._sample = FolderSample()

    def add(self, photo: Listed) -> None:
        """Add a photo."""
        self._rows.append(photo)
        self.photos += 1
        if photo.error is None:
            self._sample.add(photo.name)
        if len(self._rows) == self._part_photos:
            self._flush()

    def finish(self, uri: str, kind: str) -> ListedSource:
        """Write what is left, and return the source."""
        if self._rows:
            self._flush()
        digest = self._digest.hexdigest()
        parts, sample = tuple(self.parts), tuple(self._sample.files())
        return ListedSource(uri, kind, digest, self.photos, self.folder, self.chunk_photos, parts, sample)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        own = hashlib.sha256()
        for row in rows:
            fields = f"{row.size}\0{row.version}\0{row.error or ''}".encode("utf-8", "surrogateescape")
            line = b"%d\0%d\0" % (len(name := os.fsencode(row.name)), len(fields)) + name + fields
            own.update(line)
            self._digest.update(line)
        part = own.hexdigest()
        pa = self._pyarrow
        table = pa.table(
            {
                # Names may be any bytes.
                "name": pa.array([os.fsencode(row.name) for row in rows], pa.binary()),
                "size": pa.array([row.size for row in rows], pa.int64()),
                "version": pa.array([row.version for row in rows], pa.string()),
                "error": pa.array([row.error and os.fsencode(row.error) for row in rows], pa.binary()),
            }
        ).replace_schema_metadata({_VERSION: part})
        content = io.BytesIO()
        self._parquet.write_table(
            table, content, row_group_size=self.chunk_photos, compression="zstd", write_page_checksum=True
        )
        part_location(self.folder, len(self.parts)).write(content.getvalue())
        self.parts.append(part)


def groups_of(chunk_photos: int) -> int:
    """Return the number of row groups of a part of the list."""
    return max(1, PART_PHOTOS // chunk_photos)


def part_location(folder: Location, part: int) -> Location:
    """Return the place of a part of the list."""
    return folder / "inputs" / f"part-{part:05d}.parquet"


@dataclass(frozen=True)
class ListedSource:
    """The photos of folders, patterns or a table of paths."""

    uri: str
    kind: str
    digest: str
    photos: int
    folder: Location
    chunk_photos: int
    parts: tuple[str, ...]
    sample: tuple[str, ...] = ()  # photos of its folders (FolderSample); not known of a list that was written before

    def __len__(self) -> int:
        return -(-self.photos // self.chunk_photos)

    def chunk(self, index: int) -> ListedChunk:
        """Return a chunk by its number."""
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        part, group = divmod(index, groups_of(self.chunk_photos))
        first = index * self.chunk_photos
        count = min(self.chunk_photos, self.photos - first)
        return ListedChunk(self.uri, part_location(self.folder, part), self.parts[part], group, first, count)

    def damaged_parts(self) -> list[Location]:
        """Return the parts of the list that are gone, damaged or of another list.

        Raises:
            StorageError: one cannot be read for another reason.
        """
        places = [part_location(self.folder, part) for part in range(len(self.parts))]

        def is_damaged(part: int) -> bool:
            try:
                with opened_part(places[part], self.parts[part]) as file:
                    for group in range(file.num_row_groups):
                        file.read_row_group(group)
            except DamagedListError:
                return True
            except StorageError as error:
                if not error.is_missing:
                    raise
                return True
            return False

        found = in_order(range(len(places)), lambda some: [is_damaged(part) for part in some], workers=8, chunk=1)
        return [place for place, damaged in zip(places, found, strict=True) if damaged]

    def restore(self, damaged: Sequence[Location], other: ListedSource) -> None:
        """Write these parts of the list again, from an equal list that is whole."""
        for place in damaged:
            place.write((other.folder / "inputs" / place.name).read_bytes())


@dataclass(frozen=True)
class ListedChunk:
    """The photos of one row group of the list."""

    uri: str
    part: Location
    checksum: str
    group: int
    first: int  # of the source's photos
    photos: int

    @property
    def name(self) -> str:
        """The source and its photos, counted from 1."""
        return f"{self.uri} {self.first + 1:,} to {self.first + self.photos:,}"

    def listed(self) -> list[Listed]:
        """Read its part of the list.

        Raises:
            StorageError: the list cannot be read, or is another one.
        """
        with opened_part(self.part, self.checksum) as file:
            rows: list[dict[str, Any]] = file.read_row_group(self.group).to_pylist()
        if len(rows) != self.photos:
            raise _another_list(self.part)
        return [
            Listed(os.fsdecode(row["name"]), row["size"], row["version"], row["error"] and os.fsdecode(row["error"]))
            for row in rows
        ]

    def read(self, threads: int = 8) -> Iterator[Record]:
        """Read the photos in order by `threads` threads; at most twice as many photos are in memory.

        Raises:
            StorageError: the list cannot be read, or is another one.
        """
        yield from read_photos(self.listed(), threads)


@contextlib.contextmanager
def opened_part(place: Location, checksum: str) -> Iterator[Any]:
    """Open a part of a list as a `pyarrow.parquet.ParquetFile`.

    Raises:
        DamagedListError: it is damaged, also if that is found within the block, or not the one with this checksum.
        StorageError: it cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    with reading(place), place.open() as opened:
        try:
            file = parquet.ParquetFile(opened, page_checksum_verification=True)
            if (file.schema_arrow.metadata or {}).get(_VERSION) != checksum.encode():
                raise _another_list(place)
            yield file
        except (OSError, pyarrow.ArrowException) as error:
            if getattr(error, "errno", None) is not None:  # of the system; a wrong checksum has none
                raise
            raise DamagedListError(f"{place}: the list of photos is damaged ({first_line(error)}).") from error


def _another_list(place: Location) -> DamagedListError:
    return DamagedListError(f"{place} is the list of another run. Start a new run with another --out.")


def read_photos(photos: list[Listed], threads: int) -> Iterator[Record]:
    """Read photos in order, several at a time."""
    return in_order(
        photos, lambda some: [read_photo(photo) for photo in some], workers=threads, chunk=1, window=2 * threads
    )


def read_photo(photo: Listed) -> Record:
    """Read one photo as a whole; a web address is downloaded."""
    name = photo.name
    if photo.error is not None:
        return Record(name, error=photo.error)
    if (photo.size or 0) > MAX_PHOTO:
        return Record(name, error=f"{name} has {photo.size:,} bytes; a photo of at most {MAX_PHOTO:,} is read.")
    try:
        if is_url(name):
            content = fetch(name)
        else:
            location = Location(name)
            if not location.is_remote:
                _require_file(location.path)
            content = location.read_bytes()
    except (StorageError, ImageError) as error:
        return Record(name, error=str(error))
    return Record(name, content) if content else Record(name, error=f"{name} is empty")


def _require_file(path: Path) -> None:
    """Raise a `StorageError` in predict's words for what is missing or no file: reading a pipe may never end."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file", is_missing=True) from None
    except (OSError, ValueError):  # reading it says what is wrong
        return
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise StorageError(f"{path} is {what}, not an image file")
    if status.st_size > MAX_PHOTO:
        raise StorageError(f"{path} has {status.st_size:,} bytes; a photo of at most {MAX_PHOTO:,} is read.")
