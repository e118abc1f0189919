"""Requirements of training and evaluation: enough classes, each with photos to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vertebra.errors import suggest
from vertebra.file_kinds import LEFT_OUT, NOT_DOWNLOADED
from vertebra.sources.table_file import is_table
from vertebra.storage import Location
from vertebra.units import counted

from .dataset import SPLITS, DataError, Dataset
from .folder_tree import listed

# Start of the note on photos beside class folders.
IN_NO_CLASS = "In no class folder, and left out"


def require_seen(dataset: Dataset, allow_unseen: bool) -> Dataset:
    """Raise a DataError if a class has no training photos; with `allow_unseen`, return the data set without it."""
    trained = {photo.label for photo in dataset.photos if photo.split in ("train", None)}
    unseen = sorted({photo.label for photo in dataset.photos} - trained)
    if not trained:
        note = "No photo is for training: a classifier can be measured on these, and none trained."
        return dataset if note in dataset.notes else replace(dataset, notes=(*dataset.notes, note))
    if not unseen:
        return dataset
    counts = dataset.counts()
    label_splits = {(photo.label, photo.split) for photo in dataset.photos}
    splits_of = {name: " and ".join(split for split in SPLITS if (name, split) in label_splits) for name in unseen}
    if not allow_unseen:
        rest = len(unseen) - 1
        more = f" The same is true of {rest:,} other{'s' if rest > 1 else ''}." if rest else ""
        raise DataError(
            f"{dataset.name}: the class {unseen[0]!r} has photos in {splits_of[unseen[0]]} and none to train on.{more} "
            f"{suggest(unseen[0], trained) or 'Add some, or rename it.'} --allow-unseen leaves such photos out."
        )
    out = listed([f"{name!r} ({counts[name]:,} in {splits_of[name]})" for name in unseen])
    kept = dataset.only(lambda photo: photo.label in trained)
    names = tuple(name for name in dataset.classes if name not in unseen)
    note = f"Left out, as these classes have no photo to train on: {out}."
    return require_classes(replace(kept, classes=names, notes=(*dataset.notes, note)))


def select_usable(dataset: Dataset, usable: Sequence[int], allow_unseen: bool) -> tuple[Dataset, list[int]]:
    """Return the data set of the usable photos and their indices, after `require_classes` and `require_seen`."""
    names = {dataset.photos[index].label for index in usable}
    kept = replace(
        dataset,
        photos=tuple(dataset.photos[index] for index in usable),
        classes=tuple(name for name in dataset.classes if name in names),
    )
    if gone := {photo.label: dataset.shown(photo.path) for photo in dataset.photos if photo.label not in names}:
        names_of = listed([repr(name) for name in gone])
        note = f"Not learned, as no photo of it can be used: {names_of}, such as {next(iter(gone.values()))}."
        kept = replace(kept, notes=(*kept.notes, note))
    kept = require_seen(require_classes(kept), allow_unseen)
    return kept, [index for index in usable if dataset.photos[index].label in kept.classes]


def require_classes(dataset: Dataset, min_classes: int = 2) -> Dataset:
    """Raise a DataError if the data set has no photos, or photos of fewer classes than `min_classes`."""
    if not dataset.photos:
        reason = f" {dataset.unreadable[0]}." if dataset.unreadable else ""
        empty = f" It has {len(dataset.classes)} class folders, all empty." if dataset.classes else ""
        # A note already names the photos in no class folder, which are among the other files.
        loose = _notes(dataset, IN_NO_CLASS)
        count = counted(len(dataset.others), "other file")
        others = f" It has {count}, such as {dataset.others[0]}." if dataset.others and not loose else ""
        raise DataError(
            f"{dataset.name} has no photos in class folders.{reason}{empty}{loose}{others}"
            f"{_notes(dataset, NOT_DOWNLOADED)}{_notes(dataset, LEFT_OUT)} "
            f"Put the photos of each class in a folder named after it: photos/cat/1.jpg, photos/dog/2.jpg."
            f"{instead_of_folders(dataset.others, str(dataset.root))}"
        )
    filled = [name for name, count in dataset.counts().items() if count]
    if len(filled) < min_classes:
        raise DataError(
            f"{dataset.name} has photos of one class only, {filled[0]!r}; a classifier needs at least "
            f"two.{_notes(dataset, IN_NO_CLASS)} "
            + (
                "Is another column the label? Give --label-column NAME."
                if is_table(dataset.name)
                else f"Put the photos of each class in a folder of its own."
                f"{instead_of_folders(dataset.others, str(dataset.root))}"
            )
        )
    return dataset


def _notes(dataset: Dataset, begin: str) -> str:
    """Join the notes that begin so, each after a space."""
    return "".join(f" {note}" for note in dataset.notes if note.startswith(begin))


def instead_of_folders(others: Sequence[str], root: str) -> str:
    """Suggest the tables among the other files, which may have the labels; "" if there is none."""
    tables = [name for name in others if name.lower().endswith((".csv", ".tsv", ".parquet"))]
    if len(tables) > 1:
        return f" If one of {', '.join(tables[:5])} has their labels, give that instead."
    return f" If {tables[0]} has their labels, give {Location(root) / tables[0]} instead." if tables else ""
