"""Tables of paths: CSV and other text, listed once, and Parquet, of which a chunk is some rows."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vertebra.errors import DataError, UsageError, suggest_path
from vertebra.storage import FileState, Location
from vertebra.storage.file_systems import REMOTE_SCHEMES

from .chunks import Record
from .listing import Listed, ListingWriter, read_photos
from .parquet_bytes import column_values, open_parquet, reading_rows, row_name, rows_name
from .path_columns import PATHS, choose_path_column, column_key
from .reading import reading, require_state
from .text_table import TextTable

_CHECKED = 100  # local paths of which one has to be there
_COMPARED = 2_000_000  # paths that are compared with one another
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def root_of(table: Location, image_root: str | None) -> Location:
    """Return the folder that relative paths are looked up in: the table's own, unless another is given."""
    return table.parent if image_root is None else Location(image_root)


def resolve(path: str | None, root: Location, where: str) -> Listed:
    """Return the photo of a row; `where` names the row.

    A relative path is one in `root`; an address is s3:// and the like, http://, https:// or file://.

    Raises:
        UsageError: the address has credentials in it, which would be in results.
    """
    if path is None or not path.strip():
        return Listed(where, error=f"{where} has no path.")
    if "\0" in path:
        return Listed(where, error=f"{where}: the path {path!r} has a NUL in it.")
    address = _ADDRESS.match(path.strip())
    if address is None:
        if root.is_remote:
            return Listed(str(root / path.lstrip("/")) if not path.startswith("/") else path)
        return Listed(_local_path(root.path, path))
    path = path.strip()
    scheme = address[1].lower()
    if scheme == "file":
        return Listed(unquote(urlsplit(path).path))
    if scheme not in (*REMOTE_SCHEMES, "http", "https"):
        known = ", ".join(f"{name}://" for name in (*REMOTE_SCHEMES, "http", "https"))
        return Listed(path, error=f"{path}: of addresses, {known} and file:// are read.")
    if "@" in re.split(r"[/?#]", path[address.end() :], maxsplit=1)[0]:
        raise UsageError(f"{where}: the {scheme}:// address has credentials in it, which would be in the results.")
    return Listed(path)


def _local_path(root: Path, path: str) -> str:
    """Return a path as written, or without white space around or with slashes for backslashes where that is there."""
    plain = str(root / path)
    if (path != path.strip() or "\\" in path) and not os.path.lexists(plain):
        for other in (path.strip(), path.strip().replace("\\", "/")):
            if os.path.lexists(root / other):
                return str(root / other)
    return plain


# --- text ----------------------------------------------------------------------------------------------------------


def list_text_table(
    table: Location, writer: ListingWriter, path_column: str | None, image_root: str | None
) -> Sequence[str]:
    """Add the photos of a text table, one for each row, and return notes on how it was read.

    Raises:
        DataError: it is no table, a row has too many or too few fields, or of the first photos none is there.
    """

    def fits(names: Sequence[str]) -> bool:
        keys = {column_key(name.strip('" ')) for name in names}
        if path_column is not None:
            return column_key(path_column) in keys
        return not keys.isdisjoint(key for row in PATHS for key in row)

    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(table))
        text = TextTable(stack.enter_context(table.open()), str(table), fits)
        column = choose_path_column(text.names, str(table), path_column) if text.names else ""
        root = root_of(table, image_root)
        repeated = _Repeated()
        before = writer.photos
        index = text.names.index(column) if text.names else 0
        rows = ((number, repeated.noted(fields[index])) for number, fields in text.rows())
        photos = (resolve(path, root, f"{table}::line {number}") for number, path in rows)
        _add_all(photos, writer, table, root)
    if writer.photos == before:
        raise DataError(f"{table} lists no photos: no row is below the names of the columns.")
    if not repeated.count:
        return text.notes
    return *text.notes, f"Rows of {table.name} with an earlier row's path: {repeated.count:,}. Each is predicted again."


class _Repeated:
    """Counts paths that are there again, of as many as memory holds."""

    def __init__(self) -> None:
        self.count = 0
        self._seen: set[int] = set()

    def noted(self, path: str) -> str:
        """Return the path, taken note of."""
        if len(self._seen) < _COMPARED:
            self.count += (key := hash(path)) in self._seen
            self._seen.add(key)
        return path


def _add_all(photos: Iterable[Listed], writer: ListingWriter, table: Location, root: Location) -> None:
    checked: list[str] = []
    is_missing = True  # all that were checked
    for photo in photos:
        if is_missing and len(checked) < _CHECKED:
            checked.append(photo.name)
            is_missing = photo.error is None and is_local(photo.name) and not os.path.lexists(photo.name)
        writer.add(photo)
    if is_missing and checked:
        raise none_there(table, root, checked[0])


def is_local(name: str) -> bool:
    """Whether it is a path of this machine, not an address."""
    return not _ADDRESS.match(name)


def none_there(table: Location, root: Location, first: str) -> DataError:
    """Return the error where no photo of a table is there."""
    remedy = "--image-root FOLDER names another."
    if not root.is_remote and not root.path.is_dir():
        remedy = f"there is no such folder. {suggest_path(str(root)) or remedy}"
    return DataError(
        f"{table}: none of its first photos is there, such as {Path(first).absolute()}. Relative paths are looked up "
        f"in {root}; {remedy}"
    )


# --- Parquet -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PathChunk:
    """The photos of some rows of a Parquet file with a column of paths."""

    location: Location
    state: FileState
    column: str
    root: Location
    first: int  # row of the file
    rows: int

    @property
    def name(self) -> str:
        """The file and its rows, counted from 1."""
        return rows_name(self.location, self.first, self.rows)

    def listed(self) -> list[Listed]:
        """Read the paths of its rows, and nothing else.

        Raises:
            StorageError: the file cannot be read, or has changed since it was listed.
        """
        require_state(self.location, self.state)
        with open_parquet(self.location) as file, reading_rows(self.location, f"its column {self.column!r}"):
            paths = list(column_values(file, self.column, self.first, self.rows))
        return [
            resolve(path, self.root, row_name(self.location, self.first + index)) for index, path in enumerate(paths)
        ]

    def read(self, threads: int = 8) -> Iterator[Record]:
        """Read the photos in order by `threads` threads; at most twice as many photos are in memory.

        Raises:
            StorageError: the file cannot be read, or has changed since it was listed.
        """
        yield from read_photos(self.listed(), threads)
