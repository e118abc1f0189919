"""The records `Dataset` and `Photo`: labelled photos, with their places and splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vertebra.errors import DataError as DataError
from vertebra.sources.photo_place import PhotoPlace
from vertebra.storage import Location

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Photo:
    """One labelled photo; `split` is None if the data set does not say."""

    path: PhotoPlace  # a local file, or a photo in a shard, a Parquet file or on a remote file system
    label: str
    split: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled photos in the order of their paths."""

    name: str
    photos: tuple[Photo, ...]
    classes: tuple[str, ...]  # sorted; including those without a photo
    root: Path | Location  # paths are shown relative to it
    others: tuple[str, ...] = ()  # files without a photo's name, relative to the root
    unreadable: tuple[str, ...] = ()  # folders that could not be listed, each with the reason
    notes: tuple[str, ...] = ()  # sentences: what was merged, left out or skipped while reading
    looked_in: str = ""  # for a table: where its relative paths were looked up, for people

    @property
    def has_splits(self) -> bool:
        """Whether the data set has splits of its own."""
        return any(photo.split is not None for photo in self.photos)

    @property
    def lookup_notes(self) -> tuple[str, ...]:
        """`looked_in` as a sentence; empty if there is none."""
        return (f"{self.looked_in[0].upper()}{self.looked_in[1:]}.",) if self.looked_in else ()

    def shown(self, path: PhotoPlace) -> str:
        """Format a path for people: relative to the root if it is below it."""
        try:
            return str(path.relative_to(str(self.root)))
        except ValueError:
            return str(path)

    def place_of(self, shown: str) -> str:
        """Return the absolute path or URI that `shown` formats so."""
        if Location(shown).is_remote or Path(shown).is_absolute():
            return shown
        root = self.root if isinstance(self.root, Location) else Location(str(self.root.absolute()))
        return str(root / shown)

    def counts(self) -> dict[str, int]:
        """Count the photos of each class, including empty ones."""
        counts = Counter(photo.label for photo in self.photos)
        return {name: counts[name] for name in self.classes}

    def only(self, keep: Callable[[Photo], bool]) -> Dataset:
        """Return a data set of the photos for which `keep` is true."""
        return replace(self, photos=tuple(photo for photo in self.photos if keep(photo)))
