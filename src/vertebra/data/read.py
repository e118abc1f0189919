"""Opens DATA: a folder, a table, shards or a name → a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vertebra.errors import UsageError, suggest, suggest_path
from vertebra.file_kinds import detect_file_kind
from vertebra.sources.parquet_bytes import open_parquet, photo_column_of
from vertebra.sources.shard_reader import forget_shards
from vertebra.sources.table_file import TABLE_SUFFIXES
from vertebra.sources.tar_shards import OTHER_TARS
from vertebra.storage import Location, StorageError

from .class_folders import read_folder
from .dataset import Dataset
from .dataset_checks import require_classes, require_seen
from .name_or_folder import is_public_name, warn_which
from .named_datasets import NAMES, read_named
from .parquet_dataset import read_parquet_photos
from .remote_folder import list_remote, read_remote_folder
from .shard_files import file_kind, folder_kind, is_pattern, listed_kind
from .table import read_table
from .table_columns import TableOptions
from .webdataset import read_webdataset


def open_dataset(
    data: str | os.PathLike[str],
    *,
    ignore: Sequence[str] = (),
    allow_unseen: bool = False,
    training: bool = True,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Open the labelled photos of a folder, a table, shards or a named data set.

    Args:
        data: a folder of class folders; a folder of `train`, `val` (`valid`, `validation`, …) and `test` folders with
            class folders in them; a .csv, .tsv, .txt or .parquet table with the columns path, label and optionally
            split; WebDataset shards or Parquet files with the bytes of photos, as a folder of them, a pattern such as
            `train-{000..099}.tar` or one file; each of these also by an address such as `s3://bucket/photos`; or a
            name: `digits` (scikit-learn's handwritten digits, offline) or one that torchvision downloads. A folder of
            such a name is read in its place where it holds photos, unlike the folder of a run.
        ignore: what to leave out: folders by name or path; of a table labels, splits and columns.
        allow_unseen: leave out classes without training photos instead of raising an error.
        training: False for evaluation: one class is enough, and no class needs training photos.
        path_column: name of a table's column of paths; None: found by its name.
        label_column: name of the column of labels; None: found by its name.
        split_column: name of the column of splits; None: found by its name or values, if there is one.
        image_root: folder that a table's paths are relative to; None: the table's folder.

    Raises:
        UsageError: there is no such folder, table or name, or no such name to ignore.
        DataError: there are no labelled photos, or their layout is ambiguous.
        StorageError: remote storage cannot be read, or a shard is damaged.
        MissingExtraError: a name or a format needs a package that is not installed.
    """
    forget_shards()
    found = resolve_source(
        data,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        image_root=None if image_root is None else os.fspath(image_root),
    )(ignore, training)
    return require_seen(require_classes(found), allow_unseen) if training else require_classes(found, 1)


def resolve_source(data: str | os.PathLike[str], **columns: str | None) -> Callable[[Sequence[str], bool], Dataset]:
    """Return the reader of `data`, a function of `ignore` and `training`, without reading any photo.

    `columns` are the options of `open_dataset` for tables; with other data, or without such data, they are a
    UsageError.
    """
    text = os.fspath(data)
    if not text:
        raise UsageError("DATA is empty, as an unset variable would be. Give a folder, a table or a name.")
    kind = _kind(text)
    given = [f"--{name.replace('_', '-')}" for name, value in columns.items() if value is not None]
    if given and kind not in ("table", "parquet"):
        raise UsageError(f"{given[0]} is for tables ({', '.join(TABLE_SUFFIXES)}), and {text} is none. Leave it out.")
    options = TableOptions(**columns)
    if kind == "name":
        return lambda ignore, training: _read_public(text, ignore)
    if kind == "table":
        return lambda ignore, training: _read_table(text, ignore, options)
    name = text.rstrip("/") or text
    if kind == "parquet":
        return lambda ignore, training: read_parquet_photos(name, ignore=ignore, options=options)
    if kind == "webdataset":
        return lambda ignore, training: read_webdataset(name, ignore=ignore)
    if kind == "remote folder":
        return lambda ignore, training: read_remote_folder(Location(text), ignore=ignore, training=training)
    return lambda ignore, training: _read_folder(text, ignore, training)


def _kind(text: str) -> str:
    """Return what a DATA is: "name", "folder", "remote folder", "table", "parquet" or "webdataset".

    Raises:
        UsageError: it is none of them, or not there.
    """
    location, path = Location(text), Path(text)
    is_there = not location.is_remote and _is_there(path)
    if is_public_name(text):
        return "name"
    if is_there and path.is_dir():
        return folder_kind(path)
    if is_pattern(text) and (kind := file_kind(text)):
        return kind
    suffix = location.suffix
    if suffix in TABLE_SUFFIXES and (is_there or path.name != text):
        return "table"
    if location.is_remote:
        return _remote_kind(location)
    if is_there and file_kind(text) == "webdataset":
        return "webdataset"
    if is_there:
        found = detect_file_kind(path)
        what = f"no table, but {found}. {found.kind.advice}" if found else "no table"
        raise UsageError(
            f"{text} is a file that is {what}. Give a folder of class folders, WebDataset shards (.tar), or a table "
            f"ending in {', '.join(TABLE_SUFFIXES)}."
        )
    hint = suggest(text, NAMES) or suggest_path(text) or f"Names that need no folder: {', '.join(sorted(NAMES))}."
    raise UsageError(f"there is no folder, table or data set {text!r}. {hint}")


def _remote_kind(location: Location) -> str:
    if file_kind(location.name) == "webdataset":
        return "webdataset"
    if location.name.lower().endswith(OTHER_TARS) or location.is_file():
        raise UsageError(
            f"{location} is a file that is no table and no plain .tar. Give a folder, WebDataset shards (.tar), or a "
            f"table ending in {', '.join(TABLE_SUFFIXES)}."
        )
    kind = listed_kind(list_remote(location), str(location))
    return "remote folder" if kind == "folder" else kind


def _read_table(text: str, ignore: Sequence[str], options: TableOptions) -> Dataset:
    """Read a table of paths, or a Parquet file that holds the photos themselves."""
    location = Location(text)
    if location.suffix == ".parquet":
        with suppress(StorageError):  # which reading the table explains
            with open_parquet(location) as file:
                photo = photo_column_of(file, location, options.path_column)
            if photo is not None:
                return read_parquet_photos(text, ignore=ignore, options=options)
    return read_table(location if location.is_remote else location.path, ignore=ignore, options=options)


def _read_public(name: str, ignore: Sequence[str]) -> Dataset:
    warn_which(name, public=True)
    return read_named(name, ignore=ignore)


def _read_folder(text: str, ignore: Sequence[str], training: bool) -> Dataset:
    warn_which(text, public=False)
    return read_folder(Path(text), ignore=ignore, training=training)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in it
        return False
    except OSError as error:  # no permission for a parent folder, a name that is too long, a link to itself
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}). Give a folder, a table or a name."
        ) from error
    return True
