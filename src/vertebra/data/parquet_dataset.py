"""Reads Parquet files that hold the photos themselves: a column of bytes, or Hugging Face's `image`, and labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vertebra.sources.parquet_bytes import open_parquet
from vertebra.sources.photo_column import photo_column
from vertebra.sources.photo_place import StoredPhoto
from vertebra.sources.table_file import Table, read_parquet
from vertebra.storage import Location

from .dataset import DataError, Dataset, Photo
from .folder_tree import examples
from .label_names import Ignored, argument, merge_spellings
from .shard_files import ShardFile, find_shards
from .table import labelled_rows
from .table_columns import TableOptions
from .table_paths import Row
from .webdataset import named_labels


def read_parquet_photos(text: str, *, ignore: Sequence[str] = (), options: TableOptions) -> Dataset:
    """Read the photos of a Parquet file, of those in a folder or of a pattern.

    `ignore` has names of files and folders, labels, splits and columns.

    Raises:
        DataError: a photo has no label, or the files disagree.
        UsageError: there is no column of bytes, or no such column.
    """
    ignored = Ignored(ignore)
    files = find_shards(text, "parquet", ignored)
    notes = list(files.notes)
    rows: list[tuple[ShardFile, Row]] = []
    first: dict[str, str] = {}
    seen: list[str] = [file.shown for file in files.files]
    empty = []
    named = False  # by the files' own schema
    for file in files.files:
        table, photo, has_names = _table(file.location, options)
        named = named or has_names
        if not table.rows:
            empty.append(file.shown)
            continue
        found, own_seen = labelled_rows(table, ignored, replace(options, path_column=photo), notes, check=False)
        seen += own_seen
        for row in found:
            row = _with_split(row, file)
            if row.split is not None and ignored.has(row.split):
                continue
            first.setdefault(row.label, f"{file.location}::{row.path}")
            rows.append((file, row))
    ignored.check(seen, text)
    if not rows:
        raise DataError(f"{text} has no rows to read.")
    if empty:
        notes.append(f"Without any row, and left out: {examples(empty)}.")
    labels = {label: label for label in first}
    column = "" if options.path_column is None else f"{options.path_column}:"
    note: tuple[str, ...] = ()
    if not named:
        labels, note = named_labels(first, files)
    classes, joined = merge_spellings({labels[label]: where for label, where in first.items()}, text)
    photos = tuple(
        Photo(StoredPhoto(str(file.location), f"{column}{row.path}"), classes[labels[row.label]], row.split)
        for file, row in rows
    )
    return Dataset(
        text,
        photos,
        tuple(sorted({photo.label for photo in photos})),
        files.root,
        tuple(files.others),
        notes=(*joined, *dict.fromkeys(notes), *note),
    )


def _table(location: Location, options: TableOptions) -> tuple[Table, str, bool]:
    """Open a file as a table; return also the name of its column of photos, and whether the file names its classes.

    That column has the numbers of rows here, and one of labels their names.
    """
    table = read_parquet(location if location.is_remote else location.path)
    with open_parquet(location) as file:
        names = _class_labels(file.schema_arrow.metadata or {})
    photo = photo_column(location, options.path_column)
    if photo is None:
        raise DataError(
            f"{location} has no column of photos' bytes (it has {', '.join(table.names)}), as the other files have. "
            f"Leave it out with --ignore {argument(location.name)}."
        )
    at = table.names.index(photo)
    named = {index: names[name] for index, name in enumerate(table.names) if name in names and index != at}

    def column(index: int) -> list[Any]:
        if index == at:
            return [str(row) for row in range(table.rows)]
        values = table.column(index)
        return [_named(value, named[index], location) for value in values] if index in named else values

    kinds = tuple("string" if i == at or i in named else kind for i, kind in enumerate(table.kinds))
    return replace(table, column=column, kinds=kinds), photo, bool(named)


def _class_labels(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of classes that Hugging Face's features give for columns of numbers."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: [str(each) for each in feature["names"]]
            for name, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(value: int | None, names: Sequence[str], location: Location) -> str | None:
    if value is None or value == -1:  # as Hugging Face marks what has no label
        return None
    if not 0 <= value < len(names):
        raise DataError(f"{location} has the label {value}, and names {len(names):,} classes, from 0. Correct it.")
    return names[value]


def _with_split(row: Row, file: ShardFile) -> Row:
    """Return a row with the split of its file, unless it has one of its own."""
    if row.split is not None and file.split is not None and row.split != file.split:
        raise DataError(
            f"{file.location}, {row.where}: the split is {row.split}, and the file's name says {file.split}. Rename "
            "the file, or correct the column."
        )
    return row if row.split is not None or file.split is None else replace(row, split=file.split)
