"""The step `prepare` of a probe: a data set → features of its usable photos, their splits and folds.

`prepare_training` does the same for a whole network, whose training starts from a probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.card import Card, Preprocessing, read_card
from vertebra.data import (
    Audit,
    Dataset,
    ImageInfo,
    ImageInfoCache,
    Photo,
    assign_folds,
    audit,
    find_duplicates,
    findings,
    open_dataset,
    select_usable,
)
from vertebra.loading import cached_export
from vertebra.preprocessing import training_preprocessing
from vertebra.progress import Progress

from .dataset_features import DatasetFeatures, compute_features
from .metrics import Floats, Labels
from .run_folder import TrainError
from .train_settings import Settings


@dataclass
class Timer:
    """Seconds that each step of a run took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the seconds that pass inside to those of the step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)


@dataclass(frozen=True)
class UsablePhotos:
    """The photos of a data set that a run can use, with the numbers of their classes."""

    dataset: Dataset
    facts: list[ImageInfo]
    audit: Audit
    names: tuple[str, ...]  # of the classes that have photos
    labels: Labels
    usable: list[int]  # indices among all photos of the data set
    duplicates: tuple[tuple[int, ...], ...]  # groups of indices in `photos` that show the same picture
    audit_again: Callable[[Sequence[str]], Audit]  # with the splits of `photos`

    @property
    def photos(self) -> Sequence[Photo]:
        """In the order of `labels`."""
        return self.dataset.photos

    @property
    def pictures(self) -> Labels:
        """(N,), equal numbers for photos that show the same picture."""
        return pictures_of(len(self.labels), self.duplicates)

    def with_splits(self, splits: Sequence[str]) -> UsablePhotos:
        """The same, audited with the splits that a run uses; of each photo."""
        return replace(self, audit=self.audit_again(splits))


def pictures_of(count: int, duplicates: Iterable[Sequence[int]]) -> Labels:
    """(count,), equal numbers for photos of the same picture, from groups of their places."""
    found = np.arange(count)
    for group in duplicates:
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
    kept, usable = select_usable(replace(dataset, notes=found.notes), usable, settings.allow_unseen)
    if all(photo.split not in ("train", None) for photo in kept.photos):
        splits = " and ".join(sorted({str(photo.split) for photo in kept.photos}))
        raise TrainError(
            f"{dataset.name} marks no photo for training. Change the split of some to train; all are in {splits}."
        )
    number = {name: index for index, name in enumerate(kept.classes)}
    labels = np.array([number[photo.label] for photo in kept.photos], np.int64)
    place_of = {index: place for place, index in enumerate(usable)}
    groups = [tuple(place_of[i] for i in group.members if i in place_of) for group in duplicates]

    def audit_again(splits: Sequence[str]) -> Audit:
        every = [""] * len(facts)
        for index, split in zip(usable, splits, strict=True):
            every[index] = split
        return audit(dataset, facts, every, settings.decoding, duplicates)

    own_facts, own_groups = [facts[i] for i in usable], tuple(group for group in groups if len(group) > 1)
    return UsablePhotos(kept, own_facts, found, kept.classes, labels, usable, own_groups, audit_again)


def preprocessing_of(settings: Settings, published: Preprocessing, size: int | None = None) -> Preprocessing:
    """From a photo to the input of a run's network: `training_preprocessing` by the run's settings."""
    return training_preprocessing(published, size, settings.crop_pct, settings.decoding)


@dataclass(frozen=True)
class PreparedProbe:
    """What the head is fitted and measured on."""

    body: Path  # the exported pretrained network
    card: Card  # of the body
    photos: UsablePhotos
    features: Floats  # (N, D), of `photos`
    computed: int  # photos whose features were not in the cache
    splits: list[str]  # of each photo: "train", or `held_split`
    held_split: str | None  # "test" or "val"; None: the data set has neither
    folds: Labels  # (T,), of the training photos
    findings: Mapping[str, Any]  # by the audit, for the report

    @property
    def train_indices(self) -> Labels:
        """(T,), of photos that may be trained on."""
        return split_indices(self.splits, "train")


def split_indices(splits: Sequence[str], name: str) -> Labels:
    """Of the photos of the split of that name."""
    return np.array([i for i, split in enumerate(splits) if split == name], np.int64)


def prepare_probe(settings: Settings, timer: Timer, progress: Progress) -> PreparedProbe:
    """Find the photos, compute their features, audit them, and assign splits and folds."""
    with timer.step("finding the photos"):
        dataset = open_dataset(settings.data_from_here, **settings.reading)
    body, computed, photos = extract_features(settings, dataset, timer, progress)
    own = [photo.split or "" for photo in photos.photos]
    held_split = next((split for split in ("test", "val") if split in own), None)
    splits = [split if split == held_split else "train" for split in own]
    with timer.step("auditing"):
        photos = photos.with_splits(splits)
        found = findings(dataset, photos.audit)
    with timer.step("fitting the head"):
        folds = _folds(photos, split_indices(splits, "train").tolist(), settings)
    return PreparedProbe(
        body=body,
        card=read_card(body),
        photos=photos,
        features=computed.features[photos.usable],
        computed=computed.computed,
        splits=splits,
        held_split=held_split,
        folds=folds,
        findings=found,
    )


def extract_features(
    settings: Settings, dataset: Dataset, timer: Timer, progress: Progress
) -> tuple[Path, DatasetFeatures, UsablePhotos]:
    """The exported pretrained network, the features of all photos, and the photos that can be used."""
    with timer.step("exporting the pretrained network"):
        progress(f"exporting {settings.model}", 0, 1)
        body = cached_export(settings.model, settings.weights_from_here)
    with timer.step("decoding and computing features"):
        preprocessing = preprocessing_of(settings, read_card(body).preprocessing)
        computed = compute_features(dataset, body, preprocessing, progress)
    with timer.step("auditing"):
        photos = usable_photos(dataset, computed.facts, settings)
    return body, computed, photos


def _folds(data: UsablePhotos, places: Sequence[int], settings: Settings) -> Labels:
    """The fold of each of those photos."""
    number = {place: index for index, place in enumerate(places)}
    duplicates = [[number[place] for place in group if place in number] for group in data.duplicates]
    folds = assign_folds(
        [data.facts[place].sha256 for place in places],
        [group for group in duplicates if group],
        folds=settings.folds,
        seed=settings.seed,
        labels=[data.photos[place].label for place in places],
    )
    if len(set(folds)) < 2:
        raise TrainError(f"{data.dataset.name} has too few different photos to hold some out. Add photos.")
    return np.array(folds, np.int64)
