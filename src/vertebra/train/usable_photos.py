"""The photos of a data set that a run can use, with the numbers of their classes and their folds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vertebra.data import (
    Audit,
    Dataset,
    ImageInfo,
    ImageInfoCache,
    Photo,
    assign_folds,
    audit,
    find_duplicates,
    usable_part,
)

from .metrics import Labels
from .run_folder import TrainError
from .train_settings import Settings


@dataclass(frozen=True)
class UsablePhotos:
    """Usable photos, with the numbers of their classes."""

    dataset: Dataset
    facts: list[ImageInfo]
    audit: Audit
    names: tuple[str, ...]  # of the classes that have photos
    labels: Labels
    usable: list[int]  # indices among all photos of the data set
    alike: tuple[tuple[int, ...], ...]  # groups of indices in `photos` that show the same picture
    audit_again: Callable[[Sequence[str]], Audit]  # with the splits of `photos`

    @property
    def photos(self) -> Sequence[Photo]:
        """In the order of `labels`."""
        return self.dataset.photos

    @property
    def pictures(self) -> Labels:
        """(N,), equal numbers for photos that show the same picture."""
        return pictures_of(len(self.labels), self.alike)

    def with_splits(self, splits: Sequence[str]) -> UsablePhotos:
        """The same, audited with the splits that a run uses; of each photo."""
        return replace(self, audit=self.audit_again(splits))


def pictures_of(count: int, alike: Iterable[Sequence[int]]) -> Labels:
    """(count,), equal numbers for photos of the same picture, from groups of their places."""
    found = np.arange(count)
    for group in alike:
        found[list(group)] = min(group)
    return found


def usable_photos(dataset: Dataset, facts: list[ImageInfo], settings: Settings) -> UsablePhotos:
    """Leave out what cannot be used, and number the classes.

    Raises:
        DataError: nothing is left to classify, a class has no photo to train on, or `strict` and there are problems.
        TrainError: no photo is for training.
    """
    duplicates = find_duplicates(dataset, facts, ImageInfoCache(decoding=settings.decoding))
    found = audit(dataset, facts, decoding=settings.decoding, duplicates=duplicates)
    if settings.strict:
        found.check()
    usable = [index for index, fact in enumerate(facts) if fact.broken is None]
    kept, usable = usable_part(replace(dataset, notes=found.notes), usable, settings.allow_unseen)
    if all(photo.split not in ("train", None) for photo in kept.photos):
        splits = " and ".join(sorted({str(photo.split) for photo in kept.photos}))
        raise TrainError(
            f"{dataset.name} marks no photo for training. Change the split of some to train; all are in {splits}."
        )
    number = {name: index for index, name in enumerate(kept.classes)}
    labels = np.array([number[photo.label] for photo in kept.photos], np.int64)
    place_of = {index: place for place, index in enumerate(usable)}
    groups = (tuple(place_of[i] for i in group.members if i in place_of) for group in duplicates)

    def audit_again(splits: Sequence[str]) -> Audit:
        every = [""] * len(facts)
        for index, split in zip(usable, splits, strict=True):
            every[index] = split
        return audit(dataset, facts, every, settings.decoding, duplicates)

    alike = tuple(group for group in groups if len(group) > 1)
    return UsablePhotos(kept, [facts[i] for i in usable], found, kept.classes, labels, usable, alike, audit_again)


def folds_of(data: UsablePhotos, places: Sequence[int], settings: Settings) -> Labels:
    """The fold of each of those photos."""
    if not places:
        raise TrainError(f"{data.dataset.name} marks no photo for training. Change the split of some to train.")
    hashes = [data.facts[place].sha256 for place in places]
    number = {place: index for index, place in enumerate(places)}
    alike = [[number[place] for place in group if place in number] for group in data.alike]
    folds = assign_folds(
        hashes,
        [group for group in alike if group],
        folds=settings.folds,
        seed=settings.seed,
        labels=[data.photos[place].label for place in places],
    )
    if len(set(folds)) < 2:
        raise TrainError(f"{data.dataset.name} has too few different photos to hold some out. Add photos.")
    return np.array(folds, np.int64)
