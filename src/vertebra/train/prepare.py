"""The step `prepare` of a probe: a data set → features of its usable photos, their splits and folds.

`prepare_training` does the same for a whole network, whose training starts from a probe.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.card import Card, Preprocessing, read_card
from vertebra.data import Dataset, findings, open_dataset
from vertebra.loading import cached_export
from vertebra.preprocessing import training_preprocessing
from vertebra.progress import Progress

from .dataset_features import DatasetFeatures, compute_features
from .metrics import Floats, Labels
from .train_settings import Settings
from .usable_photos import UsablePhotos, folds_of, usable_photos


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
        return np.array([i for i, split in enumerate(self.splits) if split != self.held_split], np.int64)

    @property
    def held_indices(self) -> Labels:
        """Of photos that no head is fitted to."""
        return np.array([i for i, split in enumerate(self.splits) if split == self.held_split], np.int64)


def prepare_probe(settings: Settings, timer: Timer, tell: Progress) -> PreparedProbe:
    """Find the photos, compute their features, audit them, and assign splits and folds.

    Raises:
        DataError, TrainError: as `usable_photos` and `folds_of` do.
    """
    with timer.step("finding the photos"):
        dataset = open_dataset(settings.data_from_here, **settings.reading)
    body, computed, photos = extract_features(settings, dataset, timer, tell)
    own = [photo.split or "" for photo in photos.photos]
    held_split = next((split for split in ("test", "val") if split in own), None)
    splits = [split if split == held_split else "train" for split in own]
    with timer.step("auditing"):
        photos = photos.with_splits(splits)
        found = findings(dataset, photos.audit)
    with timer.step("fitting the head"):
        folds = folds_of(photos, [i for i, split in enumerate(splits) if split != held_split], settings)
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
    settings: Settings, dataset: Dataset, timer: Timer, tell: Progress
) -> tuple[Path, DatasetFeatures, UsablePhotos]:
    """The exported pretrained network, the features of all photos, and the photos that can be used."""
    with timer.step("exporting the pretrained network"):
        tell(f"exporting {settings.model}", 0, 1)
        body = cached_export(settings.model, settings.weights_from_here)
    with timer.step("decoding and computing features"):
        preprocessing = preprocessing_of(settings, read_card(body).preprocessing)
        computed = compute_features(dataset, body, preprocessing, tell)
    with timer.step("auditing"):
        photos = usable_photos(dataset, computed.facts, settings)
    return body, computed, photos
