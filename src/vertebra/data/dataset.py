"""What a data set is: photos with their labels, and where they stand on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vertebra.errors import UsageError, VertebraError, nearest, nearest_path
from vertebra.file_kinds import LEFT_OUT, NOT_DOWNLOADED, kind_of_file

SPLITS = ("train", "val", "test")
# How the note of photos begins that lie beside class folders.
IN_NO_CLASS = "In no class folder, and left out"


class DataError(VertebraError):
    """The photos that were given cannot be used."""


@dataclass(frozen=True)
class Photo:
    """One labelled file. `split` is None where the data set does not say."""

    path: Path
    label: str
    split: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled photos in the order of their paths."""

    name: str
    photos: tuple[Photo, ...]
    classes: tuple[str, ...]  # sorted; also those without a photo
    root: Path  # paths are shown relative to it
    others: tuple[str, ...] = ()  # files that are no photos by their name, relative to the root
    unreadable: tuple[str, ...] = ()  # folders that could not be listed, and why
    notes: tuple[str, ...] = ()  # sentences: what was joined, left out or passed by on the way here
    looked_in: str = ""  # of a table: where relative paths were looked up, for people

    @property
    def has_splits(self) -> bool:
        """Whether the data set says itself which photos to test on."""
        return any(photo.split is not None for photo in self.photos)

    @property
    def place(self) -> tuple[str, ...]:
        """A sentence on where relative paths were looked up, of a table that has such paths."""
        return (f"{self.looked_in[0].upper()}{self.looked_in[1:]}.",) if self.looked_in else ()

    def shown(self, path: Path) -> str:
        """How a path is written for people: relative to the root where it lies below it."""
        try:
            return str(path.relative_to(self.root))
        except ValueError:
            return str(path)

    def counts(self) -> dict[str, int]:
        """Photos of each class, also where there are none."""
        found = Counter(photo.label for photo in self.photos)
        return {name: found[name] for name in self.classes}

    def only(self, keep: Callable[[Photo], bool]) -> Dataset:
        """The same data set with fewer photos."""
        return replace(self, photos=tuple(photo for photo in self.photos if keep(photo)))


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
    """The labelled photos that `data` stands for.

    Args:
        data: a folder of class folders; a folder of `train`, `val` (`valid`, `validation`, …) and `test` folders with
            class folders in them; a .csv, .tsv, .txt or .parquet table with the columns path, label and, if wanted,
            split; or a name: `digits` (scikit-learn's handwritten digits, offline) or one that torchvision downloads.
        ignore: what to pass by: folders by name or path; of a table labels, splits and columns.
        allow_unseen: leave out the photos of classes that have none to train on, instead of refusing them.
        training: False where the photos only measure a classifier: one class is enough, and none needs photos to
            train on.
        path_column: of a table, the name of the column of paths; None: the one that is named like one.
        label_column: of labels.
        split_column: of splits; None: the one that is named like one or has their values, where there is one.
        image_root: the folder that the paths of a table are relative to; None: the one that it lies in.

    Raises:
        UsageError: there is no such folder, table or name, or nothing of a name to ignore.
        DataError: it is there and holds no labelled photos, or what it means can be taken in two ways.
        MissingExtraError: a name or a format needs a package that is not installed.
    """
    found = check_source(
        data,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        image_root=None if image_root is None else os.fspath(image_root),
    )(ignore, training)
    return check_seen(check_labels(found), allow_unseen) if training else check_labels(found, 1)


def check_source(data: str | os.PathLike[str], **columns: str | None) -> Callable[[Sequence[str], bool], Dataset]:
    """What reads the photos that `data` stands for, given what to pass by and whether they are to train on.

    `columns` are what `open_dataset` takes of a table.

    Raises:
        UsageError: there is no such folder, table or name; or it is no table, and columns are given.
    """
    from . import class_folders, named_datasets, table, table_columns

    text = os.fspath(data)
    path = Path(text)
    if not text:
        raise UsageError("DATA is empty, as an unset variable would be. Give a folder, a table or a name.")
    is_there = _is_there(path)
    said = table_columns.Asked(**columns)
    if said.flags and not is_table(path):
        raise UsageError(
            f"{said.flags[0]} is for tables ({', '.join(table.SUFFIXES)}), and {text} is none. Leave it out."
        )
    if is_there and path.is_dir():
        return lambda ignore, training: class_folders.read_folder(path, ignore=ignore, training=training)
    if path.suffix.lower() in table.SUFFIXES and (is_there or path.name != text):
        return lambda ignore, training: table.read_table(path, ignore=ignore, said=said)
    if is_there:
        kind = kind_of_file(path)
        what = f"no table, but {kind}. {kind.kind.advice}" if kind else "no table"
        raise UsageError(
            f"{text} is a file that is {what}. Give a folder of class folders, or a table ending in "
            f"{', '.join(table.SUFFIXES)}."
        )
    if text in named_datasets.NAMES:
        return lambda ignore, training: named_datasets.read_named(text, ignore=ignore)
    hint = (
        nearest(text, named_datasets.NAMES)
        or nearest_path(text)
        or f"Names that need no folder: {', '.join(sorted(named_datasets.NAMES))}."
    )
    raise UsageError(f"there is no folder, table or data set {text!r}. {hint}")


