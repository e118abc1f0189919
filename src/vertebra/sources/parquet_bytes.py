"""Parquet files with the bytes of photos: a column of bytes, or Hugging Face's struct of bytes and path.

A file may have row groups of any size, and a row group of 5 GB never lies in memory: it is decoded some rows at a time.
"""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from vertebra.errors import UsageError, first_line, require_extra, suggest
from vertebra.storage import FileState, Location, StorageError

from .chunks import Record
from .photo_column import BytesColumns, bytes_columns, photo_column
from .reading import reading, require_state

ROWS = 16  # that are decoded at a time
TEXT_ROWS = 1024  # the same of a column of text
MAX_PIECES = 16  # of a row group: each is decoded from the row group's begin
_READ = 8_388_608  # bytes that are read at once of a column: over a network, each is a request
_CACHED = 64_000_000  # bytes of a row group that is kept as a whole for reading its rows in any order


@contextlib.contextmanager
def open_parquet(location: Location) -> Iterator[Any]:
    """Open a Parquet file; only its footer is read.

    Raises:
        StorageError: it cannot be read, or is no Parquet file.
    """
    with require_extra("parquet", f"reading {location.name}"):
        import pyarrow
        from pyarrow import parquet
    with reading(location), contextlib.ExitStack() as stack:
        file = stack.enter_context(location.open())
        try:
            # Without `pre_buffer`, which would read whole row groups.
            opened = parquet.ParquetFile(file, pre_buffer=False, buffer_size=_READ)
        except pyarrow.ArrowInvalid as error:
            raise StorageError(f"{location} is no Parquet file, or is cut off ({first_line(error)}).") from error
        yield opened


def photo_column_of(file: Any, location: Location, given: str | None = None) -> str | None:
    """Return `photo_column` of an open file, by its first row too.

    Raises:
        UsageError: there are several.
        StorageError: the row cannot be read.
    """

    def first_row() -> list[Any] | None:
        with reading_rows(location, "its first row"):
            batch = next(file.iter_batches(batch_size=1), None)
            return None if batch is None or not batch.num_rows else [column[0].as_py() for column in batch.columns]

    return photo_column(file.schema_arrow, location, given, first_row=first_row)


# --- for predictions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParquetChunk:
    """Some rows of one file, of one row group or of several whole ones."""

    location: Location
    state: FileState
    columns: BytesColumns
    first: int  # row of the file
    rows: int

    @property
    def name(self) -> str:
        """The file and its rows, counted from 1."""
        return rows_name(self.location, self.first, self.rows)

    def read(self, threads: int = 8) -> Iterator[Record]:
        """Yield the photos of the rows in order; a file is read by one thread.

        A row whose bytes are null or empty has an error; so have all rows from the first that is damaged.

        Raises:
            StorageError: the file cannot be read, or has changed since it was listed.
        """
        require_state(self.location, self.state)
        given = 0
        with open_parquet(self.location) as file:
            try:
                for name, content in _rows(file, self.columns, self.first, self.rows):
                    yield _record(self.location, self.first + given, name, content)
                    given += 1
            except _arrow_errors() as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # of the file system
                for row in range(self.first + given, self.first + self.rows):
                    name = row_name(self.location, row)
                    yield Record(name, error=f"{name} cannot be read: the file is damaged ({first_line(error)}).")
        require_state(self.location, self.state)  # nothing of a file that was replaced meanwhile is kept


def row_name(location: Location, row: int) -> str:
    """Name a row, counted from 0."""
    return f"{location}::{row}"


def rows_name(location: Location, first: int, rows: int) -> str:
    """Name some rows for people, counted from 1."""
    return f"{location} rows {first + 1:,} to {first + rows:,}"


def _record(location: Location, row: int, path: str | None, content: bytes | None) -> Record:
    name = path if path else row_name(location, row)
    where = name if not path else f"{name} ({row_name(location, row)})"
    if content is None:
        return Record(name, error=f"{where} has no bytes: its value is null.")
    return Record(name, content) if content else Record(name, error=f"{where} is empty")


@contextlib.contextmanager
def reading_rows(location: Location, what: str) -> Iterator[None]:
    """Convert what an open Parquet file raises in the block, which reads `what`, to a `StorageError`."""
    with reading(location):
        try:
            yield
        except _arrow_errors() as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the file system
            raise StorageError(
                f"{location}: {what} cannot be read: the file is damaged ({first_line(error)})."
            ) from error


def _arrow_errors() -> tuple[type[Exception], ...]:
    """Return what reading a damaged Parquet file raises."""
    import pyarrow

    return pyarrow.ArrowException, OSError, UnicodeDecodeError


def _rows(file: Any, columns: BytesColumns, first: int, rows: int) -> Iterator[tuple[str | None, bytes | None]]:
    """Yield name and bytes of the rows."""
    for batch in _batches(file, columns.names(), first, rows, ROWS):
        yield from _values(batch, columns)


def column_values(file: Any, column: str, first: int, rows: int) -> Iterator[Any]:
    """Yield the values of a column of text in some rows."""
    for batch in _batches(file, [column], first, rows, TEXT_ROWS):
        yield from batch.column(column).to_pylist()


