"""Folders of photos: `cat/1.jpg`, or `train/cat/1.jpg` beside `test/cat/2.jpg`.

What a folder means is decided here: a class, a split, a wrapper around them, or nothing. What could be taken in two
ways is refused by name; what is left out or joined is told in the data set's notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .dataset import DataError, Dataset, Photo
from .dataset_checks import IN_NO_CLASS, instead_of_folders
from .folder_tree import Folder, FolderTree, listed, some
from .label_names import KNOWN_SPLITS, Ignored, argument, is_text, join_names, split_of, split_within, tidy


def read_folder(root: Path, *, ignore: Sequence[str] = (), training: bool = True) -> Dataset:
    """The photos below a folder; the first folder below it (or below the split) is the class.

    `ignore` has names of folders (at any depth) or their paths. Without `training` the photos only measure a
    classifier: one class is enough, and a folder that holds everything is the class.
    """
    ignored = Ignored(ignore, root)
    walk = FolderTree(root, ignored)
    top = walk.tree()
    ignored.check(walk.names, str(root))
    notes = walk.notes()
    top = _unwrapped(top, walk, notes, training)
    splits = _split_folders(top, walk, notes)
    groups: list[tuple[Folder, str | None]] = [*splits] or [(top, None)]
    where: dict[str, str] = {}
    empty: set[str] = set()
    found: list[tuple[Folder, str | None]] = []
    for folder, split in groups:
        empty |= {tidy(each.name) for each in folder.folders if not each.is_filled}
        for each in folder.filled:
            found.append((each, split))
            where.setdefault(each.name, walk.shown(each.path))
            _check_class(each, walk, notes)
    _tell_loose([top, *(folder for folder, _ in groups if folder is not top)], walk, notes)
    if not splits:
        _tell_names(top, notes)
    _tell_below(groups, walk, notes)
    classes, joined = join_names(where, str(root))
    photos = [Photo(path, classes[folder.name], split) for folder, split in found for path in folder.below()]
    names = set(classes.values())
    empty = {name for name in empty - names if name and is_text(name)}
    # A classifier that is measured names all classes without a photo, those without a folder too.
    if empty and training:
        notes.append(f"Without any photo, and left out: {some([repr(name) for name in sorted(empty)])}.")
    return Dataset(
        str(root),
        tuple(photos),
        tuple(sorted(names | empty)),
        root,
        tuple(walk.others),
        tuple(walk.unreadable),
        tuple(joined + notes),
    )


def _unwrapped(top: Folder, walk: FolderTree, notes: list[str], training: bool) -> Folder:
    """The folder that holds the class folders or splits: one within the other, as archives unpack, are gone through."""
    inner = top
    while len(inner.filled) == 1 and not _is_split(inner.filled[0]) and not inner.filled[0].photos:
        inner = inner.filled[0]
    split = any(_is_split(folder) for folder in inner.filled)
    if inner is top or not (split or (training and len(inner.filled) > 1)):
        return top
    _tell_loose([top], walk, notes)
    notes.append(f"All photos in folders lie in {walk.shown(inner.path)}; its folders are read.")
    return inner


def _is_split(folder: Folder) -> bool:
    """Whether a folder is a split: by its name, and because photos lie in folders of it."""
    return split_of(folder.name) is not None and bool(folder.filled)


def _split_folders(top: Folder, walk: FolderTree, notes: list[str]) -> list[tuple[Folder, str]]:
    """The folders that are splits with their splits; none where the folders are classes."""
    where = walk.root if top.path == walk.root else top.path
    splits = [(folder, split) for folder in top.filled if _is_split(folder) and (split := split_of(folder.name))]
    if not splits:
        _check_named_like_splits(top, where, walk)
        return []
    names = [folder.name for folder, _ in splits]
    # A name of a split whose photos lie in no class folders may be a class, or photos without labels.
    beside = [folder.name for folder in top.filled if not _is_split(folder)]
    if beside:
        ways = " ".join(f"--ignore {argument(name)}" for name in beside[:5])
        flat = [name for name in beside if split_of(name)]
        reason = "whose photos lie in no class folders" if flat == beside else "which are no splits with class folders"
        raise DataError(
            f"{where} has the splits {listed(names)} and beside them {listed(beside)}, {reason}. Move them into a "
            f"split or away, or leave them out with {ways}. Splits are named {KNOWN_SPLITS}; a class of such a name "
            "has its photos directly in it."
        )
    for _, split in splits:
        same = [folder.name for folder, other in splits if other == split]
        if len(same) > 1:
            raise DataError(
                f"{where} has {listed(same)}, which are all names of the split {split}. Merge them, or leave one out "
                f"with --ignore {argument(_other_than(split, same))}."
            )
    if empty := [folder.name for folder in top.folders if not folder.is_filled]:
        notes.append(f"Beside the splits {listed(names)}, without any photo and ignored: {some(empty)}.")
    return splits


def _check_named_like_splits(top: Folder, where: Path, walk: FolderTree) -> None:
    """Refuse to learn to tell `train2017` from `val2017`, `train/1.jpg` from `test/2.jpg`, or `fold1` from `fold2`."""
    if _are_parts(top) and any(len(folder.filled) > 1 for folder in top.filled):
        raise DataError(
            f"{where} has {listed([folder.name for folder in top.filled])}, which are named like parts of one data "
            "set, hold folders of photos, and would be taken for classes. Put all photos of a class in one folder, or "
            "list them in a table with the columns path,label."
        )
    ways = (
        f"Name the splits {KNOWN_SPLITS}, and put the photos of each class in a folder in them: train/cat/1.jpg. Leave "
        "one out with --ignore"
    )
    for names in _named_like_splits(top.filled):
        raise DataError(
            f"{where} has {listed(names)}, which are named like splits and would be taken for classes. {ways} "
            f"{argument(_other_than('train', names))}.{instead_of_folders(walk.others, walk.root)}"
        )
    for folder in top.filled:
        if split_within(folder.name) and len(_innermost(folder).filled) > 1:
            raise DataError(
                f"{where} has {folder.name}, which is named like a split, holds folders of photos, and would be taken "
                f"for a class. {ways} {argument(folder.name)}. A class of such a name has its photos directly in it."
            )


def _innermost(folder: Folder) -> Folder:
    """The folder, or the one that holds all its photos, through folders that hold nothing else."""
    while len(folder.filled) == 1 and not folder.photos:
        folder = folder.filled[0]
    return folder


def _named_like_splits(folders: Sequence[Folder]) -> list[list[str]]:
    """The folders that are named like different splits of the same, such as `x_train` and `x_test`: one of each."""
    like: dict[str, dict[str, str]] = {}
    for folder in folders:
        if found := split_within(folder.name):
            like.setdefault(found[1], {}).setdefault(found[0], folder.name)
    return [list(group.values()) for group in like.values() if len(group) > 1]


def _check_class(folder: Folder, walk: FolderTree, notes: list[str]) -> None:
    """Refuse splits below a class; tell of one folder that is named so."""
    inner = folder
    while True:
        for names in _named_like_splits(inner.filled):
            raise DataError(
                f"{walk.root} has {listed([walk.shown(inner.path / name) for name in names])}: splits in the folder of "
                f"a class would be trained on alike. Put the classes into the splits (train/{folder.name}), or leave "
                f"one out with --ignore {argument(_other_than('train', names))}."
            )
        if len(inner.filled) != 1 or inner.photos:
            break
        if _is_split(inner.filled[0]):
            raise DataError(
                f"{walk.root} has {walk.shown(inner.filled[0].path)}, a split with class folders, in the folder "
                f"{folder.name}, which would be taken for a class. Give the folder of one data set, such as "
                f"{inner.path}, or leave it out with --ignore {argument(folder.name)}."
            )
        inner = inner.filled[0]
    for below in folder.filled:
        if split_of(below.name):
            notes.append(f"{walk.shown(below.path)} is a part of the class {folder.name!r}, and no split.")


def _other_than(split: str, names: Sequence[str]) -> str:
    """The first of the names that one would rather do without than that of the split."""
    return next((name for name in names if split not in name.casefold()), names[-1])


def _tell_loose(folders: list[Folder], walk: FolderTree, notes: list[str]) -> None:
    """Photos that lie beside class folders belong to no class."""
    loose = [walk.shown(path) for folder in folders for path in folder.photos]
    if loose:
        walk.others += loose
        notes.append(f"{IN_NO_CLASS}: {some(loose)}.")


# Folders that are all called so are parts of one data set.
_PART = re.compile(
    r"(cv|fold|split|subset|partition|shard|chunk|dataset)[ _-]*[0-9]+|(images?|imgs?|photos?|masks?|annotations?)",
    re.IGNORECASE,
)


def _are_parts(top: Folder) -> bool:
    return len(top.filled) > 1 and all(_PART.fullmatch(tidy(folder.name)) for folder in top.filled)


def _tell_names(top: Folder, notes: list[str]) -> None:
    """What is named like something else and is taken for a class."""
    for folder in top.filled:
        if (found := split_within(folder.name)) and (not found[1] or folder.filled):
            notes.append(f"The folder {folder.name!r} is taken for a class, although it is named like a split.")
    if _are_parts(top):
        names = listed([folder.name for folder in top.filled])
        notes.append(f"The folders {names} are taken for classes, although they are named like parts of one data set.")


def _tell_below(groups: Sequence[tuple[Folder, str | None]], walk: FolderTree, notes: list[str]) -> None:
    """Folders of folders that are taken for classes: those in them may be the classes that were meant."""
    for top, split in groups:
        nested = [
            folder
            for folder in top.filled
            if not folder.photos and len([each for each in folder.filled if not split_of(each.name)]) > 1
        ]
        if nested and len(top.filled) > 1:
            names = listed([walk.shown(folder.path) if split else folder.name for folder in nested])
            within = listed(sorted({each.name for folder in nested for each in folder.filled}))
            notes.append(f"Treated as one class each: {names}. The folders in them ({within}) are ignored.")
