"""Folders of photos: `cat/1.jpg`, or `train/cat/1.jpg` beside `test/cat/2.jpg`."""

from __future__ import annotations

import os
from pathlib import Path

from vertebra.pixels import SUFFIXES

from ._dataset import DataError, Dataset, Photo

# Names of folders that mean a split, as they are found in the wild.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def read_folder(root: Path) -> Dataset:
    """The photos below a folder; the first folder below it (or below the split) is the class.

    Raises:
        DataError: the folder itself cannot be listed, or photos lie beside the split folders.
    """
    walk = _Walk(root)
    try:
        top = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{root} cannot be listed ({error.strerror or error}).") from error
    splits = {name: SPLIT_NAMES[name.lower()] for name in top if name.lower() in SPLIT_NAMES}
    photos: list[Photo] = []
    classes: set[str] = set()
    # `train` alone may be a class beside `plane` and `car`: all folders must be splits, one of them `train`.
    split_layout = "train" in splits.values() and len(splits) == len(top)
    for folder, split in [(root / name, splits[name]) for name in top] if split_layout else [(root, None)]:
        for name in walk.folders(folder):
            classes.add(name)
            photos += [Photo(path, name, split) for path in walk.photos(folder / name)]
    return Dataset(str(root), tuple(photos), tuple(sorted(classes)), root, tuple(walk.others), tuple(walk.unreadable))


class _Walk:
    """Goes through folders in order, follows links but not in a circle, and notes what it passes by."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.others: list[str] = []
        self.unreadable: list[str] = []

    def folders(self, folder: Path) -> list[str]:
        """The class folders in a folder; what else lies there is noted."""
        found = []
        for entry in self._entries(folder):
            if entry.is_dir():
                found.append(entry.name)
            else:
                self._note(entry)
        return found

    def photos(self, folder: Path, above: tuple[tuple[int, int], ...] = ()) -> list[Path]:
        """All files in it and below it whose names are photos'."""
        try:
            status = folder.stat()
        except OSError as error:
            self._cannot(folder, error)
            return []
        here = (status.st_dev, status.st_ino)
        if here in above or (not above and self._is_above(folder)):
            self.unreadable.append(f"{folder.relative_to(self.root)} is a link to a folder that it lies in")
            return []
        found: list[Path] = []
        for entry in self._entries(folder):
            if entry.is_dir():
                found += self.photos(folder / entry.name, (*above, here))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - of an entry
                found.append(Path(entry.path))
            else:
                self._note(entry)
        return found

    def _is_above(self, folder: Path) -> bool:
        """Whether a class folder is really a link to the root, or to what the root lies in."""
        target = folder.resolve()
        return folder.is_symlink() and (target == self.root.resolve() or target in self.root.resolve().parents)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What lies in a folder, hidden files left out (macOS puts "._photo.jpg" beside each photo)."""
        try:
            with os.scandir(folder) as found:
                return sorted((e for e in found if not e.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            self._cannot(folder, error)
            return []

    def _cannot(self, folder: Path, error: OSError) -> None:
        self.unreadable.append(f"{folder.relative_to(self.root)} cannot be listed ({error.strerror or error})")

    def _note(self, entry: os.DirEntry[str]) -> None:
        self.others.append(str(Path(entry.path).relative_to(self.root)))
