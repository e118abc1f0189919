"""The shards or Parquet files of a data set: which there are, the split that each name says, and names of classes."""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vertebra.errors import UsageError, suggest_path
from vertebra.photo_files import FolderPath, SkippedFolderError, is_folder, is_hidden_or_system, is_photo, list_folder
from vertebra.sources.patterns import expand
from vertebra.sources.tar_shards import OTHER_TARS, has_photo_suffix, is_tar
from vertebra.storage import Location

from .dataset import DataError
from .folder_tree import examples
from .label_names import Ignored, argument, split_of, split_within

# What the names of classes are in, one a line, beside shards whose labels are numbers.
CLASS_FILES = ("classes.txt", "classnames.txt", "labels.txt")
_INFO_FILES = ("dataset_info.json", "dataset_infos.json")
_OF = re.compile(r"-\d+-of-\d+.*")  # Hugging Face's train-00000-of-00002-a1b2c3.parquet


def is_parquet(name: str) -> bool:
    """Whether a file is a Parquet file, by its name."""
    return name.lower().endswith(".parquet")


@dataclass(frozen=True)
class ShardFile:
    """One shard or Parquet file."""

    location: Location
    shown: str  # relative to the data set's folder
    split: str | None  # that its name or folder says


@dataclass(frozen=True)
class ShardFiles:
    """The shards or Parquet files of a data set, in the order of their names."""

    root: Location
    files: list[ShardFile]
    others: list[str] = field(default_factory=list)  # that are none, relative to the root
    notes: list[str] = field(default_factory=list)


def folder_kind(folder: Path) -> str:
    """Return what a local folder's photos are in: "folder", "webdataset" or "parquet".

    A folder with a photo at any depth is one of class folders; a search ends at the first.

    Raises:
        DataError: there are shards and Parquet files.
    """
    kinds: dict[str, str] = {}
    if _holds_photo(str(folder), FolderPath(str(folder.resolve())), kinds):
        return "folder"
    return _only_kind(kinds, str(folder)) or "folder"


def _holds_photo(folder: str, path: FolderPath, kinds: dict[str, str]) -> bool:
    """Whether there is a photo in a folder or below it; `kinds` gets the first file of each kind of shards."""
    try:
        entries, below = list_folder(folder, path)
    except SkippedFolderError:
        return False
    for entry in entries:
        if is_hidden_or_system(entry):
            continue
        if is_folder(entry):
            if _holds_photo(entry.path, below, kinds):
                return True
        elif kind := file_kind(entry.name):
            kinds.setdefault(kind, entry.path)
        elif is_photo(entry):
            return True
    return False


def file_kind(name: str) -> str | None:
    """Return the kind of shards that a file is of, by its name: "webdataset", "parquet" or None."""
    return "webdataset" if is_tar(name) else "parquet" if is_parquet(name) else None


def _only_kind(kinds: dict[str, str], source: str) -> str | None:
    if len(kinds) > 1:
        raise DataError(
            f"{source} has tar shards, such as {kinds['webdataset']}, and Parquet files, such as {kinds['parquet']}. "
            "Give the folder of one kind."
        )
    return next(iter(kinds), None)


def listed_kind(names: Sequence[str], source: str) -> str:
    """Return what the photos of a remote folder are in, by the names of its files."""
    if any(map(has_photo_suffix, names)):
        return "folder"
    kinds: dict[str, str] = {}
    for name in names:
        if kind := file_kind(name):
            kinds.setdefault(kind, name)
    return _only_kind(kinds, source) or "folder"


def is_pattern(text: str) -> bool:
    """Whether a text that is no file stands for several, as `train-{000..099}.tar` and `train-*.tar` do."""
    is_there = not Location(text).is_remote and os.path.lexists(text)
    return not is_there and (re.search(r"\{[^{}]*(\.\.|,)[^{}]*\}", text) is not None or glob.has_magic(text))


