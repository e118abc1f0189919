"""Tables of photos: a file of text or .parquet with the columns path, label and, if wanted, split."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vertebra.errors import UsageError
from vertebra.photo_files import SUFFIXES as PHOTO_SUFFIXES
from vertebra.photo_files import entries, is_folder

from .dataset import DataError, Dataset, Photo
from .label_names import Ignored, as_latin1, is_text, join_names, split_of, tidy
from .table_columns import Asked, check_split, choose_columns
from .table_file import SAVE_AS_UTF8, Table, read_parquet, read_text

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet")


@dataclass(frozen=True)
class _Row:
    """What a row says."""

    where: str  # "line 3" or "row 2"
    path: str
    label: str
    split: str | None


def read_table(path: Path, *, ignore: Sequence[str] = (), said: Asked = Asked()) -> Dataset:  # noqa: B008 - frozen
    """The photos that a table lists; their paths are relative to the folder that it lies in, or to one that was said.

    Args:
        path: the table.
        ignore: labels and splits whose rows are left out, and columns that are not read.
        said: which columns are read, and where the photos are.

    Raises:
        DataError: the table cannot be read, lacks a column, or a row lacks a value, has an unknown split or too many
            fields; or two rows say different things of one photo; or none of the photos is there.
        UsageError: a name to ignore, a column that was said or the folder of the photos is not there.
        MissingExtraError: Parquet needs pyarrow.
    """
    ignored = Ignored(ignore)
    table = read_parquet(path) if path.suffix.lower() == ".parquet" else read_text(path, said.fits)
    notes = list(table.notes)
    rows = _rows(table, ignored, said, notes)
    if not rows:
        raise DataError(f"{path} lists no photos: no row is left below the names of the columns.")
    where: dict[str, str] = {}
    for row in rows:
        where.setdefault(row.label, row.where)
    classes, joined = join_names(where, str(path))
    splits = sorted(name for name in set(classes.values()) if split_of(name))
    if len({split_of(name) for name in splits}) > 1:
        notes.append(f"The labels {' and '.join(map(repr, splits))} are taken for classes, although they name splits.")
    finder = _Finder(path, said)
    photos: dict[str, tuple[_Row, Photo]] = {}
    again = 0
    for row, file in zip(rows, finder.find(rows), strict=True):
        photo = Photo(file, classes[row.label], row.split)
        first, listed = photos.setdefault(os.path.normpath(photo.path), (row, photo))
        if (listed.label, listed.split) != (photo.label, photo.split):
            raise DataError(
                f"{path}, {row.where}: {row.path} is listed already, in {first.where}, as {_said(listed)}, and here as "
                f"{_said(photo)}. List each photo once."
            )
        again += first is not row
    if again:
        notes.append(f"Listed again with the same label, and counted once: {again:,} of {len(rows):,} rows.")
    found = sorted((photo for _, photo in photos.values()), key=lambda photo: photo.path)
    names = tuple(sorted({photo.label for photo in found}))
    finder.check()
    notes += finder.notes()
    return Dataset(str(path), tuple(found), names, finder.root, notes=(*joined, *notes), looked_in=finder.looked_in)


def _said(photo: Photo) -> str:
    return repr(photo.label) + (f" in {photo.split}" if photo.split else "")


def _rows(table: Table, ignored: Ignored, said: Asked, notes: list[str]) -> list[_Row]:
    """The rows that are not to be ignored, each with a path, a label and a known split or none."""
    columns = choose_columns(table, ignored, said)
    notes += columns.notes
    for index in (columns.path, columns.label):
        if not re.match(_ALLOWED[index == columns.label], table.kinds[index]):
            raise DataError(
                f"{table.source}: the column {table.names[index]!r} is of the type {table.kinds[index]}; a "
                f"{'label is text, a whole number or a truth value' if index == columns.label else 'path is text'}."
            )
    paths, labels = table.column(columns.path), _labels(table, columns.label, notes)
    splits = columns.splits or [None] * table.rows
    asked = [next((v for v in values if v and ignored.has(v)), None) for values in zip(labels, splits, strict=True)]
    ignored.check(filter(None, [*table.names, *labels, *splits]), table.source)
    if counts := Counter(value for value in asked if value is not None):
        notes.append(f"Rows ignored, as asked: {', '.join(f'{name!r} ({n:,})' for name, n in counts.items())}.")
    written: dict[str, set[str]] = {}
    known: set[str] = set()
    rows = []
    for number, (name, label, split) in enumerate(zip(paths, labels, splits, strict=True)):
        if asked[number] is not None:
            continue
        where = f"{table.source}, {table.where(number)}"
        path = os.fsdecode(name or "").strip()
        if not label or not path:
            raise DataError(f"{where}: the {'label' if path else 'path'} is empty. Give one, or delete the row.")
        if label not in known:
            _check_label(label, where)
            known.add(label)
        meant = check_split(split, where) if split else None
        if split and meant:
            written.setdefault(meant, set()).add(split.casefold())
        rows.append(_Row(table.where(number), os.fsdecode(name), label, meant))
    for split, spellings in written.items():
        if len(spellings) > 1:
            raise DataError(
                f"{table.source}: {' and '.join(map(repr, sorted(spellings)))} are all names of the split {split}. Use "
                f"one, or leave rows out with --ignore {max(spellings)}."
            )
    without = sum(row.split is None for row in rows)
    if written and without:
        notes.append(
            f"Without a split: {without:,} of {len(rows):,} rows. They are trained on, or held out where the table "
            "marks none for that."
        )
    return rows


_TEXT = r"(large_)?(string|binary)|string_view|fixed_size_binary"
_ALLOWED = (_TEXT, rf"{_TEXT}|bool|u?int|float|double|halffloat|decimal|null")


def _labels(table: Table, index: int, notes: list[str]) -> list[str]:
    """The labels as text, by the type of their column; a missing one is empty.

    Raises:
        DataError: a label is a number that is not whole.
    """
    found = []
    whole = False
    for row, value in enumerate(table.column(index)):
        if value is None or value != value:
            found.append("")
        elif isinstance(value, float | Decimal):
            if value != value.to_integral_value() if isinstance(value, Decimal) else not value.is_integer():
                raise DataError(
                    f"{table.source}, {table.where(row)}: the label is {value}; it must be a name or a whole number."
                )
            whole = True
            found.append(str(int(value)))
        elif isinstance(value, bytes):
            found.append(tidy(value.decode("utf-8", errors="surrogateescape")))
        else:
            found.append(str(value))
    # What pandas writes for whole numbers in a column that once lacked some.
    if table.kinds[index] == "string" and found and all(re.fullmatch(r" *-?[0-9]+\.0+ *", label) for label in found):
        whole = True
        found = [label.strip().partition(".")[0] for label in found]
    parts = [label for label in set(found) if re.fullmatch(r" *-?[0-9]+[.,][0-9]+ *", label)]
    if not whole and len(parts) > 1:
        notes.append(
            f"Labels that are numbers with decimals, each taken for the name of a class: {len(parts):,}, such as "
            f"{min(parts)!r}. Quantities are not learned as such here."
        )
    if whole:
        notes.append(f"The labels are numbers with a decimal point, and read as whole ones, such as {found[0]!r}.")
    return found


def _check_label(label: str, where: str) -> None:
    if not is_text(label):
        raise DataError(f"{where}: the label {as_latin1(label)} is no text in UTF-8. {SAVE_AS_UTF8}")
    if tidy(label).casefold() in ("nan", "<na>", "nat", "#n/a") or re.fullmatch(r"#[A-Z/0]+[!?]", tidy(label)):
        raise DataError(
            f"{where}: the label is {label!r}, as programs write a missing one. Give a label, or leave such rows out "
            f"with --ignore {tidy(label)}. A class of that name needs another one."
        )
    if not tidy(label):
        raise DataError(f"{where}: the label is empty. Give one, or delete the row.")
    if "\n" in tidy(label):
        raise DataError(
            f"{where}: the label is {label!r}, which has several lines. Close its quotes, or write it on one line."
        )


class _Finder:
    """From what a table says to a file: as it is written, or else as other systems write it."""

    def __init__(self, table: Path, said: Asked) -> None:
        self._table = table
        self._said = said
        self.root = table.parent if said.image_root is None else Path(said.image_root)
        if said.image_root is not None and not self.root.is_dir():
            raise UsageError(f"there is no folder {said.image_root!r}, which --image-root asks for.")
        self._read_as: Counter[str] = Counter()
        self._endings: Counter[str] = Counter()
        # Of each folder that was looked into: name without its ending, and whole name in lower case -> names.
        self._stems: dict[Path, dict[str, list[str]]] = {}
        self._folded: dict[Path, dict[str, list[str]]] = {}
        self._rows: Sequence[_Row] = ()
        self._found: Sequence[Path] = ()
        self._missing: list[str] = []
        self._relative = False

    def find(self, rows: Sequence[_Row]) -> list[Path]:
        """The path of each photo; those that are not there are noted.

        Raises:
            DataError: one is an address on the web, no text, or may be either of two files.
        """
        found = [self._find(row) for row in rows]
        for number, (row, path) in enumerate(zip(rows, found, strict=True)):
            if not os.path.lexists(path):
                found[number] = self._alike(row, path)
                if found[number] == path:
                    self._missing.append(row.path)
        self._relative = not all(Path(row.path.strip()).is_absolute() for row in rows)
        self._rows, self._found = rows, found
        return found

    def _find(self, row: _Row) -> Path:
        where = f"{self._table}, {row.where}"
        name = row.path
        if "\0" in name:
            raise DataError(f"{where}: the path {name!r} contains a NUL.")
        if "\n" in name and not os.path.lexists(self.root / name):
            raise DataError(f"{where}: the path {name!r} has several lines. Close its quotes, or write it on one line.")
        if scheme := re.match(r"([a-z][a-z0-9+.-]+)://", name.strip(), re.IGNORECASE):
            if scheme[1].lower() != "file":
                raise DataError(f"{where}: {name} is an address on the web. Download it and give its path.")
            self._read_as["as addresses (file://)"] += 1
            return Path(unquote(urlsplit(name.strip()).path))
        plain = self.root / name
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
            if os.path.lexists(self.root / other):
                if how:
                    self._read_as[how] += 1
                return self.root / other
        if slashed != name and self._named_alike(self.root / slashed):
            self._read_as["with backslashes"] += 1
            return self.root / slashed  # its ending is added next
        if not is_text(name):
            raise DataError(f"{where}: the path {as_latin1(name)} is not there, and no text in UTF-8. {SAVE_AS_UTF8}")
        return self.root / name

    def _alike(self, row: _Row, path: Path) -> Path:
        """The one photo that has such a name in another case, or such a name and an ending; else the path as it is.

        Tables of competitions give numbers of photos, `0a1b2c` for `0a1b2c.jpg`.

        Raises:
            DataError: there are several.
        """
        found = self._named_alike(path)
        if path.suffix.lower() in PHOTO_SUFFIXES:  # Windows and macOS do not tell cases apart
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

    def _named_alike(self, path: Path) -> list[str]:
        """Photos beside a path that it may mean: its name in another case or, where it has no ending, with one."""
        if path.parent not in self._stems:
            stems: dict[str, list[str]] = {}
            folded: dict[str, list[str]] = {}
            with suppress(OSError, ValueError):
                for entry in entries(path.parent):
                    stem, ending = os.path.splitext(entry.name)  # noqa: PTH122 - of an entry
                    if ending.lower() in PHOTO_SUFFIXES:
                        stems.setdefault(stem, []).append(entry.name)
                        folded.setdefault(entry.name.casefold(), []).append(entry.name)
            self._stems[path.parent], self._folded[path.parent] = stems, folded
        if path.suffix.lower() in PHOTO_SUFFIXES:
            return self._folded[path.parent].get(path.name.casefold(), [])
        return self._stems[path.parent].get(path.name, [])

    @property
    def looked_in(self) -> str:
        """Where relative paths are looked up, for people; empty where there are none."""
        if not self._relative:
            return ""
        which = "the folder of the table" if self._said.image_root is None else "as --image-root says"
        return f"relative paths are looked up in {self.root.absolute()} ({which})"

    def notes(self) -> list[str]:
        """How paths were read that are not written as they are here, and what is not there."""
        notes = [f"Paths written {how}, and found: {count:,}." for how, count in self._read_as.items()]
        if self._endings:
            listed = ", ".join(f"{count:,} with {ending}" for ending, count in self._endings.most_common())
            notes.append(f"Paths written without their ending, and found: {listed}.")
        if self._missing:
            few = ", ".join(self._missing[:3]) + (", …" if len(self._missing) > 3 else "")
            count = f"{len(self._missing):,} of {len(self._rows):,}"
            where = f"; {self.looked_in}" if self.looked_in else ""
            notes.append(f"Not there: {count} listed paths, such as {few}{where}.")
        return notes + self._elsewhere()

    def _elsewhere(self) -> list[str]:
        """What to know where some paths are there relative to the working folder, too, and are other files."""
        if self._said.image_root is not None or self.root.resolve() == Path.cwd():
            return []
        pairs = zip(self._rows[:1000], self._found[:1000], strict=True)
        both = [row.path for row, path in pairs if os.path.exists(row.path) and not _is_same(row.path, path)]  # noqa: PTH110
        if not both:
            return []
        return [
            f"{len(both):,} of the paths, such as {both[0]}, are there relative to the working folder as well, as "
            f"other files. Those in {self.root.absolute()} are taken, the folder of the table; --image-root . takes "
            "the others."
        ]

    def check(self) -> None:
        """Refuse a table of which no photo is there.

        Raises:
            DataError: says where they were looked for, and where they are.
        """
        if len(self._missing) < len(self._rows):
            return
        row, path, count = self._rows[0], self._found[0], len({os.path.normpath(path) for path in self._found})
        which = "the folder of the table" if self._said.image_root is None else "the folder of --image-root"
        raise DataError(
            f"{self._table}: none of its {count:,} photos is there. The first, {row.path} ({row.where}), was looked "
            f"for as {path.absolute()}. Paths are absolute, or relative to {which}.{self._hint(row)}"
        )

    def _hint(self, row: _Row) -> str:
        name = row.path.strip().replace("\\", "/")
        if self._said.image_root is None and (os.path.lexists(row.path) or self._named_alike(Path(name))):
            return " It is there relative to the working folder: give --image-root ."
        try:
            folders = [entry.name for entry in entries(self._table.parent) if is_folder(entry)]
        except OSError:
            folders = []
        for folder in folders:
            there = self._table.parent / folder / name
            if not Path(name).is_absolute() and (os.path.lexists(there) or self._named_alike(there)):
                return f" It is there in {folder}: give --image-root {shlex.quote(str(self._table.parent / folder))}."
        there_as = self._nearby(name, folders)
        return f" There is {there_as}: write the path so." if there_as else ""

    def _nearby(self, name: str, folders: Sequence[str]) -> str | None:
        """A file of that name relative to the table's folder: with a suffix, fewer folders, or in one that lies there.

        Tables come from other machines (`C:\\photos\\cat\\1.jpg`).
        """
        parts = [part for part in name.split("/") if part]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        tails += [f"{folder}/{parts[-1]}" for folder in folders if parts]
        tails += [os.path.splitext(tail)[0] for tail in tails if tail.lower().endswith(tuple(PHOTO_SUFFIXES))]  # noqa: PTH122
        with_suffix = (f"{tail}{suffix}" for tail in tails for suffix in ("", *sorted(PHOTO_SUFFIXES)))
        return next((each for each in with_suffix if os.path.isfile(self._table.parent / each)), None)  # noqa: PTH113


def _is_same(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - may be no path
    except (OSError, ValueError):
        return False
