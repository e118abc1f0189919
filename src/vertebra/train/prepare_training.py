"""Prepare the training of a network: photos, splits and initial weights → a checkpoint of step 0.

`finetune` starts from a probe's head, `scratch` from random weights. A resumed run skips this step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from .frozen_views import choose_views
from .leakage import find_leaks
from .linear_head import choose_strength
from .lr_range_test import range_test
from .metrics import Labels
from .prepare import Timer, UsablePhotos, extract_features, run_preprocessing, select_usable_photos, split_indices
from .probe import network_with_head
from .resume_checks import FileState, file_states
from .run_checkpoint import TrainingState, save, save_best
from .run_folder import (
    DATA,
    SETTINGS,
    START,
    TrainError,
    format_data_table,
    read_json,
    read_splits,
    table_digest,
    write_json,
    write_text,
)
from .shard_order import require_cache_room, shuffle_notes
from .speed_choice import choose_speed
from .train_settings import Settings
from .validation import Split


@dataclass(frozen=True)
class PreparedTraining:
    """The contents of `start.json`, kept until the run is finished.

    Runs of earlier versions lack the fields with a default.
    """

    seconds: dict[str, float]  # of each step of preparing
    classes: Sequence[str]
    probe: dict[str, Any] | None  # the probe's results on the held-out photos
    range: Sequence[tuple[float, float]]  # (learning rate, loss) of the range test
    notes: Sequence[str]
    found: Mapping[str, Any] | None = None  # by the audit, for the report
    pictures: Mapping[str, list[int]] = field(default_factory=dict)  # split -> picture numbers
    leaked: Mapping[str, str] = field(default_factory=dict)  # from `find_leaks`
    states: list[FileState | None] | None = None  # of the photos' files
    table: str | None = None  # `table_digest` of data.csv

    @staticmethod
    def read(folder: Path) -> PreparedTraining:
        """Read what `prepare_training` wrote."""
        try:
            return PreparedTraining(**(read_json(folder / START) or {}))
        except TypeError as error:
            raise TrainError(
                f"{folder / START} is missing or damaged, so the run cannot go on. Start a new one."
            ) from error

    def picture_ids(self, split: str) -> Labels | None:
        """Return picture numbers (N,) of a split, equal for duplicates; None: not known."""
        found = self.pictures.get(split)
        return None if found is None else np.array(found, np.int64)


@dataclass(frozen=True)
class _Initial:
    """What training starts from."""

    photos: UsablePhotos
    splits: list[str]
    network: ConvNet
    preprocessing: Preprocessing
    probe: dict[str, Any] | None  # the probe's results on the held-out photos
    notes: Sequence[str] = ()  # on the weights


def prepare_training(settings: Settings, folder: Path, distributed: Distributed, progress: Progress) -> None:
    """Write data.csv, start.json, the settings and a checkpoint of step 0."""
    timer = Timer()
    with timer.step("finding the photos"):
        dataset = open_dataset(settings.resolved_data, **settings.reading)
        paths = [photo.path for photo in dataset.photos]
        states = dict(zip(paths, file_states(paths), strict=True))
    prepare = _from_probe if settings.method == "finetune" else _from_random_weights
    initial = prepare(settings, dataset, timer, progress)
    size = initial.preprocessing.crop_size
    splits = initial.splits
    photos = initial.photos.with_splits(splits)
    held_split = "test" if "test" in splits else "val"
    held = [photos.photos[i] for i in split_indices(splits, held_split).tolist()]
    trained = [photos.photos[i].path for i in split_indices(splits, "train").tolist()]
    _, limits = check_photos(settings, initial.network, size, splits.count("train"), distributed.size)
    write_text(folder / DATA, format_data_table(photos.photos, photos.infos, splits))
    views, views_notes = choose_views(settings, initial.network, size, splits.count("train"), splits.count("val"))
    settings = replace(settings, image_size=size, frozen_views=views if settings.freeze else None)
    alone = replace(distributed, size=1)

    def trainer(changed: Settings) -> Trainer:
        return _build_trainer(changed, folder, alone, progress, initial.network, initial.preprocessing, photos.names)

    with timer.step("choosing how to compute steps") if settings.speed == "auto" else nullcontext():
        speed, speed_notes = choose_speed(
            settings, splits.count("train"), distributed.device, lambda speed: trainer(replace(settings, speed=speed))
        )
    settings = replace(settings, speed=speed)

    # A run stopped before its first checkpoint starts again; a learning rate already found is in its settings.
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
        notes=[
            *(*initial.notes, *limits, *views_notes, *speed_notes),
            *(*shuffle_notes(trained, settings), *data_notes(photos, held, settings)),
        ],
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
            # Scored as each epoch is, at the training image size. The probe's own score is at the image size of its
            # weights, which may be far from it.
            first = trainer(replace(settings, speed="eager"))
            logits = first.validation_logits()
            first.early_stopping.update(state, *validation_score(logits, first.val.labels))
    state.seconds = sum(timer.seconds.values())
    save_best(folder, 0, initial.network.state_dict(), alone)
    save(folder, state, initial.network, None, {}, alone)


def _from_probe(settings: Settings, dataset: Dataset, timer: Timer, progress: Progress) -> _Initial:
    """Start from pretrained weights with a probe's head."""
    body, _, computed, photos = extract_features(settings, dataset, timer, progress)
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
    preprocessing = run_preprocessing(settings, card.preprocessing, settings.image_size)
    network, notes = network_with_head(body, settings.resolved_weights, head)
    return _Initial(photos, splits, network, preprocessing, probe, notes)


