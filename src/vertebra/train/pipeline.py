"""The steps of a run, prepare → fit → evaluate → export → report: of a probe, and of a whole network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra.card import read_card
from vertebra.errors import UsageError
from vertebra.loading import cached_export
from vertebra.progress import Progress
from vertebra.report import percent

from .batch_limits import check_settings
from .changed_photos import changed_photos
from .data_notes import data_notes
from .distributed import Distributed
from .evaluate_run import evaluate_probe, evaluate_training
from .evaluation import EvaluatedPredictions, RunEvaluation
from .export import FittedNetwork, export_run, weight_source
from .fit import Trainer
from .leakage import find_leaks, leak_notes
from .prepare import PreparedProbe, Timer, prepare_probe, preprocessing_of
from .prepare_training import prepare_training, trainer_of_run
from .prepared_training import PreparedTraining
from .probe import Probe, fit_probe, with_head
from .report import RunResult, write_metrics, write_report
from .report_page import Curve
from .run_checkpoint import TrainingState, read_state
from .run_folder import (
    CHECKPOINT,
    DATA,
    SETTINGS,
    TrainError,
    data_table,
    remove_progress,
    resume_command,
    table_digest,
    write_text,
)
from .train_settings import FIXED, Settings
from .training_log import read_log

# --- a probe ----------------------------------------------------------------------------------------------------------


def run_probe(settings: Settings, folder: Path, tell: Progress) -> None:
    """All steps of the method "probe"; a run that was stopped finds its features in the cache.

    Raises:
        DataError, TrainError, ExportError: as the steps do.
    """
    timer = Timer()
    prepared = prepare_probe(settings, timer, tell)
    with timer.step("fitting the head"):
        probe = fit_probe(prepared, tell)
    with timer.step("measuring"):
        evaluation = evaluate_probe(prepared, probe, settings.precision)
    fitted, notes = _network_of_probe(settings, prepared, probe)
    photos = prepared.photos
    write_text(folder / DATA, data_table(photos.photos, photos.facts, prepared.splits))
    result = RunResult(
        evaluation=evaluation,
        found=prepared.findings,
        trials=probe.out_of_fold.trials,
        notes=[*notes, *_notes_of_probe(settings, prepared, evaluation)],
        figures={"strength": probe.recipe.strength, "computed": prepared.computed},
    )
    _export_and_report(settings, folder, fitted, result, timer, tell)


def _network_of_probe(settings: Settings, prepared: PreparedProbe, probe: Probe) -> tuple[FittedNetwork, list[str]]:
    network, notes = with_head(prepared.body, settings.weights_from_here, probe.head)
    card = prepared.card
    pretrained_digest = (card.weights.sha256 or "") if card.weights else ""
    parts = (pretrained_digest.encode(), probe.head.weight.tobytes(), probe.head.bias.tobytes())
    return FittedNetwork(
        network=network,
        names=prepared.photos.names,
        preprocessing=preprocessing_of(settings, card.preprocessing),
        weights=weight_source(card, f"its head trained on {settings.data}", parts),
        licence=card.licence,
        body=prepared.body,
    ), notes


def _notes_of_probe(settings: Settings, prepared: PreparedProbe, evaluation: RunEvaluation) -> list[str]:
    photos, held_out = prepared.photos, evaluation.held_out
    notes = data_notes(photos, held_out.photos, settings, evaluation.unmeasured)
    if prepared.held_split is not None:
        leaks = find_leaks(photos, prepared.splits, prepared.held_split)
        notes += leak_notes(leaks, held_out, photos.dataset.shown)
    validation = sum(photo.split == "val" for photo in photos.photos)
    if prepared.held_split == "test" and validation:
        notes.append(
            f"The {validation:,} val photos train too: the probe chooses by cross-validation, and only the test photos "
            "are held out."
        )
    return notes


# --- a whole network --------------------------------------------------------------------------------------------------


def run_training(settings: Settings, folder: Path, distributed: Distributed, tell: Progress) -> None:
    """All steps of the methods "finetune" and "scratch", from wherever the run is.

    Raises:
        Stopped, TrainError: as `Trainer.fit` does.
        UsageError, DataError, ExportError: as the other steps do.
    """
    with distributed.raise_together():
        check_settings(settings, distributed.size)
        if distributed.is_first:
            if (folder / CHECKPOINT).exists():
                _refuse_changed_photos(folder, tell)
            else:
                prepare_training(settings, folder, distributed, tell)
    # What preparing has found (learning rate, image size) is in the run's own settings.
    settings = Settings.from_toml(folder / SETTINGS)
    _refuse_changed_settings(settings, folder)
    start = PreparedTraining.read(folder)
    timer = Timer(dict(start.seconds))
    with distributed.raise_together():
        trainer, names = trainer_of_run(settings, folder, distributed, tell)
    with timer.step("training"):
        state = trainer.fit()
    timer.seconds["training"] = round(state.seconds - sum(start.seconds.values()), 2)
    with timer.step("measuring"):
        evaluation = evaluate_training(settings, folder, trainer, names, start)
    with distributed.raise_together():
        if distributed.is_first:
            result = _result_of_training(folder, trainer, state, start, evaluation)
            fitted = _network_of_training(settings, trainer, names)
            _export_and_report(settings, folder, fitted, result, timer, tell)
            remove_progress(folder)


def _refuse_changed_settings(settings: Settings, folder: Path) -> None:
    """Refuse to go on with settings that cannot change in the middle of a run.

    Raises:
        UsageError: names those that have changed, and what they were.
    """

    def plain(value: Any) -> Any:  # a checkpoint has lists where settings have tuples
        return list(value) if isinstance(value, tuple) else value

    # What was not known yet when the run began had its default value.
    before = asdict(Settings(data=settings.data)) | read_state(folder).settings
    if changed := [name for name in FIXED if plain(before[name]) != plain(getattr(settings, name))]:
        raise UsageError(
            f"{folder / SETTINGS} has another {' and '.join(changed)} than the run began with: "
            f"{', '.join(f'{name} was {before[name]!r}' for name in changed)}. Put it back, or start a new run."
        )


def _refuse_changed_photos(folder: Path, tell: Progress) -> None:
    """Refuse to learn from other photos than the run began with.

    Raises:
        TrainError: the content of some has changed, which are named; or the table has changed.
    """
    start = PreparedTraining.read(folder)
    if start.table not in (None, table_digest(folder)):
        raise TrainError(
            f"{folder / DATA} has other photos, labels or splits than the run began with. Put it back, or start a new "
            "run."
        )
    if changed := changed_photos(folder, start.states, tell):
        raise TrainError(
            f"{_named(changed)} since the run began, and a run goes on with what it began with. Put back what was "
            f"there (its SHA-256 is in {folder / DATA}) and run: {resume_command(folder)}. Or start a new run."
        )


def _named(changed: Sequence[Path], most: int = 3) -> str:
    """That photos have been changed, with the names of the first."""
    names = ", ".join(str(path) for path in changed[:most]) + (", …" if len(changed) > most else "")
    if len(changed) == 1:
        return f"a photo has been changed ({names})"
    return f"{len(changed):,} photos have been changed ({names})"


def _network_of_training(settings: Settings, trainer: Trainer, names: tuple[str, ...]) -> FittedNetwork:
    network = trainer.network.cpu().to(memory_format=torch.contiguous_format).eval()
    is_finetuned = settings.method == "finetune"
    card = read_card(cached_export(settings.model, settings.weights_from_here)) if is_finetuned else None
    parts = (tensor.contiguous().numpy().tobytes() for tensor in network.state_dict().values())
    verb = "fine-tuned" if is_finetuned else "trained"
    return FittedNetwork(
        network=network,
        names=names,
        preprocessing=trainer.preprocessing,
        weights=weight_source(card, f"{verb} on {settings.data}", parts),
        licence=card.licence if card is not None else None,
    )


def _result_of_training(
    folder: Path, trainer: Trainer, state: TrainingState, start: PreparedTraining, evaluation: RunEvaluation
) -> RunResult:
    # What was left of an epoch where a run ended as it went on has neither loss nor rate.
    records = [record for record in read_log(folder) if {"val_accuracy", "loss"} <= record.keys()]
    figures: dict[str, Any] = {
        "train_photos": len(trainer.train.labels),
        "steps": state.step,
        "best_step": state.best_step,
        "epochs": state.step / trainer.epoch_steps,
        "images_per_second": [round(record["images_per_second"], 2) for record in records],
    }
    held_out = evaluation.held_out
    notes = [*start.notes, *leak_notes(start.leaked, held_out)]
    if held_out.description != "the test photos":
        notes.append(
            "The photos that were measured also chose the epoch, so accuracy looks better than it is. Give test photos "
            "of their own for a figure to rely on."
        )
    if changed := changed_photos(folder, start.states, trainer.tell):
        notes.append(
            f"While the run went on, {_named(changed)}: what was learned of them may be of either content. "
            f"{DATA} has the SHA-256 that the run began with."
        )
    if start.probe is not None:
        notes.append(_beside_probe(start.probe, held_out, state, trainer.preprocessing.crop_size))
        figures["probe_top1"] = start.probe["top1"]
    return RunResult(
        evaluation=evaluation,
        found=start.found,
        curves=_curves(records, start.range),
        notes=notes,
        figures=figures,
    )


def _curves(records: Sequence[dict[str, Any]], tried: Sequence[tuple[float, float]]) -> list[Curve]:
    found = []
    if records:
        found = [
            Curve(
                "Training loss",
                "The mean of each epoch, with augmentation and regularisation.",
                "epoch",
                [record["loss"] for record in records],
            ),
            Curve(
                "Validation accuracy",
                "The weights of the epoch with the highest validation accuracy are kept.",
                "epoch",
                [record["val_accuracy"] for record in records],
                share=True,
            ),
            Curve("Learning rate", "At the end of each epoch.", "epoch", [record["lr"] for record in records]),
        ]
    if tried:
        what = "The loss at rising learning rates: one is chosen where the loss falls, well before it rises again."
        found.append(Curve("Learning-rate range test: loss", what, "step", [loss for _, loss in tried]))
    return found


def _beside_probe(probe: dict[str, Any], held_out: EvaluatedPredictions, state: TrainingState, size: int) -> str:
    """Whether fine-tuning was better, on the same photos, each network with its own input size."""
    correct = held_out.logits.argmax(1) == held_out.labels
    before = np.array(probe["right"], bool)
    won, lost = int((correct & ~before).sum()), int((before & ~correct).sum())
    gain = float(correct.mean()) - probe["top1"]
    verdict = "beats" if gain > 0 else "does not beat"
    of_probe = probe.get("size", size)
    sizes = "" if of_probe == size else f" The input of the probe is {of_probe} pixels, of the trained network {size}."
    text = (
        f"Fine-tuning {verdict} the probe that it started from: {percent(float(correct.mean()))} against "
        f"{percent(probe['top1'])} of the same {probe['n']:,} photos ({won} became right, {lost} wrong).{sizes}"
    )
    if state.best_step == 0:
        what = "the probe" if of_probe == size else f"the probe's head on a network whose input is {size} pixels"
        text += f" No epoch had a higher validation accuracy, so the classifier is {what}."
    return text


# --- both -------------------------------------------------------------------------------------------------------------


def _export_and_report(
    settings: Settings, folder: Path, fitted: FittedNetwork, result: RunResult, timer: Timer, tell: Progress
) -> None:
    """Classifier, report, and last the metrics, which say that the run is finished; each durable before the next.

    Raises:
        ExportError, TrainError: a file cannot be written, or does not give what the network gives.
    """
    with timer.step("exporting the classifier"):
        tell("exporting the classifier", 0, 1)
        export_run(settings, folder, fitted, result.evaluation)
    with timer.step("writing the report"):
        write_report(settings, folder, result, timer.seconds)
    write_metrics(folder, result, timer.seconds)
