"""Tables of photos: a .csv, .tsv or .parquet file with the columns path, label and, if wanted, split."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vertebra.photo_files import SUFFIXES as PHOTO_SUFFIXES
from vertebra.photo_files import entries, is_folder

from ._columns import check_split, choose_columns, fits
from ._dataset import DataError, Dataset, Photo
from ._labels import Ignored, as_latin1, is_text, join_names, split_of, tidy
from ._table_file import Table, read_parquet, read_text

SUFFIXES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class _Row:
    """What a row says."""

    where: str  # "line 3" or "row 2"
    path: str
    label: str
    split: str | None


def read_table(path: Path, *, ignore: Sequence[str] = ()) -> Dataset:
    """The photos that a table lists; their paths are relative to the folder that it lies in.

    Args:
        path: the table.
        ignore: labels and splits whose rows are left out, and columns that are not read.

    Raises:
        DataError: the table cannot be read, lacks a column, or a row lacks a value, has an unknown split or too many
            fields; or two rows say different things of one photo; or none of the photos is there.
        UsageError: a name to ignore stands for nothing.
        MissingExtraError: Parquet needs pyarrow.
    """
    ignored = Ignored(ignore)
    table = read_parquet(path) if path.suffix.lower() == ".parquet" else read_text(path, fits)
    notes = list(table.notes)
    rows = _rows(table, ignored, notes)
    if not rows:
        raise DataError(f"{path} lists no photos: no row is left below the names of the columns.")
    where: dict[str, str] = {}
    for row in rows:
        where.setdefault(row.label, row.where)
    classes, joined = join_names(where, str(path))
    splits = sorted(name for name in set(classes.values()) if split_of(name))
    if len({split_of(name) for name in splits}) > 1:
        notes.append(f"The labels {' and '.join(map(repr, splits))} are taken for classes, although they name splits.")
    finder = _Finder(path)
    photos: dict[str, tuple[_Row, Photo]] = {}
    again = 0
    for row in rows:
        photo = Photo(finder.find(row), classes[row.label], row.split)
        first, listed = photos.setdefault(os.path.normpath(photo.path), (row, photo))
        if (listed.label, listed.split) != (photo.label, photo.split):
            raise DataError(
                f"{path}, {row.where}: {row.path} is listed already, in {first.where}, as {_said(listed)}, and here as "
                f"{_said(photo)}. List each photo once."
            )
        again += first is not row
    if again:
        notes.append(f"Listed again with the same label, and counted once: {again:,} of {len(rows):,} rows.")
    finder.check(list(photos.values()))
    found = sorted((photo for _, photo in photos.values()), key=lambda photo: photo.path)
    names = tuple(sorted({photo.label for photo in found}))
    return Dataset(str(path), tuple(found), names, path.parent, notes=(*joined, *notes, *finder.notes()))


def _said(photo: Photo) -> str:
    return repr(photo.label) + (f" in {photo.split}" if photo.split else "")


def _rows(table: Table, ignored: Ignored, notes: list[str]) -> list[_Row]:
    """The rows that are not to be ignored, each with a path, a label and a known split or none."""
    columns = choose_columns(table, ignored)
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
    if whole:
        notes.append(f"The labels are numbers with a decimal point, and read as whole ones, such as {found[0]!r}.")
    return found


def _check_label(label: str, where: str) -> None:
    if not is_text(label):
        raise DataError(f"{where}: the label {as_latin1(label)} is no text in UTF-8. Save the table as CSV in UTF-8.")
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

    def __init__(self, table: Path) -> None:
        self._table = table
        self._read_as: Counter[str] = Counter()

    def find(self, row: _Row) -> Path:
        """The path of the photo; whether it is there is not asked where it is written plainly.

        Raises:
            DataError: it is an address on the web, or no text.
        """
        where = f"{self._table}, {row.where}"
        name = row.path
        if "\0" in name:
            raise DataError(f"{where}: the path {name!r} contains a NUL.")
        if "\n" in name and not os.path.lexists(self._table.parent / name):
            raise DataError(f"{where}: the path {name!r} has several lines. Close its quotes, or write it on one line.")
        if scheme := re.match(r"([a-z][a-z0-9+.-]+)://", name.strip(), re.IGNORECASE):
            if scheme[1].lower() != "file":
                raise DataError(f"{where}: {name} is an address on the web. Download it and give its path.")
            self._read_as["as addresses (file://)"] += 1
            return Path(unquote(urlsplit(name.strip()).path))
        plain = self._table.parent / name
        if name == name.strip() and name.isascii() and not re.search(r"\\|^~", name):
            return plain
        if os.path.lexists(plain):
            return plain
        name = name.strip()
        for how, other in (
            ("", name),
            ("with backslashes", name.replace("\\", "/")),
            ("in another Unicode form", unicodedata.normalize("NFC", name)),
            ("in another Unicode form", unicodedata.normalize("NFD", name)),
            ("from the home folder (~)", os.path.expanduser(name)),  # noqa: PTH111 - may be no path
        ):
            if os.path.lexists(self._table.parent / other):
                if how:
                    self._read_as[how] += 1
                return self._table.parent / other
        if not is_text(name):
            raise DataError(
                f"{where}: the path {as_latin1(name)} is not there, and no text in UTF-8. Save it in UTF-8."
            )
        return self._table.parent / name

    def _nearby(self, name: str) -> str | None:
        """A file of that name relative to the table's folder: with a suffix, fewer folders, or in one that lies there.

        Tables come from other machines (`C:\\photos\\cat\\1.jpg`), or give the names of files alone (`id,label`).
        """
        parts = [part for part in name.strip().replace("\\", "/").split("/") if part]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        try:
            folders = [entry.name for entry in entries(self._table.parent) if is_folder(entry)]
        except OSError:
            folders = []
        tails += [f"{folder}/{parts[-1]}" for folder in folders if parts]
        with_suffix = (f"{tail}{suffix}" for tail in tails for suffix in ("", *sorted(PHOTO_SUFFIXES)))
        return next((each for each in with_suffix if os.path.isfile(self._table.parent / each)), None)  # noqa: PTH113

    def notes(self) -> list[str]:
        """How paths were read that are not written as they are here."""
        return [f"Paths written {how}, and found: {count:,}." for how, count in self._read_as.items()]

    def check(self, photos: Sequence[tuple[_Row, Photo]]) -> None:
        """Refuse a table of which no file is there.

        Raises:
            DataError: says where it was looked for.
        """
        if any(os.path.lexists(photo.path) for _, photo in photos):
            return
        row, photo = photos[0]
        hint = ""
        if os.path.lexists(row.path):
            hint = " It is there relative to the working folder; put the table there."
        elif there := self._nearby(row.path):
            hint = f" There is {there}: write the path so."
        raise DataError(
            f"{self._table}: none of its {len(photos):,} photos is there. The first, {row.path} ({row.where}), was "
            f"looked for as {photo.path.absolute()}. Paths are absolute, or relative to the folder of the table.{hint}"
        )
