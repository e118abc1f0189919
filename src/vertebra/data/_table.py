"""Tables of photos: a .csv, .tsv or .parquet file with the columns path, label and, if wanted, split."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vertebra.errors import MissingExtraError, nearest

from ._dataset import DataError, Dataset, Photo
from ._layout import SPLIT_NAMES

SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(path: Path) -> Dataset:
    """The photos that a table lists; their paths are relative to the folder that it lies in.

    Raises:
        DataError: the table cannot be read, lacks a column, or a row lacks a value or has an unknown split.
        MissingExtraError: Parquet needs pyarrow.
    """
    root = path.parent
    photos = []
    seen: dict[Path, int] = {}
    for number, row in _rows(path):
        label, name = str(row["label"] or "").strip(), str(row["path"] or "").strip()
        if not label or not name:
            raise DataError(f"{path}, {number}: the {'label' if name else 'path'} is empty.")
        split = str(row.get("split") or "").strip()
        if split and split.lower() not in SPLIT_NAMES:
            raise DataError(
                f"{path}, {number}: the split is {split!r}; it must be train, val, test or empty. "
                f"{nearest(split, SPLIT_NAMES)}".strip()
            )
        place = root / name
        if place in seen:
            raise DataError(f"{path}, {number}: {name} is listed already, in row {seen[place]}. List each photo once.")
        seen[place] = len(seen) + 1
        photos.append(Photo(place, label, SPLIT_NAMES[split.lower()] if split else None))
    photos.sort(key=lambda photo: photo.path)
    return Dataset(str(path), tuple(photos), tuple(sorted({photo.label for photo in photos})), root)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, the row) for each row of a table."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path)
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            _check_columns(path, reader.fieldnames or ())
            for row in reader:
                yield f"line {reader.line_num}", row
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table of text in UTF-8 ({error}).") from error


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading {path.name}", "parquet") from error
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet table ({error}).") from error
    _check_columns(path, table.column_names)
    wanted = [name for name in ("path", "label", "split") if name in table.column_names]
    for number, row in enumerate(table.select(wanted).to_pylist(), start=1):
        yield f"row {number}", row


def _check_columns(path: Path, columns: Any) -> None:
    for name in ("path", "label"):
        if name not in columns:
            hint = nearest(name, columns)
            raise DataError(
                f"{path} has no column {name!r} (it has {', '.join(columns) or 'none'}). {hint} The first line names "
                "the columns: path,label or path,label,split."
            )
