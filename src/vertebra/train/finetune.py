"""Training the whole network: from a probe's head (finetune) or from nothing (scratch).

Three steps. Preparing looks through the photos, splits them and writes a checkpoint of step 0; fitting goes from a
checkpoint to the last step; concluding measures, exports and reports. A run that was stopped starts at the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra.card import Preprocessing, WeightSource, read_card
from vertebra.data import Dataset, Facts, Photo, assign_splits, findings, look_through, open_dataset
from vertebra.errors import UsageError
from vertebra.loading import exported
from vertebra.models import ConvNet, create_model, get_model_weights
from vertebra.preprocessing import SMALL
from vertebra.progress import Progress
from vertebra.report import percent

from .batch_limits import check_photos, check_settings
from .changed_photos import changed_photos, states_of
from .distributed import World
from .finalize import Outcome, conclude
from .fit import Part, Trainer, range_test, score
from .leakage import leak_notes, leaked
from .linear_head import choose_strength
from .metrics import Floats, Labels
from .prepare import Calibration, Clock, Labelled, judge, remarks, usable_photos
from .probe import features_of, with_head
from .report import Curve
from .run_checkpoint import Position, read_position, save, save_best
from .run_folder import (
    CHECKPOINT,
    DATA,
    SETTINGS,
    START,
    TrainError,
    data_table,
    read_hashes,
    read_json,
    read_table,
    remove_progress,
    resume_command,
    table_digest,
    write_json,
    write_text,
)
from .schedule import view_of
from .temperature import fit_temperature, softmax
from .train_settings import FIXED, Settings
from .trained_classifier import Classifier
from .training_log import read_log


def run_finetune(settings: Settings, folder: Path, world: World, tell: Progress) -> Classifier:
    """The whole of a run by the methods "finetune" and "scratch", from wherever it is.

    Raises:
        Stopped, TrainError: as `Trainer.fit` does.
    """
    with world.together():
        check_settings(settings, world.size)
        if world.first:
            if (folder / CHECKPOINT).exists():
                _refuse_changed(folder, tell)
            else:
                _prepare(settings, folder, world, tell)
    # What preparing has found out (rate, image size) is in the run's own settings.
    settings = Settings.from_toml(folder / SETTINGS)
    # What was not known yet when the run began had its usual value.
    before = asdict(Settings(data=settings.data)) | read_position(folder).settings
    if changed := [name for name in FIXED if _plain(before[name]) != _plain(getattr(settings, name))]:
        raise UsageError(
            f"{folder / SETTINGS} has another {' and '.join(changed)} than the run began with: "
            f"{', '.join(f'{name} was {before[name]!r}' for name in changed)}. Put it back, or start a new run."
        )
    start = _start(folder)
    clock = Clock(dict(start["seconds"]))
    with world.together():
        trainer, names = _trainer(settings, folder, world, tell)
    with clock.step("training"):
        position = trainer.fit()
    clock.seconds["training"] = round(position.seconds - sum(start["seconds"].values()), 2)
    with clock.step("measuring"):
        test = read_table(folder).get("test")
        val_logits = trainer.logits(trainer.val, "measuring")
        held_part = _part(test, names) if test else trainer.val
        held_logits = trainer.logits(held_part, "measuring") if test else val_logits
        if not np.isfinite(held_logits).all():
            raise TrainError(
                "the network's outputs on held-out photos are NaN or infinite, so nothing can be said of it, and it is "
                f"not exported. Train again with a smaller learning rate, such as --lr {float(settings.lr) / 5:.2g}"
            )
    what = "the test photos" if test else "the photos that chose the epoch, as there are none to test on"
    with world.together():
        if world.first:
            outcome = _outcome(
                settings, folder, trainer, names, position, start, what, val_logits, held_part, held_logits
            )
            conclude(settings, folder, outcome, clock, tell)
            remove_progress(folder)
    return Classifier(folder)


def _plain(value: Any) -> Any:
    """A checkpoint has lists where settings have tuples."""
    return list(value) if isinstance(value, tuple) else value


# --- before the first step -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Beginning:
    """What training starts from."""

    photos: Labelled
    splits: list[str]
    network: ConvNet
    preprocessing: Preprocessing
    probe: dict[str, Any] | None  # what the probe does on the test photos
    notes: Sequence[str] = ()  # what to know of the weights


def _prepare(settings: Settings, folder: Path, world: World, tell: Progress) -> None:
    clock = Clock()
    with clock.step("finding the photos"):
        dataset = open_dataset(settings.data_from_here, **settings.reading)
        states = dict(zip((p.path for p in dataset.photos), states_of(p.path for p in dataset.photos), strict=True))
    begin = _from_probe if settings.method == "finetune" else _from_nothing
    beginning = begin(settings, dataset, clock, tell)
    size = beginning.preprocessing.crop_size
    _, limits = check_photos(settings, beginning.network, size, beginning.splits.count("train"), world.size)
    photos = beginning.photos.with_splits(beginning.splits)
    write_text(folder / DATA, data_table(photos.photos, photos.facts, beginning.splits))
    settings = replace(settings, image_size=size)
    alone = replace(world, size=1)
    # A run that was stopped before its first checkpoint begins anew; a rate that it had found is in its settings.
    tried: list[tuple[float, float]] = (read_json(folder / START) or {}).get("range", [])
    if settings.lr == "auto":
        with clock.step("finding a learning rate"):
            trainer, _ = _trainer(settings, folder, alone, tell, beginning)
            lr, tried = range_test(trainer)
            settings = replace(settings, lr=lr)
    write_json(
        folder / START,
        {
            "seconds": clock.seconds,
            "found": findings(dataset, photos.audit),
            "classes": photos.names,
            "probe": beginning.probe,
            "range": tried,
            "notes": [*beginning.notes, *limits, *remarks(photos, _held_photos(beginning), settings)],
            "pictures": {name: photos.pictures[_places(beginning.splits, name)].tolist() for name in ("val", "test")},
            "leaked": leaked(photos, beginning.splits, _held_split(beginning)),
            "states": [states[photo.path] for photo in photos.photos],
            "table": table_digest(folder),
        },
    )
    write_text(folder / SETTINGS, settings.to_toml())
    with clock.step("measuring the start"):
        score, loss = _first_score(settings, folder, alone, tell, beginning)
    position = Position(
        seconds=sum(clock.seconds.values()),
        best_score=score,
        best_loss=loss,
        classes=list(photos.names),
        settings=asdict(settings),
    )
    save_best(folder, 0, beginning.network.state_dict(), alone)
    save(folder, position, beginning.network, None, {}, alone)


def _changed(folder: Path, tell: Progress) -> list[Path]:
    """The photos that are others than those that the run began with."""
    paths, hashes = read_hashes(folder)
    states = _start(folder).get("states")  # a run that began before they were noted has none
    if not isinstance(states, list) or len(states) != len(paths):
        states = [None] * len(paths)
    return changed_photos(paths, hashes, states, tell)


def _refuse_changed(folder: Path, tell: Progress) -> None:
    """Refuse to learn from other photos than the run began with.

    Raises:
        TrainError: some have another content, which are named; or the table says otherwise what they are.
    """
    if _start(folder).get("table", digest := table_digest(folder)) != digest:
        raise TrainError(
            f"{folder / DATA} has other photos, labels or splits than the run began with. Put it back, or start a new "
            "run."
        )
    changed = _changed(folder, tell)
    if changed:
        raise TrainError(
            f"{_such_as(changed)} since the run began, and a run goes on with what it began with. Put back what was "
            f"there (its SHA-256 is in {folder / DATA}) and run: {resume_command(folder)}. Or start a new run."
        )


def _such_as(paths: Sequence[Path], most: int = 3) -> str:
    names = ", ".join(str(path) for path in paths[:most]) + (", …" if len(paths) > most else "")
    if len(paths) == 1:
        return f"a photo has been changed ({names})"
    return f"{len(paths):,} photos have been changed ({names})"


def _held_photos(beginning: _Beginning) -> list[Photo]:
    held = _held_split(beginning)
    return [photo for photo, split in zip(beginning.photos.photos, beginning.splits, strict=True) if split == held]


def _held_split(beginning: _Beginning) -> str:
    return "test" if "test" in beginning.splits else "val"


def _from_probe(settings: Settings, dataset: Dataset, clock: Clock, tell: Progress) -> _Beginning:
    """Pretrained weights, and a head fitted to their features."""
    body, seen, photos = features_of(settings, dataset, clock, tell)
    with clock.step("auditing"):
        splits = _splits(photos, settings)
    with clock.step("fitting the head"):
        features = seen.features[photos.usable]
        train, val, test = (_places(splits, name) for name in ("train", "val", "test"))
        part = (features[train], photos.labels[train]), (features[val], photos.labels[val])
        strength, (head,), _ = choose_strength([part], len(photos.names))
    held = test if len(test) else val
    card = read_card(body)
    right = head.logits(features[held]).argmax(1) == photos.labels[held]
    probe = {
        "top1": float(right.mean()),
        "n": len(held),
        "strength": strength,
        "right": right.tolist(),
        "size": card.preprocessing.crop_size,
    }
    preprocessing = view_of(settings, card.preprocessing, settings.image_size)
    network, notes = with_head(body, settings.weights_from_here, head)
    return _Beginning(photos, splits, network, preprocessing, probe, notes)


def _from_nothing(settings: Settings, dataset: Dataset, clock: Clock, tell: Progress) -> _Beginning:
    """Drawn weights; for small pictures a network that keeps their resolution longer."""
    with clock.step("looking through the photos"):
        facts: list[Facts] = look_through(dataset, progress=tell, decoding=settings.decoding)
        photos = usable_photos(dataset, facts, settings)
        splits = _splits(photos, settings)
    size = settings.image_size or (32 if photos.audit.sizes[1] <= SMALL else None)
    preprocessing = view_of(settings, get_model_weights(settings.model)["DEFAULT"].preprocessing, size)
    network = _drawn(settings, preprocessing.crop_size, len(photos.names))
    return _Beginning(photos, splits, network, preprocessing, None)


def _drawn(settings: Settings, size: int, classes: int) -> ConvNet:
    torch.manual_seed(settings.seed)
    network = create_model(settings.model, weights=None, num_classes=classes)
    if size <= SMALL:
        network.reset_resolution()
    return network


def _splits(photos: Labelled, settings: Settings) -> list[str]:
    splits = assign_splits(
        [fact.sha256 for fact in photos.facts],
        [photo.label for photo in photos.photos],
        [photo.split for photo in photos.photos],
        alike=photos.alike,
        seed=settings.seed,
    )
    if "val" not in splits:
        raise TrainError(
            f"{photos.dataset.name} has too few photos to hold some out that choose the best epoch ({len(splits)} in "
            "all). Add photos, or use --method probe."
        )
    return splits


def _places(splits: list[str], name: str) -> Labels:
    return np.array([i for i, split in enumerate(splits) if split == name], np.int64)


def _first_score(
    settings: Settings, folder: Path, alone: World, tell: Progress, beginning: _Beginning
) -> tuple[float, float]:
    """Accuracy and loss on the photos that choose, before the first step.

    As each epoch is judged: by the network that is trained, on pixels of the size that it is trained at. The probe's
    own features come from pixels of the size of its weights, of which a smaller network may be far from.
    """
    if settings.method == "scratch":
        return -1.0, float("inf")
    trainer, _ = _trainer(replace(settings, compile=False), folder, alone, tell, beginning)
    return score(trainer.logits(trainer.val, "choosing"), trainer.val.labels)


# --- training and after ----------------------------------------------------------------------------------------------


def _trainer(
    settings: Settings, folder: Path, world: World, tell: Progress, beginning: _Beginning | None = None
) -> tuple[Trainer, tuple[str, ...]]:
    """The trainer of a prepared run, and the names of its classes."""
    table = read_table(folder)
    names = beginning.photos.names if beginning is not None else tuple(_start(folder)["classes"])
    if "train" not in table or "val" not in table:
        raise TrainError(f"{folder / DATA} names no photos to train or to choose with. Start a new run.")
    if beginning is not None:
        network, preprocessing = beginning.network, beginning.preprocessing
    elif settings.method == "scratch":
        preprocessing = get_model_weights(settings.model)["DEFAULT"].preprocessing
        network = _drawn(settings, settings.image_size or preprocessing.crop_size, len(names))
    else:
        preprocessing = read_card(exported(settings.model, settings.weights_from_here)).preprocessing
        # Its weights come from the checkpoint.
        network = create_model(settings.model, weights=settings.weights_from_here, num_classes=len(names))
    preprocessing = view_of(settings, preprocessing, settings.image_size)
    train, val = (_part(table[name], names) for name in ("train", "val"))
    return Trainer(settings, network, preprocessing, train, val, folder, world, tell), names


def _start(folder: Path) -> dict[str, Any]:
    found = read_json(folder / START)
    if found is None:
        raise TrainError(f"{folder / START} is missing or damaged, so the run cannot go on. Start a new one.")
    return found


def _part(found: tuple[list[Path], list[str]], names: tuple[str, ...]) -> Part:
    number = {name: index for index, name in enumerate(names)}
    paths, labels = found
    return Part(paths, np.array([number[label] for label in labels], np.int64))


def _outcome(
    settings: Settings,
    folder: Path,
    trainer: Trainer,
    names: tuple[str, ...],
    position: Position,
    start: dict[str, Any],
    what: str,
    val_logits: Floats,
    held_part: Part,
    held_logits: Floats,
) -> Outcome:
    labels = trainer.val.labels
    pictures = start.get("pictures", {})  # a run that began before they were noted has none

    def pictures_of(part: Part) -> Labels | None:
        found = pictures.get("val" if part is trainer.val else "test")
        return None if found is None else np.array(found, np.int64)

    calibration = Calibration.fit(val_logits, labels, settings.precision, pictures=pictures_of(trainer.val))

    def refitted(places: Labels) -> Callable[[Labels], Floats]:
        temperature = fit_temperature(val_logits[places], labels[places])
        return lambda others: softmax(val_logits[others] / temperature)

    fit = refitted if held_part is trainer.val else None  # else no photo that is measured calibrates
    held = judge(
        what, held_part.photos(names), held_part.labels, held_logits, calibration, names,
        pictures=pictures_of(held_part), fit=fit,
    )  # fmt: skip
    # What was left of an epoch where a run ended as it went on has neither loss nor rate.
    records = [record for record in read_log(folder) if {"val_accuracy", "loss"} <= record.keys()]
    figures: dict[str, Any] = {
        "train_photos": len(trainer.train.labels),
        "steps": position.step,
        "best_step": position.best_step,
        "epochs": position.step / trainer.steps,
        "images_per_second": [round(record["images_per_second"], 2) for record in records],
    }
    notes = [*start["notes"], *leak_notes(start.get("leaked", {}), held)]
    if held_part is trainer.val:
        notes.append(
            "The photos that were measured also chose the epoch, so accuracy looks better than it is. Give test photos "
            "of their own for a figure to rely on."
        )
    if changed := _changed(folder, trainer.tell):
        notes.append(
            f"While the run went on, {_such_as(changed)}: what was learned of them may be of either content. "
            f"{DATA} has the SHA-256 that the run began with."
        )
    if start["probe"] is not None:
        notes.append(
            _beside_probe(
                start["probe"],
                held_logits.argmax(1) == held_part.labels,
                position,
                trainer.preprocessing.crop_size,
            )
        )
        figures["probe_top1"] = start["probe"]["top1"]
    network = trainer.network.cpu().to(memory_format=torch.contiguous_format).eval()
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    body = None if settings.method == "scratch" else read_card(exported(settings.model, settings.weights_from_here))
    source = body.weights.name if body is not None and body.weights is not None else "random weights"
    verb = "fine-tuned" if settings.method == "finetune" else "trained"
    return Outcome(
        network=network,
        names=names,
        preprocessing=trainer.preprocessing,
        origin=WeightSource(f"{source}, {verb} on {settings.data}", digest.hexdigest(), None),
        licence=body.licence if body is not None else None,
        held=held,
        calibration=calibration,
        found=start.get("found"),  # a run that an earlier version began has it as part of a page
        curves=_curves(records, start["range"]),
        notes=notes,
        figures=figures,
    )


def _curves(records: Sequence[dict[str, Any]], tried: Sequence[tuple[float, float]]) -> list[Curve]:
    found = [
        Curve(
            "Training loss",
            "The mean of each epoch, with augmentation and regularisation.",
            "epoch",
            [record["loss"] for record in records],
        ),
        Curve(
            "Validation accuracy",
            "On the photos that choose the epoch whose weights are kept: those of the highest point.",
            "epoch",
            [record["val_accuracy"] for record in records],
            share=True,
        ),
        Curve("Learning rate", "At the end of each epoch.", "epoch", [record["lr"] for record in records]),
    ]
    if not records:
        found = []
    if tried:
        what = "The loss at rising rates: the rate was chosen where it falls, well before it rises again."
        found.append(Curve("Learning-rate range test: loss", what, "step", [loss for _, loss in tried]))
    return found


def _beside_probe(probe: dict[str, Any], right: Any, position: Position, size: int) -> str:
    """Whether it was worth it, on the same photos, each network at its own size of pixels."""
    before = np.array(probe["right"], bool)
    won, lost = int((right & ~before).sum()), int((before & ~right).sum())
    gain = float(right.mean()) - probe["top1"]
    verdict = "beats" if gain > 0 else "does not beat"
    of_probe = probe.get("size", size)
    sizes = "" if of_probe == size else f" The probe sees {of_probe} pixels of each, the trained network {size}."
    text = (
        f"Fine-tuning {verdict} the probe that it started from: {percent(float(right.mean()))} against "
        f"{percent(probe['top1'])} of the same {probe['n']:,} photos ({won} became right, {lost} wrong).{sizes}"
    )
    if position.best_step == 0:
        what = "the probe" if of_probe == size else f"the probe's head on a network that sees {size} pixels"
        text += f" No epoch was better on the photos that choose, so the classifier is {what}."
    return text
