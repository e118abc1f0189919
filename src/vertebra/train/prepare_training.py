"""The step `prepare` of a whole network: photos, splits and initial weights → a checkpoint of step 0.

`finetune` starts from a probe's head, `scratch` from random weights. A run that was stopped begins behind this step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra.card import Preprocessing, read_card
from vertebra.data import Dataset, assign_splits, findings, open_dataset, read_image_info
from vertebra.loading import cached_export
from vertebra.models import ConvNet, create_model, get_model_weights
from vertebra.preprocessing import SMALL
from vertebra.progress import Progress

from .batch_limits import check_photos
from .data_notes import data_notes
from .distributed import Distributed
from .early_stopping import validation_score
from .fit import Trainer
from .leakage import find_leaks
from .linear_head import choose_strength
from .lr_range_test import range_test
from .metrics import Labels
from .prepare import Timer, UsablePhotos, extract_features, preprocessing_of, split_indices, usable_photos
from .probe import with_head
from .resume_checks import FileState, file_states
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
    write_json,
    write_text,
)
from .train_settings import Settings
from .validation import Split


@dataclass(frozen=True)
class PreparedTraining:
    """What is known before the first step, kept in the run's folder until the run is finished.

    Runs of earlier versions lack the fields that have a default.
    """

    seconds: dict[str, float]  # that each step of preparing took
    classes: Sequence[str]
    probe: dict[str, Any] | None  # what the probe does on the held-out photos
    range: Sequence[tuple[float, float]]  # learning rate and loss of the range test
    notes: Sequence[str]
    found: Mapping[str, Any] | None = None  # by the audit, for the report
    pictures: Mapping[str, list[int]] = field(default_factory=dict)  # split -> number of each photo's picture
    leaked: Mapping[str, str] = field(default_factory=dict)  # as `find_leaks` gives it
    states: list[FileState | None] | None = None  # of the photos' files
    table: str | None = None  # digest of the photos' table

    @staticmethod
    def read(folder: Path) -> PreparedTraining:
        """What `prepare_training` wrote."""
        try:
            return PreparedTraining(**(read_json(folder / START) or {}))
        except TypeError as error:
            raise TrainError(
                f"{folder / START} is missing or damaged, so the run cannot go on. Start a new one."
            ) from error

    def pictures_of(self, split: str) -> Labels | None:
        """(N,), equal numbers for photos of a split that show the same picture; None: not known."""
        found = self.pictures.get(split)
        return None if found is None else np.array(found, np.int64)


@dataclass(frozen=True)
class _Initial:
    """What training starts from."""

    photos: UsablePhotos
    splits: list[str]
    network: ConvNet
    preprocessing: Preprocessing
    probe: dict[str, Any] | None  # what the probe does on the held-out photos
    notes: Sequence[str] = ()  # what to know of the weights


def prepare_training(settings: Settings, folder: Path, distributed: Distributed, progress: Progress) -> None:
    """Write the photos' table, what is known before the first step, the settings, and a checkpoint of step 0."""
    timer = Timer()
    with timer.step("finding the photos"):
        dataset = open_dataset(settings.data_from_here, **settings.reading)
        paths = [photo.path for photo in dataset.photos]
        states = dict(zip(paths, file_states(paths), strict=True))
    prepare = _from_probe if settings.method == "finetune" else _from_random_weights
    initial = prepare(settings, dataset, timer, progress)
    size = initial.preprocessing.crop_size
    splits = initial.splits
    photos = initial.photos.with_splits(splits)
    held_split = "test" if "test" in splits else "val"
    held = [photos.photos[i] for i in split_indices(splits, held_split).tolist()]
    _, limits = check_photos(settings, initial.network, size, splits.count("train"), distributed.size)
    write_text(folder / DATA, data_table(photos.photos, photos.facts, splits))
    settings = replace(settings, image_size=size)
    alone = replace(distributed, size=1)

    def trainer(with_settings: Settings) -> Trainer:
        return _trainer(with_settings, folder, alone, progress, initial.network, initial.preprocessing, photos.names)

    # A run that was stopped before its first checkpoint begins anew; a rate that it had found is in its settings.
    tried: list[tuple[float, float]] = (read_json(folder / START) or {}).get("range", [])
    if settings.lr == "auto":
        with timer.step("finding a learning rate"):
            lr, tried = range_test(trainer(settings))
            settings = replace(settings, lr=lr)
    start = PreparedTraining(
        seconds=timer.seconds,
        classes=photos.names,
        probe=initial.probe,
        range=tried,
        notes=[*initial.notes, *limits, *data_notes(photos, held, settings)],
        found=findings(dataset, photos.audit),
        pictures={name: photos.pictures[split_indices(splits, name)].tolist() for name in ("val", "test")},
        leaked=find_leaks(photos, splits, held_split),
        states=[states[photo.path] for photo in photos.photos],
        table=table_digest(folder),
    )
    write_json(folder / START, asdict(start))
    write_text(folder / SETTINGS, settings.to_toml())
    state = TrainingState(classes=list(photos.names), settings=asdict(settings))
    with timer.step("measuring the start"):
        if settings.method == "finetune":
            # As each epoch is scored: by the network that is trained, on images of the size that it is trained at. The
            # probe's own features come from images of the size of its weights, and those of a smaller network may
            # differ much.
            first = trainer(replace(settings, compile=False))
            logits = first.logits(first.val, "validating")
            first.early_stopping.update(state, *validation_score(logits, first.val.labels))
    state.seconds = sum(timer.seconds.values())
    save_best(folder, 0, initial.network.state_dict(), alone)
    save(folder, state, initial.network, None, {}, alone)