def _batches(file: Any, columns: list[str], first: int, rows: int, size: int) -> Iterator[Any]:
    """Yield the rows in record batches, decoding no row group that has none of them."""
    ends = row_ends(file)
    groups = range(bisect.bisect_right(ends, first), bisect.bisect_left(ends, first + rows) + 1)
    skip = first - (ends[groups[0] - 1] if groups[0] else 0)
    batches = file.iter_batches(batch_size=size, row_groups=list(groups), columns=columns, use_threads=False)
    for batch in batches:
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        batch = batch.slice(skip, rows)
        skip, rows = 0, rows - batch.num_rows
        yield batch
        if not rows:
            return


def _values(batch: Any, columns: BytesColumns) -> Iterator[tuple[str | None, bytes | None]]:
    photos = batch.column(columns.photo)
    names = None if columns.name is None else batch.column(columns.name)
    for index in range(batch.num_rows):
        value = photos[index].as_py()
        if columns.is_struct:
            value = None if value is None else value["bytes"]
        yield (None if names is None else names[index].as_py()), value


def row_ends(file: Any) -> list[int]:
    """Return the row behind the last of each row group."""
    metadata = file.metadata
    return list(accumulate(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)))


def row_ranges(ends: list[int], chunk_photos: int, pieces: int = MAX_PIECES) -> Iterator[tuple[int, int]]:
    """Yield first row and number of rows of each chunk: row groups joined up to `chunk_photos`, larger ones split.

    A row group is split into at most `pieces`, however many rows these have then.
    """
    begin = start = 0
    for end in ends:
        if end - begin > chunk_photos and start > begin:
            yield begin, start - begin
            begin = start
        if end - begin > chunk_photos:
            size = max(chunk_photos, math.ceil((end - begin) / pieces))
            yield from ((at, min(size, end - at)) for at in range(begin, end, size))
            begin = end
        start = end
    if start > begin:
        yield begin, start - begin


# --- for training -----------------------------------------------------------------------------------------------------


@dataclass
class ParquetPhotos:
    """The photos of a file, to be read row by row: cheaply in the order of the rows, or within small row groups."""

    location: Location
    state: FileState
    columns: BytesColumns
    ends: list[int]  # the row behind the last of each row group
    names: tuple[str, ...]  # of all columns
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)
    _file: Any = field(default=None, repr=False)
    _group: tuple[int, list[bytes | None]] | None = field(default=None, repr=False)  # a small one, whole
    _next: tuple[int, int] = field(default=(-1, 0), repr=False)  # row group and row that `_stream` gives next
    _stream: Iterator[tuple[str | None, bytes | None]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def place(self, row: int) -> tuple[int, int]:
        """Return a row's row group, and its row in that."""
        group = bisect.bisect_right(self.ends, row)
        return group, row - (self.ends[group - 1] if group else 0)

    def column(self, name: str) -> list[Any]:
        """Return all values of a column that is not of bytes.

        Raises:
            UsageError: there is no such column.
            StorageError: it cannot be read.
        """
        if name not in self.names:
            hint = suggest(name, self.names)
            raise UsageError(f"{self.location} has no column {name!r} (it has {', '.join(self.names)}). {hint}".strip())
        with reading_rows(self.location, f"its column {name!r}"):
            values: list[Any] = self._opened().read(columns=[name]).column(0).to_pylist()
        return values

    def read(self, row: int) -> bytes | None:
        """Return the bytes of a row; None where they are null.

        Raises:
            StorageError: it cannot be read.
        """
        if not 0 <= row < len(self):
            raise StorageError(f"{self.location} has no row {row:,}; it has {len(self):,}.")
        group, within = self.place(row)
        with reading_rows(self.location, f"row {row:,}"):
            if self._group is None or self._group[0] != group:
                metadata = self._opened().metadata.row_group(group)
                if metadata.total_byte_size > _CACHED:
                    return self._read_on(group, row)
                rows = _rows(self._opened(), self.columns, row - within, metadata.num_rows)
                self._group = group, [content for _, content in rows]
            return self._group[1][within]

    def _read_on(self, group: int, row: int) -> bytes | None:
        """Read on to a row of a large row group, or from the row group's begin where that lies behind."""
        if self._stream is None or self._next[0] != group or self._next[1] > row:
            self._stream = _rows(self._opened(), self.columns, row, self.ends[group] - row)
            self._next = group, row
        for _ in range(self._next[1], row):
            next(self._stream)
        self._next = group, row + 1
        return next(self._stream)[1]

    def close(self) -> None:
        """Close the file; it is opened again when it is asked for."""
        self._file = self._group = self._stream = None
        self._stack.close()

    def _opened(self) -> Any:
        if self._file is None:
            require_state(self.location, self.state)
            self._file = self._stack.enter_context(open_parquet(self.location))
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        """What another process opens anew."""
        kept = ("location", "state", "columns", "ends", "names")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def parquet_photos(location: Location, column: str | None = None) -> ParquetPhotos:
    """Open a Parquet file with the bytes of photos, in the column that is given or found.

    Raises:
        UsageError: it has no column of bytes, or several.
        StorageError: it cannot be read, or is no Parquet file.
    """
    state = location.state()
    with open_parquet(location) as file:
        schema = file.schema_arrow
        photo = column or photo_column_of(file, location) or photo_column(schema, location)
        columns = bytes_columns(schema, location, photo)
        names = tuple(schema.names)
        ends = row_ends(file)
    if columns is None:
        wanted = f"no column {column!r} of bytes" if column is not None else "no column of bytes"
        raise UsageError(f"{location} has {wanted} (it has {', '.join(names)}).")
    return ParquetPhotos(location, state, columns, ends, names)
