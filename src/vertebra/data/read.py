"""Opens DATA: a folder, a table or a name → a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vertebra.errors import UsageError, suggest, suggest_path
from vertebra.file_kinds import detect_file_kind
from vertebra.sources.table_file import TABLE_SUFFIXES, is_table

from .class_folders import read_folder
from .dataset import Dataset
from .dataset_checks import require_classes, require_seen
from .name_or_folder import is_public_name, warn_which
from .named_datasets import NAMES, read_named
from .table import read_table
from .table_columns import TableOptions


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
    """Open the labelled photos of a folder, a table or a named data set.

    Args:
        data: a folder of class folders; a folder of `train`, `val` (`valid`, `validation`, …) and `test` folders with
            class folders in them; a .csv, .tsv, .txt or .parquet table with the columns path, label and optionally
            split; or a name: `digits` (scikit-learn's handwritten digits, offline) or one that torchvision downloads. A
            folder of such a name is read in its place where it holds photos, unlike the folder of a run.
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
        MissingExtraError: a name or a format needs a package that is not installed.
    """
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
    path = Path(text)
    if not text:
        raise UsageError("DATA is empty, as an unset variable would be. Give a folder, a table or a name.")
    is_there = _is_there(path)
    given = [f"--{name.replace('_', '-')}" for name, value in columns.items() if value is not None]
    if given and not is_table(path):
        raise UsageError(f"{given[0]} is for tables ({', '.join(TABLE_SUFFIXES)}), and {text} is none. Leave it out.")
    if is_public_name(text):
        return lambda ignore, training: _read_public(text, ignore)
    if is_there and path.is_dir():
        return lambda ignore, training: _read_folder(text, ignore, training)
    if path.suffix.lower() in TABLE_SUFFIXES and (is_there or path.name != text):
        return lambda ignore, training: read_table(path, ignore=ignore, options=TableOptions(**columns))
    if is_there:
        kind = detect_file_kind(path)
        what = f"no table, but {kind}. {kind.kind.advice}" if kind else "no table"
        raise UsageError(
            f"{text} is a file that is {what}. Give a folder of class folders, or a table ending in "
            f"{', '.join(TABLE_SUFFIXES)}."
        )
    hint = suggest(text, NAMES) or suggest_path(text) or f"Names that need no folder: {', '.join(sorted(NAMES))}."
    raise UsageError(f"there is no folder, table or data set {text!r}. {hint}")


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