def _from_random_weights(settings: Settings, dataset: Dataset, timer: Timer, progress: Progress) -> _Initial:
    """Start from random weights; the network for small pictures has a stem that keeps their resolution."""
    with timer.step("looking through the photos"):
        infos = read_image_info(dataset, progress=progress, decoding=settings.decoding)
        photos = select_usable_photos(dataset, infos, settings)
        splits = _splits(photos, settings)
    size = settings.image_size or (32 if photos.audit.sizes[1] <= SMALL else None)
    preprocessing = run_preprocessing(settings, get_model_weights(settings.model)["DEFAULT"].preprocessing, size)
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
        [info.sha256 for info in photos.infos],
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


def build_run_trainer(
    settings: Settings, folder: Path, distributed: Distributed, progress: Progress, names: Sequence[str]
) -> Trainer:
    """Build the trainer of a prepared run; `fit` loads its weights from the checkpoint."""
    if settings.method == "scratch":
        preprocessing = get_model_weights(settings.model)["DEFAULT"].preprocessing
        network = _randomly_initialised(settings, settings.image_size or preprocessing.crop_size, len(names))
    else:
        preprocessing = read_card(cached_export(settings.model, settings.resolved_weights)).preprocessing
        network = create_model(settings.model, weights=settings.resolved_weights, num_classes=len(names))
    return _build_trainer(settings, folder, distributed, progress, network, preprocessing, names)


def _build_trainer(
    settings: Settings,
    folder: Path,
    distributed: Distributed,
    progress: Progress,
    network: ConvNet,
    published: Preprocessing,
    names: Sequence[str],
) -> Trainer:
    splits = {name: Split.from_labels(*rows, names) for name, rows in read_splits(folder).items()}
    if "train" not in splits or "val" not in splits:
        raise TrainError(f"{folder / DATA} names no training photos, or no validation photos. Start a new run.")
    require_cache_room(splits["train"].paths, settings)
    preprocessing = run_preprocessing(settings, published, settings.image_size)
    train, val, test = splits["train"], splits["val"], splits.get("test")
    return Trainer(settings, network, preprocessing, train, val, folder, distributed, progress, test=test)
