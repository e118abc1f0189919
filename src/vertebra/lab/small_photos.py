"""The photos of a folder as small images in memory, in place of the digits: audited, decoded, N × N pixels."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from vertebra.data import Dataset, ImageInfoCache, find_duplicates, open_dataset, read_image_info
from vertebra.errors import UsageError
from vertebra.machine import usable_cores
from vertebra.pixels import network_pixels
from vertebra.progress import Progress, silent
from vertebra.train.prepare import picture_ids
from vertebra.units import counted

from .small_data import VALIDATION_SHARE, ImageSet, digits, whole_image

MAX_CLASSES, MAX_PER_CLASS = 10, 180  # unless told otherwise: about as many images as the digits have


def digits_or_photos(data: str | os.PathLike[str] | None, size: int = 32, **options: Any) -> ImageSet:
    """The photos of the user's folder (`photos`), or the digits at 8 × 8 pixels where none is given."""
    return digits() if data is None else photos(data, size, **options)


def photos(
    data: str | os.PathLike[str],
    size: int = 32,
    *,
    classes: int | None = None,
    per_class: int = 2,
    max_per_class: int = MAX_PER_CLASS,
    without: Collection[str] = (),
    progress: Progress = silent,
) -> ImageSet:
    """The usable photos of a folder, table or named data set, resized and centre-cropped to `size` × `size` pixels.

    Photos that the audit finds broken are left out. The classes are the first in order of name that have enough photos.

    Args:
        data: as `vertebra audit` takes it.
        size: of the images, in pixels.
        classes: number of classes; None: at least two, at most ten.
        per_class: training images of each class that will be needed.
        max_per_class: photos of a class that are read at most, the first in order of their paths' hashes.
        without: names of classes that are left out.
        progress: called with (task, done, total).

    Raises:
        UsageError: too few classes have enough photos.
        DataError: there are no labelled photos.
    """
    dataset = open_dataset(data)
    needed = photos_for(per_class)
    own = dataset.only(lambda photo: photo.split != "test" and photo.label not in without)
    names = [name for name, count in own.counts().items() if count >= needed]
    while True:  # until the audit leaves all chosen classes enough photos
        chosen = names[: classes or MAX_CLASSES]
        if len(chosen) < (classes or 2):
            raise _too_few(dataset, len(names), classes or 2, needed)
        read = _first_of_each(own, chosen, max(max_per_class, needed))
        infos = read_image_info(read, progress=progress)
        usable = [index for index, info in enumerate(infos) if info.broken is None]
        counts = Counter(read.photos[index].label for index in usable)
        kept = [name for name in names if name not in chosen or counts[name] >= needed]
        if kept == names:
            break
        names = kept
    read, infos = replace(read, photos=tuple(read.photos[i] for i in usable)), [infos[i] for i in usable]
    groups = [group.members for group in find_duplicates(read, infos, ImageInfoCache())]
    decode = partial(network_pixels, preprocessing=whole_image(size))
    with ThreadPoolExecutor(usable_cores()) as pool:
        pixels = np.stack(list(pool.map(decode, [photo.path for photo in read.photos])))
    labels = np.array([chosen.index(photo.label) for photo in read.photos], np.int64)
    splits = tuple(photo.split for photo in read.photos)
    return ImageSet(dataset.name, tuple(chosen), pixels, labels, picture_ids(len(labels), groups), splits)


def photos_for(per_class: int) -> int:
    """Photos of a class that give so many training images, and at least one for validation."""
    return max(2, math.ceil(per_class / (1 - VALIDATION_SHARE)))


def check_photos_of(dataset: Dataset, classes: int, needed: int) -> None:
    """Raise a `UsageError` if fewer classes have so many photos, before any is read."""
    found = sum(count >= needed for count in dataset.only(lambda photo: photo.split != "test").counts().values())
    if found < classes:
        raise _too_few(dataset, found, classes, needed)


def _too_few(dataset: Dataset, found: int, classes: int, needed: int) -> UsageError:
    return UsageError(
        f"{dataset.name} has {counted(found, 'class')} with at least {counted(needed, 'usable photo')}, and "
        f"{classes} such {'class is' if classes == 1 else 'classes are'} needed. Give a folder with more photos."
    )


def _first_of_each(dataset: Dataset, names: Sequence[str], most: int) -> Dataset:
    """At most `most` photos of each of these classes, the same in every run, and the first of any smaller number."""
    digests = {photo: hashlib.sha256(dataset.shown(photo.path).encode("utf-8", "replace")).hexdigest()
               for photo in dataset.photos if photo.label in names}  # fmt: skip
    kept: Counter[str] = Counter()
    chosen = set()
    for photo in sorted(digests, key=lambda photo: digests[photo]):
        kept[photo.label] += 1
        if kept[photo.label] <= most:
            chosen.add(photo)
    return dataset.only(chosen.__contains__)
