"""Reads Parquet files that hold the photos themselves: a column of bytes, or Hugging Face's `image`, and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vertebra.sources.parquet_bytes import open_parquet, photo_column_of
from vertebra.sources.photo_place import StoredPhoto
from vertebra.sources.table_file import Table, read_parquet
from vertebra.storage import Location

from .dataset import DataError, Dataset, Photo
from .folder_tree import examples
from .label_names import Ignored, argument
from .shard_files import ShardFile, ShardFiles, class_label, class_names, find_shards
from .shard_labels import is_number
from .table import labelled_rows
from .table_columns import TableOptions
from .table_paths import Row
from .webdataset import named_dataset, named_labels


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
    photos: list[Photo] = []
    first: dict[str, str] = {}
    seen: list[str] = [file.shown for file in files.files]
    empty = []
    column = "" if options.path_column is None else f"{options.path_column}:"
    columns: dict[tuple[str, bool], Location] = {}  # of labels, and whether they are bare numbers → the first file
    names: dict[Location, list[str]] = {}  # of classes, that a file has itself
    for file in files.files:
        table, photo, class_labels = _table(file.location, options)
        if not table.rows:
            empty.append(file.shown)
            continue
        found, own_seen, label = labelled_rows(table, ignored, replace(options, path_column=photo), notes, check=False)
        seen += own_seen
        if label in class_labels:
            names[file.location] = class_labels[label]
        is_bare = label not in class_labels and any(is_number(row.label) for row in found)
        columns.setdefault((label, is_bare), file.location)
        for row in found:
            row = _with_split(row, file)
            if row.split is not None and ignored.has(row.split):
                continue
            first.setdefault(row.label, f"{file.location}::{row.path}")
            photos.append(Photo(StoredPhoto(str(file.location), f"{column}{row.path}"), row.label, row.split))
    if not photos:
        ignored.check(seen, text)
        raise DataError(f"{text} has no rows to read.")
    if empty:
        notes.append(f"Without any row, and left out: {examples(empty)}.")
    _require_same_labels(columns, names)
    labels = {label: label for label in first}
    note: tuple[str, ...] = ()
    if not names:
        labels, note = named_labels(first, files, ignored)
    else:
        _require_same_names(names, files, ignored)
    ignored.check(seen, text)
    return named_dataset(text, files, photos, first, labels, [*dict.fromkeys(notes), *note])


def _require_same_labels(columns: Mapping[tuple[str, bool], Location], names: Mapping[Location, list[str]]) -> None:
    """Refuse labels of several columns, and numbers of which only some files say the names."""
    (one, _), first = next(iter(columns.items()))
    if other := next((column for column, _ in columns if column != one), None):
        second = next(file for (column, _), file in columns.items() if column == other)
        raise DataError(
            f"{first} has the labels in the column {one!r}, and {second} in {other!r}. Give --label-column NAME, or "
            "give the column one name."
        )
    bare = columns.get((one, True))
    if bare is not None and names:
        raise DataError(
            f"{next(iter(names))} names the classes of its column {one!r} (ClassLabel), and {bare} has numbers there. "
            "Write all files with the names, or all without."
        )


def _require_same_names(names: Mapping[Location, list[str]], files: ShardFiles, ignored: Ignored) -> None:
    """Refuse names of classes beside the files that are not those in the files."""
    beside, source = class_names(files, ignored)
    if beside is None:
        return
    for file, own in names.items():
        if own != beside:
            raise DataError(
                f"{source} names classes otherwise than {file} does (ClassLabel): {_difference(beside, own)}. Correct "
                f"one, or leave the former out with --ignore {argument(Location(source).name)}."
            )


def _difference(beside: Sequence[str], names: Sequence[str]) -> str:
    for index, (one, other) in enumerate(zip(beside, names, strict=False)):
        if one != other:
            return f"{index} is {one!r} and {other!r}"
    return f"{len(beside):,} and {len(names):,}"


def _table(location: Location, options: TableOptions) -> tuple[Table, str, dict[str, list[str]]]:
    """Open a file as a table; return also the name of its column of photos, and the names of classes by column.

    That column has the numbers of rows here, and one of labels their names.
    """
    table = read_parquet(location if location.is_remote else location.path)
    with open_parquet(location) as file:
        names = _classes_of_columns(file.schema_arrow.metadata or {})
        photo = photo_column_of(file, location, options.path_column)
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
    return replace(table, column=column, kinds=kinds), photo, names


def _classes_of_columns(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of classes that Hugging Face's features give for columns of numbers."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: found for name, feature in features.items() if (found := class_label(feature)) is not None}
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