def is_table(data: str | os.PathLike[str]) -> bool:
    """Whether data is given as a table: by its name's ending."""
    from .table import SUFFIXES

    return Path(data).suffix.lower() in SUFFIXES and not Path(data).is_dir()


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in it
        return False
    except OSError as error:  # a closed folder above it, a name that is too long, a link to itself
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}). Give a folder, a table or a name."
        ) from error
    return True


def check_seen(dataset: Dataset, allow_unseen: bool) -> Dataset:
    """The data set, if each of its classes can be learned; with `allow_unseen` without the photos of those that cannot.

    Raises:
        DataError: a class has photos to choose or to test with, and none to train on.
    """
    trained = {photo.label for photo in dataset.photos if photo.split in ("train", None)}
    unseen = sorted({photo.label for photo in dataset.photos} - trained)
    if not trained:
        note = "No photo is for training: a classifier can be measured on these, and none trained."
        return dataset if note in dataset.notes else replace(dataset, notes=(*dataset.notes, note))
    if not unseen:
        return dataset
    counts = dataset.counts()
    places = {name: " and ".join(_splits_of(dataset, name)) for name in unseen}
    if not allow_unseen:
        rest = len(unseen) - 1
        more = f" So it is with {rest:,} other{'s' if rest > 1 else ''}." if rest else ""
        raise DataError(
            f"{dataset.name}: the class {unseen[0]!r} has photos in {places[unseen[0]]} and none to train on.{more} "
            f"{nearest(unseen[0], trained) or 'Add some, or rename it.'} --allow-unseen leaves such photos out."
        )
    out = ", ".join(f"{name!r} ({counts[name]:,} in {places[name]})" for name in unseen[:5])
    more = f" and {len(unseen) - 5} others" if len(unseen) > 5 else ""
    kept = dataset.only(lambda photo: photo.label in trained)
    names = tuple(name for name in dataset.classes if name not in unseen)
    note = f"Left out, as these classes have no photo to train on: {out}{more}."
    return check_labels(replace(kept, classes=names, notes=(*dataset.notes, note)))


def usable_part(dataset: Dataset, usable: Sequence[int], allow_unseen: bool) -> tuple[Dataset, list[int]]:
    """What can be trained on of a data set of which only some photos can be used: it, and the places of its photos.

    Args:
        dataset: all photos.
        usable: the places of those that can be used.
        allow_unseen: as for `open_dataset`.

    Raises:
        DataError: nothing is left to tell apart, or a class has photos to test with and none to train on.
    """
    names = {dataset.photos[place].label for place in usable}
    kept = replace(
        dataset,
        photos=tuple(dataset.photos[place] for place in usable),
        classes=tuple(name for name in dataset.classes if name in names),
    )
    if gone := {photo.label: dataset.shown(photo.path) for photo in dataset.photos if photo.label not in names}:
        listed = ", ".join(map(repr, list(gone)[:5])) + (f" and {len(gone) - 5} others" if len(gone) > 5 else "")
        note = f"Not learned, as no photo of it can be used: {listed}, such as {next(iter(gone.values()))}."
        kept = replace(kept, notes=(*kept.notes, note))
    kept = check_seen(check_labels(kept), allow_unseen)
    return kept, [place for place in usable if dataset.photos[place].label in kept.classes]


def _splits_of(dataset: Dataset, label: str) -> list[str]:
    found = {photo.split for photo in dataset.photos if photo.label == label}
    return [split for split in SPLITS if split in found]


def check_labels(dataset: Dataset, classes: int = 2) -> Dataset:
    """The data set, if there is anything to tell apart in it.

    Raises:
        DataError: no photos, or all of one class.
    """
    if not dataset.photos:
        reason = f" {dataset.unreadable[0]}." if dataset.unreadable else ""
        empty = f" It has {len(dataset.classes)} class folders, all empty." if dataset.classes else ""
        # Photos in no class folder are among the other files, and a note says it: they are what the person looks for.
        loose = _notes(dataset, IN_NO_CLASS)
        count = len(dataset.others)
        files = "is 1 other file" if count == 1 else f"are {count:,} other files"
        others = f" There {files}, such as {dataset.others[0]}." if count and not loose else ""
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
