"""Reads class folders: `cat/1.jpg`, or `train/cat/1.jpg` beside `test/cat/2.jpg`.

Decides whether a folder is a class, a split, a wrapper around them, or ignored. Ambiguous folders are refused by name;
what is left out or merged is in the data set's notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vertebra.storage import Location

from .dataset import DataError, Dataset, Photo
from .dataset_checks import IN_NO_CLASS, instead_of_folders
from .folder_tree import Folder, FolderTree, examples, listed
from .label_names import KNOWN_SPLITS, Ignored, argument, is_text, merge_spellings, split_of, split_within, tidy


def read_folder(root: Path, *, ignore: Sequence[str] = (), training: bool = True) -> Dataset:
    """Read the photos of a folder; the first folder below it (or below the split) is the class.

    `ignore` has folder names (at any depth) or paths. For evaluation (`training` is False) one class is enough, and a
    single folder with all photos is that class.
    """
    ignored = Ignored(ignore, root)
    return read_tree(FolderTree(root, ignored), ignored, root, training=training)


def read_tree(tree: FolderTree, ignored: Ignored, root: Path | Location, *, training: bool) -> Dataset:
    """Read the photos of a tree of folders as `read_folder` does; `root` is what paths are shown relative to."""
    top = tree.read()
    ignored.check(tree.folder_names, str(root))
    notes = tree.notes()
    top = _unwrap(top, tree, notes, training)
    splits = _split_folders(top, tree, notes)
    groups: list[tuple[Folder, str | None]] = [*splits] or [(top, None)]
    where: dict[str, str] = {}
    empty: set[str] = set()
    found: list[tuple[Folder, str | None]] = []
    for folder, split in groups:
        empty |= {tidy(each.name) for each in folder.folders if not each.is_filled}
        for each in folder.filled:
            found.append((each, split))
            where.setdefault(each.name, tree.shown(each.path))
            _check_class(each, tree, notes)
    _note_loose_photos([top, *(folder for folder, _ in groups if folder is not top)], tree, notes)
    if not splits:
        _note_ambiguous_names(top, notes)
    _note_nested_folders(groups, tree, notes)
    classes, joined = merge_spellings(where, str(root))
    photos = [Photo(tree.place(path), classes[folder.name], split) for folder, split in found for path in folder.walk()]
    names = set(classes.values())
    empty = {name for name in empty - names if name and is_text(name)}
    # An evaluation itself names all classes of the model without a photo.
    if empty and training:
        notes.append(f"Without any photo, and left out: {examples([repr(name) for name in sorted(empty)])}.")
    return Dataset(
        str(root),
        tuple(photos),
        tuple(sorted(names | empty)),
        root,
        tuple(tree.others),
        tuple(tree.unreadable),
        tuple(joined + notes),
    )


def _unwrap(top: Folder, tree: FolderTree, notes: list[str], training: bool) -> Folder:
    """Return the folder of the class folders or splits, inside any wrapper folders, as of an unpacked archive."""
    inner = top
    while len(inner.filled) == 1 and not _is_split(inner.filled[0]) and not inner.filled[0].photos:
        inner = inner.filled[0]
    split = any(_is_split(folder) for folder in inner.filled)
    if inner is top or not (split or (training and len(inner.filled) > 1)):
        return top
    _note_loose_photos([top], tree, notes)
    notes.append(f"All photos in folders lie in {tree.shown(inner.path)}; its folders are read.")
    return inner


def _is_split(folder: Folder) -> bool:
    """Whether a folder has the name of a split and subfolders with photos."""
    return split_of(folder.name) is not None and bool(folder.filled)


def _split_folders(top: Folder, tree: FolderTree, notes: list[str]) -> list[tuple[Folder, str]]:
    """Return the split folders with their splits; none if the folders are classes."""
    where = tree.text(top.path)
    splits = [(folder, split) for folder in top.filled if _is_split(folder) and (split := split_of(folder.name))]
    if not splits:
        _reject_split_names(top, where, tree)
        return []
    names = [folder.name for folder, _ in splits]
    # A folder with a split's name and no class folders may be a class, or photos without labels.
    beside = [folder.name for folder in top.filled if not _is_split(folder)]
    if beside:
        ways = " ".join(f"--ignore {argument(name)}" for name in beside[:5])
        flat = [name for name in beside if split_of(name)]
        reason = "whose photos are in no class folders" if flat == beside else "which are no splits with class folders"
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
        notes.append(f"Beside the splits {listed(names)}, without any photo and ignored: {examples(empty)}.")
    return splits


def _reject_split_names(top: Folder, where: str, tree: FolderTree) -> None:
    """Refuse names of splits or parts as classes: `train2017` and `val2017`, `train/1.jpg`, `fold1` and `fold2`."""
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
            f"{argument(_other_than('train', names))}.{instead_of_folders(tree.others, tree.text(tree.root))}"
        )
    for folder in top.filled:
        if split_within(folder.name) and len(_innermost(folder).filled) > 1:
            raise DataError(
                f"{where} has {folder.name}, which is named like a split, holds folders of photos, and would be taken "
                f"for a class. {ways} {argument(folder.name)}. A class of such a name has its photos directly in it."
            )


def _innermost(folder: Folder) -> Folder:
    """Return the innermost folder that has all photos of this one."""
    while len(folder.filled) == 1 and not folder.photos:
        folder = folder.filled[0]
    return folder


def _named_like_splits(folders: Sequence[Folder]) -> list[list[str]]:
    """Group folder names that differ only in the split, such as `x_train` and `x_test`."""
    by_rest: dict[str, dict[str, str]] = {}
    for folder in folders:
        if found := split_within(folder.name):
            by_rest.setdefault(found[1], {}).setdefault(found[0], folder.name)
    return [list(group.values()) for group in by_rest.values() if len(group) > 1]


def _check_class(folder: Folder, tree: FolderTree, notes: list[str]) -> None:
    """Refuse splits below a class folder; note a single subfolder with a split's name."""
    inner = folder
    while True:
        for names in _named_like_splits(inner.filled):
            raise DataError(
                f"{tree.text(tree.root)} has {listed([tree.shown(inner.path / name) for name in names])}: splits in "
                "the folder of a class would all be trained on. Put the classes into the splits "
                f"(train/{folder.name}), or leave one out with --ignore {argument(_other_than('train', names))}."
            )
        if len(inner.filled) != 1 or inner.photos:
            break
        if _is_split(inner.filled[0]):
            raise DataError(
                f"{tree.text(tree.root)} has {tree.shown(inner.filled[0].path)}, a split with class folders, in the "
                f"folder {folder.name}, which would be taken for a class. Give the folder of one data set, such as "
                f"{tree.text(inner.path)}, or leave it out with --ignore {argument(folder.name)}."
            )
        inner = inner.filled[0]
    for below in folder.filled:
        if split_of(below.name):
            notes.append(f"{tree.shown(below.path)} is a part of the class {folder.name!r}, and no split.")


