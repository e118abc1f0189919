"""Whether a data set can be trained on or measured on: at least two classes, each with photos to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vertebra.errors import suggest
from vertebra.file_kinds import LEFT_OUT, NOT_DOWNLOADED
from vertebra.units import counted

from .dataset import SPLITS, DataError, Dataset
from .folder_tree import listed
from .table_file import is_table

# How the note of photos begins that lie beside class folders.
IN_NO_CLASS = "In no class folder, and left out"


def check_seen(dataset: Dataset, allow_unseen: bool) -> Dataset:
    """The data set without the photos of classes that have none to train on, or a DataError unless `allow_unseen`."""
    trained = {photo.label for photo in dataset.photos if photo.split in ("train", None)}
    unseen = sorted({photo.label for photo in dataset.photos} - trained)
    if not trained:
        note = "No photo is for training: a classifier can be measured on these, and none trained."
        return dataset if note in dataset.notes else replace(dataset, notes=(*dataset.notes, note))
    if not unseen:
        return dataset
    counts = dataset.counts()
    there = {(photo.label, photo.split) for photo in dataset.photos}
    places = {name: " and ".join(split for split in SPLITS if (name, split) in there) for name in unseen}
    if not allow_unseen:
        rest = len(unseen) - 1
        more = f" So it is with {rest:,} other{'s' if rest > 1 else ''}." if rest else ""
        raise DataError(
            f"{dataset.name}: the class {unseen[0]!r} has photos in {places[unseen[0]]} and none to train on.{more} "
            f"{suggest(unseen[0], trained) or 'Add some, or rename it.'} --allow-unseen leaves such photos out."
        )
    out = listed([f"{name!r} ({counts[name]:,} in {places[name]})" for name in unseen])
    kept = dataset.only(lambda photo: photo.label in trained)
    names = tuple(name for name in dataset.classes if name not in unseen)
    note = f"Left out, as these classes have no photo to train on: {out}."
    return check_labels(replace(kept, classes=names, notes=(*dataset.notes, note)))


def usable_part(dataset: Dataset, usable: Sequence[int], allow_unseen: bool) -> tuple[Dataset, list[int]]:
    """What can be trained on of a data set of which only some photos can be used: it, and the places of its photos.

    Checked by `check_labels` and `check_seen`.
    """
    names = {dataset.photos[place].label for place in usable}
    kept = replace(
        dataset,
        photos=tuple(dataset.photos[place] for place in usable),
        classes=tuple(name for name in dataset.classes if name in names),
    )
    if gone := {photo.label: dataset.shown(photo.path) for photo in dataset.photos if photo.label not in names}:
        names_of = listed([repr(name) for name in gone])
        note = f"Not learned, as no photo of it can be used: {names_of}, such as {next(iter(gone.values()))}."
        kept = replace(kept, notes=(*kept.notes, note))
    kept = check_seen(check_labels(kept), allow_unseen)
    return kept, [place for place in usable if dataset.photos[place].label in kept.classes]


def check_labels(dataset: Dataset, classes: int = 2) -> Dataset:
    """The data set, if it has photos of so many classes; else a DataError says what to do."""
    if not dataset.photos:
        reason = f" {dataset.unreadable[0]}." if dataset.unreadable else ""
        empty = f" It has {len(dataset.classes)} class folders, all empty." if dataset.classes else ""
        # Photos in no class folder are among the other files, and a note says it: they are what the person looks for.
        loose = _notes(dataset, IN_NO_CLASS)
        count = counted(len(dataset.others), "other file")
        others = f" It has {count}, such as {dataset.others[0]}." if dataset.others and not loose else ""
        raise DataError(
            f"{dataset.name} has no photos in class folders.{reason}{empty}{loose}{others}"
            f"{_notes(dataset, NOT_DOWNLOADED)}{_notes(dataset, LEFT_OUT)} "
            f"Put the photos of each class in a folder named after it: photos/cat/1.jpg, photos/dog/2.jpg."
            f"{instead_of_folders(dataset.others, dataset.root)}"
        )
    filled = [name for name, count in dataset.counts().items() if count]
    if len(filled) < classes:
        raise DataError(
            f"{dataset.name} has photos of one class only, {filled[0]!r}; a classifier needs at least "
            f"two.{_notes(dataset, IN_NO_CLASS)} "
            + (
                "Is another column the label? Give --label-column NAME."
                if is_table(dataset.name)
                else f"Put the photos of each class in a folder of its own."
                f"{instead_of_folders(dataset.others, dataset.root)}"
            )
        )
    return dataset


def _notes(dataset: Dataset, begin: str) -> str:
    """The notes of one kind, each after a space."""
    return "".join(f" {note}" for note in dataset.notes if note.startswith(begin))


def instead_of_folders(others: Sequence[str], root: Path) -> str:
    """Where the labels may be that folders do not give: in a table among the other files. Empty where there is none."""
    tables = [name for name in others if name.lower().endswith((".csv", ".tsv", ".parquet"))]
    if len(tables) > 1:
        return f" If one of {', '.join(tables[:5])} has their labels, give that instead."
    return f" If {tables[0]} has their labels, give {root / tables[0]} instead." if tables else ""