def find_shards(text: str, kind: str, ignored: Ignored) -> ShardFiles:
    """Find the shards of a folder, of a pattern, or the one file.

    Raises:
        UsageError: a file of a pattern does not exist.
        DataError: no file is left, or the splits cannot be told.
    """
    location = Location(text)
    notes: list[str] = []
    if is_pattern(text) or not location.is_folder():
        files = list(expand(text))
        if missing := [str(file) for file in files if not file.is_file()]:
            raise UsageError(
                f"{text} stands for {len(files):,} files, and {len(missing):,} of them are not there, such as "
                f"{missing[0]}. {suggest_path(missing[0]) or ''}".rstrip()
            )
        root, others = files[0].parent, []
    else:
        root = location
        found = [entry.location for entry in location.list()]
        files = [file for file in found if file_kind(file.name) == kind]
        others = [relative(file, root) for file in found if file_kind(file.name) != kind]
    shown = [relative(file, root) for file in files]
    pairs = list(zip(files, shown, strict=True))
    kept = [(file, name) for file, name in pairs if not ignored.has(file.name, name, *name.split("/")[:-1])]
    if len(kept) < len(pairs):
        out = [name for _, name in pairs if name not in {each for _, each in kept}]
        notes.append(f"Ignored, as asked: {examples(out)}.")
    if unpacked := [name for name in others if name.lower().endswith(OTHER_TARS)]:
        notes.append(
            f"Not read, as only plain tar files are: {examples(unpacked)}. Unpack them, or pack them anew as .tar."
        )
    if not kept:
        raise DataError(f"{text} has no {'shard' if kind == 'webdataset' else 'Parquet file'} to read.")
    splits = _splits([name for _, name in kept], text)
    shards = [ShardFile(file, name, split) for (file, name), split in zip(kept, splits, strict=True)]
    return ShardFiles(root, shards, others, notes)


def relative(location: Location, root: Location) -> str:
    """Format a file relative to the folder that it is below."""
    if not root.is_remote:
        return str(location.path.relative_to(root.path))
    return location.uri.removeprefix(f"{root.uri.rstrip('/')}/")


def _splits(names: Sequence[str], source: str) -> list[str | None]:
    """Return the split of each file by its folders and name; all have one or none has."""
    found = [_split_of_file(name, source) for name in names]
    without = [name for name, split in zip(names, found, strict=True) if split is None]
    if without and len(without) < len(names):
        named = next(name for name, split in zip(names, found, strict=True) if split is not None)
        raise DataError(
            f"{source} has {named}, whose name says the split, and {without[0]}, whose name says none. Name the split "
            f"in all (train-000.tar, val-000.tar), or leave files out with --ignore {argument(without[0])}."
        )
    return found


def _split_of_file(name: str, source: str) -> str | None:
    *folders, base = name.replace("\\", "/").split("/")
    by_folder = {split for folder in folders if (split := split_of(folder)) is not None}
    stem = _OF.sub("", re.sub(r"\.(tar|tar\.gz|tgz|parquet)$", "", base, flags=re.IGNORECASE))
    within = split_within(stem)
    both = by_folder | ({within[0]} if within is not None else set())
    if len(both) > 1:
        raise DataError(
            f"{source}: {name} names the splits {' and '.join(sorted(both))}. Rename it, or leave it out with --ignore "
            f"{argument(base)}."
        )
    return next(iter(both), None)


def class_names(shards: ShardFiles, ignored: Ignored) -> tuple[list[str] | None, str]:
    """Return the names of classes by their indices, and the file that has them; None: there is none.

    Raises:
        DataError: a file has a name twice, or several disagree.
        StorageError: it cannot be read.
    """
    chosen: tuple[list[str], str] | None = None
    for name in (*CLASS_FILES, *_INFO_FILES):
        path = shards.root / name
        if ignored.has(name) or not path.is_file():
            continue
        content = path.read_bytes().decode("utf-8", errors="replace")
        found = _info_names(content) if name in _INFO_FILES else content.splitlines()
        if found is None:
            continue
        while found and not found[-1].strip():
            found.pop()
        if chosen is not None and found != chosen[0]:
            raise DataError(
                f"{chosen[1]} and {path} name classes differently. Correct one, or leave one out with --ignore {name}."
            )
        if twice := next((each for each, count in Counter(found).items() if count > 1), None):
            raise DataError(f"{path} has the class {twice!r} twice. Give each class a name of its own.")
        chosen = chosen or (found, str(path))
    return chosen or (None, "")


def _info_names(content: str) -> list[str] | None:
    """Return the names of Hugging Face's ClassLabel in the JSON of a data set's features, if there is one alone."""
    try:
        found = _class_labels(json.loads(content))
    except (ValueError, RecursionError):
        return None
    return found[0] if len(found) == 1 else None


def _class_labels(value: object) -> list[list[str]]:
    if (found := class_label(value)) is not None:
        return [found]
    return [each for inner in value.values() for each in _class_labels(inner)] if isinstance(value, dict) else []


def class_label(feature: object) -> list[str] | None:
    """Return the names of classes that one of Hugging Face's features gives; None: it is no ClassLabel."""
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else None