def _from_probe(settings: Settings, dataset: Dataset, timer: Timer, progress: Progress) -> _Initial:
    """Pretrained weights, and a head fitted to their features."""
    body, computed, photos = extract_features(settings, dataset, timer, progress)
    with timer.step("auditing"):
        splits = _splits(photos, settings)
    with timer.step("fitting the head"):
        features = computed.features[photos.usable]
        train, val, test = (split_indices(splits, name) for name in ("train", "val", "test"))
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


def _from_random_weights(settings: Settings, dataset: Dataset, timer: Timer, progress: Progress) -> _Initial:
    """Random weights; for small pictures a network that keeps their resolution longer."""
    with timer.step("looking through the photos"):
        facts = read_image_info(dataset, progress=progress, decoding=settings.decoding)
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
        duplicates=photos.duplicates,
        seed=settings.seed,
    )
    if "val" not in splits:
        raise TrainError(
            f"{photos.dataset.name} has too few photos for a validation set, which chooses the best epoch "
            f"({len(splits)} in all). Add photos, or use --method probe."
        )
    return splits


def trainer_of_run(
    settings: Settings, folder: Path, distributed: Distributed, progress: Progress, names: Sequence[str]
) -> Trainer:
    """The trainer of a prepared run of classes of these names; its weights come from the checkpoint."""
    if settings.method == "scratch":
        preprocessing = get_model_weights(settings.model)["DEFAULT"].preprocessing
        network = _randomly_initialised(settings, settings.image_size or preprocessing.crop_size, len(names))
    else:
        preprocessing = read_card(cached_export(settings.model, settings.weights_from_here)).preprocessing
        network = create_model(settings.model, weights=settings.weights_from_here, num_classes=len(names))
    return _trainer(settings, folder, distributed, progress, network, preprocessing, names)


def _trainer(
    settings: Settings,
    folder: Path,
    distributed: Distributed,
    progress: Progress,
    network: ConvNet,
    published: Preprocessing,
    names: Sequence[str],
) -> Trainer:
    splits = {name: Split.numbered(*rows, names) for name, rows in read_table(folder).items()}
    if "train" not in splits or "val" not in splits:
        raise TrainError(f"{folder / DATA} names no training photos, or no validation photos. Start a new run.")
    preprocessing = preprocessing_of(settings, published, settings.image_size)
    train, val, test = splits["train"], splits["val"], splits.get("test")
    return Trainer(settings, network, preprocessing, train, val, folder, distributed, progress, test=test)