def _other_than(split: str, names: Sequence[str]) -> str:
    """Return the first name without this split in it: the better one to ignore."""
    return next((name for name in names if split not in name.casefold()), names[-1])


def _note_loose_photos(folders: list[Folder], tree: FolderTree, notes: list[str]) -> None:
    """Note photos beside class folders, which have no class."""
    loose = [tree.shown(path) for folder in folders for path in folder.photos]
    if loose:
        tree.others += loose
        notes.append(f"{IN_NO_CLASS}: {examples(loose)}.")


# If all folders have such names, they are parts of one data set.
_PART = re.compile(
    r"(cv|fold|split|subset|partition|shard|chunk|dataset)[ _-]*[0-9]+|(images?|imgs?|photos?|masks?|annotations?)",
    re.IGNORECASE,
)


def _are_parts(top: Folder) -> bool:
    return len(top.filled) > 1 and all(_PART.fullmatch(tidy(folder.name)) for folder in top.filled)


def _note_ambiguous_names(top: Folder, notes: list[str]) -> None:
    """Note folders read as classes whose names suggest splits or parts."""
    for folder in top.filled:
        if (found := split_within(folder.name)) and (not found[1] or folder.filled):
            notes.append(f"The folder {folder.name!r} is taken for a class, although it is named like a split.")
    if _are_parts(top):
        names = listed([folder.name for folder in top.filled])
        notes.append(f"The folders {names} are taken for classes, although they are named like parts of one data set.")


def _note_nested_folders(groups: Sequence[tuple[Folder, str | None]], tree: FolderTree, notes: list[str]) -> None:
    """Note classes whose photos are all in subfolders: those may be the intended classes."""
    for top, split in groups:
        nested = [
            folder
            for folder in top.filled
            if not folder.photos and len([each for each in folder.filled if not split_of(each.name)]) > 1
        ]
        if nested and len(top.filled) > 1:
            names = listed([tree.shown(folder.path) if split else folder.name for folder in nested])
            within = listed(sorted({each.name for folder in nested for each in folder.filled}))
            notes.append(f"Treated as one class each: {names}. The folders in them ({within}) are ignored.")
