"""Prepare a probe: a data set → features of its usable photos, with splits and folds.

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
from .metrics import Labels
from .run_folder import TrainError
from .stored_features import Features
from .train_settings import Settings


@dataclass
class Timer:
    """Wall-clock seconds of each step of a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block, and add its seconds to those of the step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)


@dataclass(frozen=True)
class UsablePhotos:
    """The usable photos of a data set, with class indices."""

    dataset: Dataset
    infos: list[ImageInfo]
    audit: Audit
    names: tuple[str, ...]  # of classes with photos
    labels: Labels
    usable: list[int]  # indices among all photos of the data set
    duplicates: tuple[tuple[int, ...], ...]  # groups of indices in `photos`
    audit_again: Callable[[Sequence[str]], Audit]  # with the splits of `photos`

    @property
    def photos(self) -> Sequence[Photo]:
        """The photos, in the order of `labels`."""
        return self.dataset.photos

    @property
    def pictures(self) -> Labels:
        """(N,) picture numbers, equal for duplicates."""
        return picture_ids(len(self.labels), self.duplicates)

    def with_splits(self, splits: Sequence[str]) -> UsablePhotos:
        """Audit the photos again with the splits that the run uses."""
        return replace(self, audit=self.audit_again(splits))


def picture_ids(count: int, duplicates: Iterable[Sequence[int]]) -> Labels:
    """Return (count,) picture numbers, equal for duplicates, from groups of photo indices."""
    found = np.arange(count)
    for group in duplicates:
        found[list(group)] = min(group)
    return found


def select_usable_photos(dataset: Dataset, infos: list[ImageInfo], settings: Settings) -> UsablePhotos:
    """Drop unusable photos and index the classes.

    Raises:
        DataError: nothing is left to classify, a class has no training photo, or `strict` is set and the audit fails.
        TrainError: no photo is for training.
    """
    duplicates = find_duplicates(dataset, infos, ImageInfoCache(decoding=settings.decoding))
    found = audit(dataset, infos, decoding=settings.decoding, duplicates=duplicates)
    if settings.strict:
        found.check()
    usable = [index for index, info in enumerate(infos) if info.broken is None]
    kept, usable = select_usable(replace(dataset, notes=found.notes), usable, settings.allow_unseen)
    if all(photo.split not in ("train", None) for photo in kept.photos):
        splits = " and ".join(sorted({str(photo.split) for photo in kept.photos}))
        raise TrainError(
            f"{dataset.name} marks no photo for training. Change the split of some to train; all are in {splits}."
        )
    number = {name: index for index, name in enumerate(kept.classes)}
    labels = np.array([number[photo.label] for photo in kept.photos], np.int64)
    position = {index: i for i, index in enumerate(usable)}
    groups = [tuple(position[i] for i in group.members if i in position) for group in duplicates]

    def audit_again(splits: Sequence[str]) -> Audit:
        every = [""] * len(infos)
        for index, split in zip(usable, splits, strict=True):
            every[index] = split
        return audit(dataset, infos, every, settings.decoding, duplicates)

    kept_infos, kept_groups = [infos[i] for i in usable], tuple(group for group in groups if len(group) > 1)
    return UsablePhotos(kept, kept_infos, found, kept.classes, labels, usable, kept_groups, audit_again)


# Photos from which on a probe gets them whole: what is at their ends, and their shape, tells classes apart once there
# are enough photos to learn it from. On Caltech-101 that is +0.7 points with 20 photos of each class (2,020), +0.6 with
# all 5,784, and nothing or less with 10 of each class, or 24 of each of five classes.
_MIN_WHOLE_PHOTOS = 2000


def run_preprocessing(
    settings: Settings, published: Preprocessing, size: int | None = None, *, photos: int = 0
) -> Preprocessing:
    """Return the preprocessing of a run's network, from that of its weights, the settings and the number of photos."""
    mode = settings.crop_mode
    if mode is None:
        is_whole = settings.method == "probe" and settings.crop_pct == 1 and photos >= _MIN_WHOLE_PHOTOS
        mode = "squash" if is_whole else "center"
    return training_preprocessing(published, size, settings.crop_pct, settings.decoding, mode)


@dataclass(frozen=True)
class PreparedProbe:
    """The features, splits and folds that a head is fitted and measured on."""

    body: Path  # the exported pretrained network
    card: Card  # of the body
    preprocessing: Preprocessing  # of the features
    photos: UsablePhotos
    features: Features  # (N, D), of `photos`
    computed: int  # photos whose features were not in the cache
    splits: list[str]  # of each photo: "train", or `held_split`
    held_split: str | None  # "test" or "val"; None: the data set has neither
    folds: Labels  # (T,), of the training photos
    findings: Mapping[str, Any]  # by the audit, for the report

    @property
    def train_indices(self) -> Labels:
        """(T,) indices of the training photos."""
        return split_indices(self.splits, "train")


def split_indices(splits: Sequence[str], name: str) -> Labels:
    """Return the indices of the photos in a split."""
    return np.array([i for i, split in enumerate(splits) if split == name], np.int64)


def prepare_probe(settings: Settings, timer: Timer, progress: Progress) -> PreparedProbe:
    """Open the data set, compute features, audit, and assign splits and folds."""
    with timer.step("finding the photos"):
        dataset = open_dataset(settings.resolved_data, **settings.reading)
    body, preprocessing, computed, photos = extract_features(settings, dataset, timer, progress)
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
        preprocessing=preprocessing,
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
) -> tuple[Path, Preprocessing, DatasetFeatures, UsablePhotos]:
    """Return the exported pretrained network, its preprocessing, the features of all photos, and the usable photos."""
    with timer.step("exporting the pretrained network"):
        progress(f"exporting {settings.model}", 0, 1)
        body = cached_export(settings.model, settings.resolved_weights)
    with timer.step("decoding and computing features"):
        preprocessing = run_preprocessing(settings, read_card(body).preprocessing, photos=len(dataset.photos))
        computed = compute_features(dataset, body, preprocessing, progress, settings.ray)
    with timer.step("auditing"):
        photos = select_usable_photos(dataset, computed.infos, settings)
    return body, preprocessing, computed, photos


def _folds(data: UsablePhotos, indices: Sequence[int], settings: Settings) -> Labels:
    """Assign a fold to each photo of `indices`."""
    position = {index: i for i, index in enumerate(indices)}
    duplicates = [[position[index] for index in group if index in position] for group in data.duplicates]
    folds = assign_folds(
        [data.infos[index].sha256 for index in indices],
        [group for group in duplicates if group],
        folds=settings.folds,
        seed=settings.seed,
        labels=[data.photos[index].label for index in indices],
    )
    if len(set(folds)) < 2:
        raise TrainError(f"{data.dataset.name} has too few different photos to hold some out. Add photos.")
    return np.array(folds, np.int64)
