"""Finds the files of a table's paths: as written, or in the form of other systems."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vertebra.errors import UsageError, suggest_path
from vertebra.photo_files import SUFFIXES as PHOTO_SUFFIXES
from vertebra.photo_files import is_folder, list_entries
from vertebra.sources.photo_place import PhotoPlace, StoredPhoto, normalized, parse_place
from vertebra.sources.text_table import SAVE_AS_UTF8
from vertebra.storage import Location
from vertebra.storage.file_systems import REMOTE_SCHEMES

from .dataset import DataError
from .label_names import as_latin1, is_text
from .table_columns import TableOptions


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    where: str  # "line 3" or "row 2"
    path: str
    label: str
    split: str | None


class PathFinder:
    """Finds the files of a table's paths, and counts those that are written differently.

    Paths that are not of local files are taken as they are written: whether they are there shows when they are read.
    """

    def __init__(self, table: Path | Location, options: TableOptions) -> None:
        self._table = table
        self._options = options
        root = str(table).rpartition("/")[0] if options.image_root is None else options.image_root
        self._remote_root = Location(root) if Location(root).is_remote else None
        local = table.parent if isinstance(table, Path) and options.image_root is None else Path(root)
        self._local_root = local  # of a table that is not local: where it is looked in is not used
        if options.image_root is not None and self._remote_root is None and not local.is_dir():
            hint = suggest_path(str(local))
            raise UsageError(f"there is no folder {options.image_root!r}, which --image-root asks for. {hint}".rstrip())
        self._read_as: Counter[str] = Counter()
        self._endings: Counter[str] = Counter()
        # Folder -> its photos by stem, and by lower-case name.
        self._listed: dict[Path, tuple[defaultdict[str, list[str]], defaultdict[str, list[str]]]] = {}
        self._rows: Sequence[Row] = ()
        self._found: Sequence[PhotoPlace] = ()
        self._missing: list[str] = []
        self._has_relative_paths = False

    @property
    def root(self) -> Path | Location:
        """What relative paths are relative to."""
        return self._remote_root or self._local_root

    def find(self, rows: Sequence[Row]) -> list[PhotoPlace]:
        """Return the path of each photo; missing ones are noted."""
        found = [self._stored(row) or self._resolve(row) for row in rows]
        for number, (row, path) in enumerate(zip(rows, found, strict=True)):
            if isinstance(path, Path) and not os.path.lexists(path):
                found[number] = self._find_by_stem_or_case(row, path)
                if found[number] == path:
                    self._missing.append(row.path)
        self._has_relative_paths = not all(_is_absolute(row.path.strip()) for row in rows)
        self._rows, self._found = rows, found
        return found

    def _stored(self, row: Row) -> StoredPhoto | None:
        """Return the place of a photo that is no local file: in a shard, or on a remote file system."""
        name = row.path.lstrip() if "::" in row.path else row.path.strip()  # a shard's member may end in white space
        if "::" not in name and self._remote_root is None and "://" not in name:
            return None
        text = name
        if name.partition("://")[0].lower() not in REMOTE_SCHEMES:
            if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
                return None
            text = f"{str(self._remote_root or self._local_root).rstrip('/')}/{name}" if name[:1] != "/" else name
        place = parse_place(text)
        return place if isinstance(place, StoredPhoto) else None

    def _resolve(self, row: Row) -> Path:
        where = f"{self._table}, {row.where}"
        name = row.path
        if "\0" in name:
            raise DataError(f"{where}: the path {name!r} contains a NUL.")
        if "\n" in name and not os.path.lexists(self._local_root / name):
            raise DataError(f"{where}: the path {name!r} has several lines. Close its quotes, or write it on one line.")
        if scheme := re.match(r"([a-z][a-z0-9+.-]+)://", name.strip(), re.IGNORECASE):
            if scheme[1].lower() != "file":
                raise DataError(f"{where}: {name} is an address on the web. Download it and give its path.")
            self._read_as["as addresses (file://)"] += 1
            return Path(unquote(urlsplit(name.strip()).path))
        plain = self._local_root / name
        if name == name.strip() and name.isascii() and not re.search(r"\\|^~", name):
            return plain
        if os.path.lexists(plain):
            return plain
        name = name.strip()
        slashed = name.replace("\\", "/")
        for how, other in (
            ("", name),
            ("with backslashes", slashed),
            ("in another Unicode form", unicodedata.normalize("NFC", name)),
            ("in another Unicode form", unicodedata.normalize("NFD", name)),
            ("from the home folder (~)", os.path.expanduser(name)),  # noqa: PTH111 - may be no path
        ):
            if os.path.lexists(self._local_root / other):
                if how:
                    self._read_as[how] += 1
                return self._local_root / other
        if slashed != name and self._similar_names(self._local_root / slashed):
            self._read_as["with backslashes"] += 1
            return self._local_root / slashed  # its suffix is added next
        if not is_text(name):
            raise DataError(f"{where}: the path {as_latin1(name)} is not there, and no text in UTF-8. {SAVE_AS_UTF8}")
        return self._local_root / name

    def _find_by_stem_or_case(self, row: Row, path: Path) -> Path:
        """Return the only photo of that name in another case or with a suffix, or else the path itself.

        Tables of competitions list names without suffixes, `0a1b2c` for `0a1b2c.jpg`.
        """
        found = self._similar_names(path)
        if path.suffix.lower() in PHOTO_SUFFIXES:  # Windows and macOS ignore case
            if len(found) != 1:
                return path
            self._read_as["in another case"] += 1
            return path.with_name(found[0])
        if len(found) > 1:
            raise DataError(
                f"{self._table}, {row.where}: {row.path} has no ending, and there are {' and '.join(sorted(found))}. "
                "Write the one that is meant."
            )
        if not found:
            return path
        self._endings[Path(found[0]).suffix] += 1
        return path.with_name(found[0])

    def _similar_names(self, path: Path) -> list[str]:
        """Return photos in its folder of that name in another case or, if it has no suffix, with one."""
        if path.parent not in self._listed:
            by_stem, by_name = self._listed[path.parent] = (defaultdict(list), defaultdict(list))
            with suppress(OSError, ValueError):
                for entry in list_entries(path.parent):
                    stem, ending = os.path.splitext(entry.name)  # noqa: PTH122 - of an entry
                    if ending.lower() in PHOTO_SUFFIXES:
                        by_stem[stem].append(entry.name)
                        by_name[entry.name.casefold()].append(entry.name)
        by_stem, by_name = self._listed[path.parent]
        if path.suffix.lower() in PHOTO_SUFFIXES:
            return by_name.get(path.name.casefold(), [])
        return by_stem.get(path.name, [])

    @property
    def looked_in(self) -> str:
        """Where relative paths are looked up, for people; "" if there are none."""
        if not self._has_relative_paths:
            return ""
        which = "the folder of the table" if self._options.image_root is None else "as --image-root says"
        where = self._remote_root or self._local_root.absolute()
        return f"relative paths are looked up in {where} ({which})"

    def notes(self) -> list[str]:
        """Return sentences on paths found in another form, and on missing photos."""
        notes = [f"Paths written {how}, and found: {count:,}." for how, count in self._read_as.items()]
        if self._endings:
            listed = ", ".join(f"{count:,} with {ending}" for ending, count in self._endings.most_common())
            notes.append(f"Paths written without their ending, and found: {listed}.")
        if self._missing:
            few = ", ".join(self._missing[:3]) + (", …" if len(self._missing) > 3 else "")
            count = f"{len(self._missing):,} of {len(self._rows):,}"
            where = f"; {self.looked_in}" if self.looked_in else ""
            notes.append(f"Not there: {count} listed paths, such as {few}{where}.")
        return notes + self._ambiguous_root_notes()

    def _ambiguous_root_notes(self) -> list[str]:
        """Note paths that are other files relative to the working folder."""
        if self._options.image_root is not None or self._remote_root or self._local_root.resolve() == Path.cwd():
            return []
        pairs = zip(self._rows[:1000], self._found[:1000], strict=True)
        both = [
            row.path
            for row, path in pairs
            if isinstance(path, Path)
            and os.path.exists(row.path)  # noqa: PTH110
            and os.path.realpath(row.path) != os.path.realpath(path)
        ]
        if not both:
            return []
        return [
            f"{len(both):,} of the paths, such as {both[0]}, are there relative to the working folder as well, as "
            f"other files. Those in {self._local_root.absolute()} are taken, the folder of the table; --image-root . "
            "takes the others."
        ]

    def check(self) -> None:
        """Raise a DataError if all photos are missing."""
        if len(self._missing) < len(self._rows):
            return
        row, path, count = self._rows[0], self._found[0], len(set(map(normalized, self._found)))
        which = "the folder of the table" if self._options.image_root is None else "the folder of --image-root"
        raise DataError(
            f"{self._table}: none of its {count:,} photos is there. The first, {row.path} ({row.where}), was looked "
            f"for as {path.absolute()}. Paths are absolute, or relative to {which}.{self._hint(row)}"
        )

    def _hint(self, row: Row) -> str:
        if isinstance(self._table, Location):
            return ""
        name = row.path.strip().replace("\\", "/")
        if self._options.image_root is None and (os.path.lexists(row.path) or self._similar_names(Path(name))):
            return " It is there relative to the working folder: give --image-root ."
        try:
            folders = [entry.name for entry in list_entries(self._table.parent) if is_folder(entry)]
        except OSError:
            folders = []
        for folder in folders:
            there = self._table.parent / folder / name
            if not Path(name).is_absolute() and (os.path.lexists(there) or self._similar_names(there)):
                return f" It is there in {folder}: give --image-root {shlex.quote(str(self._table.parent / folder))}."
        there_as = self._nearby(self._table.parent, name, folders)
        return f" There is {there_as}: write the path so." if there_as else ""

    def _nearby(self, folder: Path, name: str, folders: Sequence[str]) -> str | None:
        """Return a file of that name near the table: with a suffix, fewer folders, or in one of its subfolders.

        Tables come from other machines (`C:\\photos\\cat\\1.jpg`).
        """
        parts = [part for part in name.split("/") if part]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        tails += [f"{inner}/{parts[-1]}" for inner in folders if parts]
        tails += [os.path.splitext(tail)[0] for tail in tails if tail.lower().endswith(tuple(PHOTO_SUFFIXES))]  # noqa: PTH122
        with_suffix = (f"{tail}{suffix}" for tail in tails for suffix in ("", *sorted(PHOTO_SUFFIXES)))
        return next((each for each in with_suffix if os.path.isfile(folder / each)), None)  # noqa: PTH113


def _is_absolute(text: str) -> bool:
    return Location(text).is_remote or Path(text).is_absolute()
