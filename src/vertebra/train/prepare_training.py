"""The step `prepare` of a whole network: photos, splits and initial weights → a checkpoint of step 0.

`finetune` starts from a probe's head, `scratch` from random weights. A run that was stopped begins behind this step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra.card import Preprocessing, read_card
from vertebra.data import Dataset, ImageInfo, Photo, assign_splits, findings, open_dataset, read_image_info
from vertebra.loading import cached_export
from vertebra.models import ConvNet, create_model, get_model_weights
from vertebra.preprocessing import SMALL
from vertebra.progress import Progress

from .batch_limits import check_photos
from .changed_photos import states_of
from .data_notes import data_notes
from .distributed import Distributed
from .fit import Trainer
from .leakage import find_leaks
from .linear_head import choose_strength
from .lr_range_test import range_test
from .metrics import Labels
from .prepare import Timer, extract_features, preprocessing_of
from .prepared_training import PreparedTraining
from .probe import with_head
from .run_checkpoint import TrainingState, save, save_best
from .run_folder import (
    DATA,
    SETTINGS,
    START,
    TrainError,
    data_table,
    read_json,
    read_table,
    table_digest,
    write_text,
)
from .train_settings import Settings
from .usable_photos import UsablePhotos, usable_photos
from .validation import Split, score


@dataclass(frozen=True)
class _Initial:
    """What training starts from."""

    photos: UsablePhotos
    splits: list[str]
    network: ConvNet
    preprocessing: Preprocessing
    probe: dict[str, Any] | None  # what the probe does on the held-out photos
    notes: Sequence[str] = ()  # what to know of the weights

    @property
    def held_split(self) -> str:
        return "test" if "test" in self.splits else "val"

    @property
    def held_photos(self) -> list[Photo]:
        return [photo for photo, split in zip(self.photos.photos, self.splits, strict=True) if split == self.held_split]


def prepare_training(settings: Settings, folder: Path, distributed: Distributed, tell: Progress) -> None:
    """Write the photos' table, what is known before the first step, the settings, and a checkpoint of step 0.

    Raises:
        UsageError: the network, the photos or a step do not go together.
        DataError, TrainError: the photos cannot be used.
    """
    timer = Timer()
    with timer.step("finding the photos"):
        dataset = open_dataset(settings.data_from_here, **settings.reading)
        paths = [photo.path for photo in dataset.photos]
        states = dict(zip(paths, states_of(paths), strict=True))
    prepare = _from_probe if settings.method == "finetune" else _from_random_weights
    initial = prepare(settings, dataset, timer, tell)
    size = initial.preprocessing.crop_size
    photos = initial.photos.with_splits(initial.splits)
    initial = replace(initial, photos=photos)
    _, limits = check_photos(settings, initial.network, size, initial.splits.count("train"), distributed.size)
    write_text(folder / DATA, data_table(photos.photos, photos.facts, initial.splits))
    settings = replace(settings, image_size=size)
    alone = replace(distributed, size=1)
    # A run that was stopped before its first checkpoint begins anew; a rate that it had found is in its settings.
    tried: list[tuple[float, float]] = (read_json(folder / START) or {}).get("range", [])
    if settings.lr == "auto":
        with timer.step("finding a learning rate"):
            lr, tried = range_test(_trainer_of(settings, folder, alone, tell, initial))
            settings = replace(settings, lr=lr)
    PreparedTraining(
        seconds=timer.seconds,
        classes=photos.names,
        probe=initial.probe,
        range=tried,
        notes=[*initial.notes, *limits, *data_notes(photos, initial.held_photos, settings)],
        found=findings(dataset, photos.audit),
        pictures={name: photos.pictures[_indices(initial.splits, name)].tolist() for name in ("val", "test")},
        leaked=find_leaks(photos, initial.splits, initial.held_split),
        states=[states[photo.path] for photo in photos.photos],
        table=table_digest(folder),
    ).write(folder)
    write_text(folder / SETTINGS, settings.to_toml())
    with timer.step("measuring the start"):
        accuracy, loss = _initial_score(settings, folder, alone, tell, initial)
    state = TrainingState(
        seconds=sum(timer.seconds.values()),
        best_score=accuracy,
        best_loss=loss,
        classes=list(photos.names),
        settings=asdict(settings),
    )
    save_best(folder, 0, initial.network.state_dict(), alone)
    save(folder, state, initial.network, None, {}, alone)


def _from_probe(settings: Settings, dataset: Dataset, timer: Timer, tell: Progress) -> _Initial:
    """Pretrained weights, and a head fitted to their features."""
    body, computed, photos = extract_features(settings, dataset, timer, tell)
    with timer.step("auditing"):
        splits = _splits(photos, settings)
    with timer.step("fitting the head"):
        features = computed.features[photos.usable]
        train, val, test = (_indices(splits, name) for name in ("train", "val", "test"))
        part = (features[train], photos.labels[train]), (features[val], photos.labels[val])
        strength, (head,), _ = choose_strength([part], len(photos.names))
    held = test if len(test) else val
    card = read_card(body)
    correct = head.logits(features[held]).argmax(1) == photos.labels[held]
    probe = {
        "top1": float(correct.mean()),
        "n": len(held),
        "strength": strength,
        "right": correct.tolist(),
        "size": card.preprocessing.crop_size,
    }
    preprocessing = preprocessing_of(settings, card.preprocessing, settings.image_size)
    network, notes = with_head(body, settings.weights_from_here, head)
    return _Initial(photos, splits, network, preprocessing, probe, notes)


def _from_random_weights(settings: Settings, dataset: Dataset, timer: Timer, tell: Progress) -> _Initial:
    """Random weights; for small pictures a network that keeps their resolution longer."""
    with timer.step("looking through the photos"):
        facts: list[ImageInfo] = read_image_info(dataset, progress=tell, decoding=settings.decoding)
        photos = usable_photos(dataset, facts, settings)
        splits = _splits(photos, settings)
    size = settings.image_size or (32 if photos.audit.sizes[1] <= SMALL else None)
    preprocessing = preprocessing_of(settings, get_model_weights(settings.model)["DEFAULT"].preprocessing, size)
    network = _randomly_initialised(settings, preprocessing.crop_size, len(photos.names))
    return _Initial(photos, splits, network, preprocessing, None)


def _randomly_initialised(settings: Settings, size: int, classes: int) -> ConvNet:
    torch.manual_seed(settings.seed)
    network = create_model(settings.model, weights=None, num_classes=classes)
    if size <= SMALL:
        network.reset_resolution()
    return network


def _splits(photos: UsablePhotos, settings: Settings) -> list[str]:
    splits = assign_splits(
        [fact.sha256 for fact in photos.facts],
        [photo.label for photo in photos.photos],
        [photo.split for photo in photos.photos],
        duplicates=photos.alike,
        seed=settings.seed,
    )
    if "val" not in splits:
        raise TrainError(
            f"{photos.dataset.name} has too few photos for a validation set, which chooses the best epoch "
            f"({len(splits)} in all). Add photos, or use --method probe."
        )
    return splits


def _indices(splits: list[str], name: str) -> Labels:
    return np.array([i for i, split in enumerate(splits) if split == name], np.int64)


def _initial_score(
    settings: Settings, folder: Path, alone: Distributed, tell: Progress, initial: _Initial
) -> tuple[float, float]:
    """Accuracy and loss on the validation set, before the first step.

    As each epoch is scored: by the network that is trained, on images of the size that it is trained at. The probe's
    own features come from images of the size of its weights, and those of a smaller network may differ much.
    """
    if settings.method == "scratch":
        return -1.0, float("inf")
    trainer = _trainer_of(replace(settings, compile=False), folder, alone, tell, initial)
    return score(trainer.logits(trainer.val, "validating"), trainer.val.labels)


def trainer_of_run(
    settings: Settings, folder: Path, distributed: Distributed, tell: Progress
) -> tuple[Trainer, tuple[str, ...]]:
    """The trainer of a prepared run, whose weights come from the checkpoint, and the names of its classes.

    Raises:
        TrainError: a file of the run is missing or damaged.
    """
    names = tuple(PreparedTraining.read(folder).classes)
    if settings.method == "scratch":
        preprocessing = get_model_weights(settings.model)["DEFAULT"].preprocessing
        network = _randomly_initialised(settings, settings.image_size or preprocessing.crop_size, len(names))
    else:
        preprocessing = read_card(cached_export(settings.model, settings.weights_from_here)).preprocessing
        network = create_model(settings.model, weights=settings.weights_from_here, num_classes=len(names))
    return _trainer(settings, folder, distributed, tell, network, preprocessing, names), names


def _trainer_of(
    settings: Settings, folder: Path, distributed: Distributed, tell: Progress, initial: _Initial
) -> Trainer:
    """A trainer of what training starts from."""
    names = initial.photos.names
    return _trainer(settings, folder, distributed, tell, initial.network, initial.preprocessing, names)


def _trainer(
    settings: Settings,
    folder: Path,
    distributed: Distributed,
    tell: Progress,
    network: ConvNet,
    published: Preprocessing,
    names: Sequence[str],
) -> Trainer:
    table = read_table(folder)
    if "train" not in table or "val" not in table:
        raise TrainError(f"{folder / DATA} names no training photos, or no validation photos. Start a new run.")
    train, val = (Split.numbered(*table[name], names) for name in ("train", "val"))
    preprocessing = preprocessing_of(settings, published, settings.image_size)
    return Trainer(settings, network, preprocessing, train, val, folder, distributed, tell)
