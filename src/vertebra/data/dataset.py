"""The records of a data set: photos with their labels, and where they are on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vertebra.errors import VertebraError

SPLITS = ("train", "val", "test")


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
    notes: tuple[str, ...] = ()  # sentences: what was joined, left out or skipped while reading
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
