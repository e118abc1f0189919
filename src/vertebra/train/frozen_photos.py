"""Photos as the stored maps of frozen stages, or as the pixels of a view whose map is not stored yet."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vertebra.card import Preprocessing
from vertebra.data import read_file
from vertebra.errors import ImageError, VertebraError
from vertebra.pixels import network_pixels
from vertebra.sources.photo_place import PhotoPlace

from .batch_loader import Sample, TrainPhotos, derive_seed
from .feature_store import FeatureStore
from .train_settings import Settings
from .validation import Split

# The view of validation photos, and of training photos without random crops.
PREDICTION = "prediction"
_REFRESH_SECONDS = 5.0  # between two looks for rows of other processes


@dataclass
class MapReader:
    """Reads maps in any process: each opens the store for itself."""

    folder: Path
    context: str
    _store: FeatureStore | None = field(default=None, init=False, repr=False)
    _process: int = field(default=0, init=False)
    _refreshed: float = field(default=0.0, init=False)

    def __getstate__(self) -> dict[str, object]:
        """Without the store, which a worker opens for itself."""
        return self.__dict__ | {"_store": None}

    @property
    def store(self) -> FeatureStore:
        """The store of this process."""
        if self._store is None or self._process != os.getpid():
            self._store = FeatureStore(self.folder, self.context, spills=False)
            self._process, self._refreshed = os.getpid(), time.monotonic()
        return self._store

    def get(self, key: str) -> Tensor | None:
        """Return the values (D,) of a map, or None."""
        row = self.store.get_row(key)
        if row is None and time.monotonic() - self._refreshed > _REFRESH_SECONDS:
            self.store.refresh()
            self._refreshed = time.monotonic()
            row = self.store.get_row(key)
        if row is None:
            return None
        exponent, values = row
        # As `decode` does, which takes ten times as long: NumPy converts float16 one by one.
        return torch.from_numpy(values).float().mul_(2.0**exponent)


class MapOrPixels(NamedTuple):
    """A map that is stored, or the pixels to compute it from."""

    values: Tensor  # float32 (h·w·C,), or uint8 (H, W, 3)
    key: str  # of the map; "": it is not stored, as the photo is another than at the start of the run


class StoredBatch(NamedTuple):
    """A batch of which some maps are stored."""

    is_stored: Tensor  # bool (N,)
    maps: Tensor  # float32 (M, h·w·C), of those
    pixels: Tensor  # uint8 (P, H, W, 3), of the others
    keys: list[str]  # of the others
    labels: Tensor  # int64 (N,)


class ReadPhoto(NamedTuple):
    """The bytes of a photo, and the key of its map."""

    content: bytes
    key: str


def view_name(settings: Settings, view: int) -> str:
    """Return all that the pixels of a view depend on besides the photo and the preprocessing."""
    if settings.augment == "none":
        return PREDICTION
    return f"{settings.augment} {settings.crop_scale} seed {settings.seed} view {view}"


def map_key(digest: str, view: str) -> str:
    """Return the key (64 hex digits) of the map of one view of the photo with this SHA-256."""
    return hashlib.sha256(f"{digest} {view}".encode()).hexdigest()


def read_photo(place: PhotoPlace, digest: str, key: str) -> ReadPhoto:
    """Read a photo; the key is empty if its content is not that of the digest.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        content, failed = read_file(place)
    except VertebraError as error:  # its storage
        raise ImageError(str(error)) from error
    if failed is not None:
        raise ImageError(f"{place} {failed.reason}")
    return ReadPhoto(content, key if hashlib.sha256(content).hexdigest() == digest else "")


def prediction_map(split: Split, number: int, preprocessing: Preprocessing, reader: MapReader) -> MapOrPixels:
    """Return the map of a photo that is preprocessed as for prediction, or its pixels.

    Raises:
        ImageError: it cannot be read.
    """
    digest = split.digests[number]
    key = map_key(digest, PREDICTION)
    if (values := reader.get(key)) is not None:
        return MapOrPixels(values, key)
    photo = read_photo(split.paths[number], digest, key)
    pixels = network_pixels(photo.content, preprocessing, name=str(split.paths[number]))
    return MapOrPixels(torch.from_numpy(pixels.copy()), photo.key)


@dataclass(eq=False)
class ViewPhotos(TrainPhotos):
    """Training photos as stored maps, or as the pixels of a view; for an unreadable one, the reason."""

    digests: Sequence[str]
    reader: MapReader

    def __getitem__(self, sample: Sample) -> tuple[MapOrPixels, int] | str:
        place, digest = self.paths[sample.photo], self.digests[sample.photo]
        view = sample.epoch % max(1, self.settings.frozen_views or 0)
        key = map_key(digest, view_name(self.settings, view))
        label = int(self.labels[sample.photo])
        if (values := self.reader.get(key)) is not None:
            return MapOrPixels(values, key), label
        # Of the photo's content and not of its position, so that runs with other data share the maps.
        seed = derive_seed(self.settings.seed, 3, view, int(digest[:16], 16))
        try:
            photo = read_photo(place, digest, key)
            pixels = self.pixels(photo.content, sample.progress, seed, name=str(place))
        except ImageError as error:
            return str(error)
        return MapOrPixels(pixels, photo.key), label

    def collate(self, entries: list[tuple[MapOrPixels, int] | str]) -> StoredBatch | str:
        """Stack maps and pixels; if a photo is unreadable, return the reason."""
        found = []
        for entry in entries:
            if isinstance(entry, str):
                return entry
            found.append(entry)
        return stack([item for item, _ in found], [label for _, label in found])


def stack(items: Sequence[MapOrPixels], labels: Sequence[int] = ()) -> StoredBatch:
    """Stack the maps, and the pixels, of a batch."""
    is_stored = [item.values.is_floating_point() for item in items]
    maps, pixels = (
        [item.values for item, stored in zip(items, is_stored, strict=True) if stored is wanted]
        for wanted in (True, False)
    )
    return StoredBatch(
        is_stored=torch.tensor(is_stored),
        maps=torch.stack(maps) if maps else torch.empty(0, 0),
        pixels=torch.stack(pixels) if pixels else torch.empty(0, 0, 0, 3, dtype=torch.uint8),
        keys=[item.key for item, stored in zip(items, is_stored, strict=True) if not stored],
        labels=torch.tensor(labels),
    )
