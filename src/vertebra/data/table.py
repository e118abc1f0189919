"""Reads a table of photos: a text or .parquet file with the columns path, label and optionally split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from vertebra.sources.photo_place import PhotoPlace, normalized
from vertebra.sources.table_file import Table, read_parquet, read_text
from vertebra.sources.text_table import SAVE_AS_UTF8
from vertebra.storage import Location

from .dataset import DataError, Dataset, Photo
from .label_names import Ignored, as_latin1, is_text, merge_spellings, split_of, tidy
from .table_columns import TableOptions, choose_columns
from .table_paths import PathFinder, Row
from .table_splits import parse_split


def read_table(
    path: Path | Location,
    *,
    ignore: Sequence[str] = (),
    options: TableOptions = TableOptions(),  # noqa: B008 - frozen
) -> Dataset:
    """Read the photos of a table; `ignore` has labels and splits whose rows are left out, and columns."""
    ignored = Ignored(ignore)
    table = read_parquet(path) if path.suffix.lower() == ".parquet" else read_text(path, options.fits)
    notes = list(table.notes)
    rows, _, _ = labelled_rows(table, ignored, options, notes)
    if not rows:
        raise DataError(f"{path} lists no photos: no row is left below the names of the columns.")
    first_rows: dict[str, str] = {}
    for row in rows:
        first_rows.setdefault(row.label, row.where)
    classes, joined = merge_spellings(first_rows, str(path))
    splits = sorted(name for name in set(classes.values()) if split_of(name))
    if len({split_of(name) for name in splits}) > 1:
        notes.append(f"The labels {' and '.join(map(repr, splits))} are taken for classes, although they name splits.")
    finder = PathFinder(path, options)
    photos: dict[PhotoPlace, tuple[Row, Photo]] = {}
    num_repeated = 0
    for row, file in zip(rows, finder.find(rows), strict=True):
        photo = Photo(file, classes[row.label], row.split)
        first, listed = photos.setdefault(normalized(file), (row, photo))
        if (listed.label, listed.split) != (photo.label, photo.split):
            raise DataError(
                f"{path}, {row.where}: {row.path} is listed already, in {first.where}, as {_quoted(listed)}, and here "
                f"as {_quoted(photo)}. List each photo once."
            )
        num_repeated += first is not row
    if num_repeated:
        notes.append(f"Listed again with the same label, and counted once: {num_repeated:,} of {len(rows):,} rows.")
    found = sorted((photo for _, photo in photos.values()), key=lambda photo: photo.path)
    names = tuple(sorted({photo.label for photo in found}))
    finder.check()
    notes += finder.notes()
    return Dataset(str(path), tuple(found), names, finder.root, notes=(*joined, *notes), looked_in=finder.looked_in)


def _quoted(photo: Photo) -> str:
    return repr(photo.label) + (f" in {photo.split}" if photo.split else "")


def labelled_rows(
    table: Table, ignored: Ignored, options: TableOptions, notes: list[str], *, check: bool = True
) -> tuple[list[Row], list[str], str]:
    """Return the rows that are not ignored, each with a path, a label and a split or None.

    Return also all that can be ignored, and the name of the column of labels.

    `check` refuses names to ignore that the table does not have.
    """
    path_column, label_column, splits = choose_columns(table, ignored, options, notes)
    for index, types, what in (
        (path_column, _TEXT, "path is text"),
        (label_column, _LABEL_TYPES, "label is text, a whole number or a truth value"),
    ):
        if not re.match(types, table.kinds[index]):
            kind = f"the column {table.names[index]!r} is of the type {table.kinds[index]}"
            raise DataError(f"{table.source}: {kind}; a {what}.")
    paths, labels = table.column(path_column), _labels(table, label_column, notes)
    splits = splits or [None] * table.rows
    asked = [next((v for v in values if v and ignored.has(v)), None) for values in zip(labels, splits, strict=True)]
    seen = list(dict.fromkeys(filter(None, [*table.names, *labels, *splits])))
    if check:
        ignored.check(seen, table.source)
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
        meant = parse_split(split, where) if split else None
        if split and meant:
            written.setdefault(meant, set()).add(split.casefold())
        rows.append(Row(table.where(number), os.fsdecode(name), label, meant))
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
    return rows, seen, table.names[label_column]


_TEXT = r"(large_)?(string|binary)|string_view|fixed_size_binary"
_LABEL_TYPES = rf"{_TEXT}|bool|u?int|float|double|halffloat|decimal|null"


def _labels(table: Table, index: int, notes: list[str]) -> list[str]:
    """Return the labels as text, by the type of their column; "" if missing."""
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
    # pandas writes integers of a column with missing values as floats.
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
