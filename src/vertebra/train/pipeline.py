"""The steps of a run, prepare → fit → evaluate → export → report: of a probe, and of a whole network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra.card import read_card
from vertebra.loading import cached_export
from vertebra.progress import Progress
from vertebra.report import Chart, line_chart, percent

from .batch_limits import check_settings
from .data_notes import data_notes
from .distributed import Distributed
from .evaluation import EvaluatedPredictions, evaluate_probe, evaluate_training
from .fit import Trainer
from .leakage import find_leaks, leak_notes
from .machine_checks import require_same_photos
from .prepare import PreparedProbe, Timer, prepare_probe
from .prepare_training import PreparedTraining, build_run_trainer, prepare_training
from .probe import Probe, fit_probe, network_with_head
from .resume_checks import changed_photos, reject_changed_photos, reject_changed_settings
from .run_checkpoint import TrainingState
from .run_folder import CHECKPOINT, DATA, SETTINGS, START, format_data_table, remove_training_state, write_text
from .run_outputs import FittedNetwork, RunResult, weight_source, write_outputs
from .train_settings import Settings
from .training_log import read_log


def run_probe(settings: Settings, folder: Path, progress: Progress) -> None:
    """Run all steps of method "probe"; a stopped run finds its features in the cache."""
    timer = Timer()
    prepared = prepare_probe(settings, timer, progress)
    with timer.step("fitting the head"):
        probe = fit_probe(prepared, progress)
    with timer.step("measuring"):
        held_out = evaluate_probe(prepared, probe, settings.precision)
    fitted, notes = _network_of_probe(settings, prepared, probe)
    photos = prepared.photos
    write_text(folder / DATA, format_data_table(photos.photos, photos.infos, prepared.splits))
    result = RunResult(
        held_out=held_out,
        found=prepared.findings,
        trials=probe.out_of_fold.trials,
        notes=[*notes, *_notes_of_probe(settings, prepared, probe, held_out)],
        figures={"strength": probe.recipe.strength, "computed": prepared.computed},
    )
    write_outputs(settings, folder, fitted, result, timer, progress)


def _network_of_probe(settings: Settings, prepared: PreparedProbe, probe: Probe) -> tuple[FittedNetwork, list[str]]:
    network, notes = network_with_head(prepared.body, settings.resolved_weights, probe.head)
    card = prepared.card
    pretrained_digest = (card.weights.sha256 or "") if card.weights else ""
    parts = (pretrained_digest.encode(), probe.head.weight.tobytes(), probe.head.bias.tobytes())
    return FittedNetwork(
        network=network,
        names=prepared.photos.names,
        preprocessing=prepared.preprocessing,
        weights=weight_source(card, f"its head trained on {settings.data}", parts),
        licence=card.licence,
        body=prepared.body,
    ), notes


def _notes_of_probe(
    settings: Settings, prepared: PreparedProbe, probe: Probe, held_out: EvaluatedPredictions
) -> list[str]:
    photos = prepared.photos
    if prepared.held_split is None:
        unmeasured = prepared.train_indices[~probe.out_of_fold.measurable].tolist()
        return data_notes(photos, held_out.photos, settings, [photos.photos[i] for i in unmeasured])
    notes = data_notes(photos, held_out.photos, settings)
    notes += leak_notes(find_leaks(photos, prepared.splits, prepared.held_split), held_out, photos.dataset.shown)
    validation = sum(photo.split == "val" for photo in photos.photos)
    if prepared.held_split == "test" and validation:
        notes.append(
            f"The {validation:,} val photos train too: the probe chooses by cross-validation, and only the test photos "
            "are held out."
        )
    return notes


def run_training(settings: Settings, folder: Path, distributed: Distributed, progress: Progress) -> None:
    """Run all steps of methods "finetune" and "scratch", or resume them."""
    with distributed.raise_together():
        check_settings(settings, distributed.size, is_new=not (folder / START).exists())
        if distributed.is_first:
            if (folder / CHECKPOINT).exists():
                start = PreparedTraining.read(folder)
                reject_changed_photos(folder, start.table, start.states, progress)
            else:
                prepare_training(settings, folder, distributed, progress)
    # Preparing writes the learning rate, image size and speed that it finds to the run's settings.
    settings = Settings.from_toml(folder / SETTINGS)
    if settings.speed == "auto":  # a run of an earlier version, which goes on as it began
        settings = replace(settings, speed="eager")
    reject_changed_settings(settings, folder)
    start = PreparedTraining.read(folder)
    require_same_photos(folder, start.states, distributed, progress)
    timer = Timer(dict(start.seconds))
    with distributed.raise_together():
        trainer = build_run_trainer(settings, folder, distributed, progress, start.classes)
    with timer.step("training"):
        state = trainer.fit()
    timer.seconds["training"] = round(state.seconds - sum(start.seconds.values()), 2)
    with timer.step("measuring"):
        held_out = evaluate_training(trainer, start)
    with distributed.raise_together():
        if distributed.is_first:
            result = _result_of_training(folder, trainer, state, start, held_out)
            fitted = _network_of_training(settings, trainer, tuple(start.classes))
            write_outputs(settings, folder, fitted, result, timer, progress)
            remove_training_state(folder)


def _network_of_training(settings: Settings, trainer: Trainer, names: tuple[str, ...]) -> FittedNetwork:
    network = trainer.network.cpu().to(memory_format=torch.contiguous_format).eval()
    is_finetuned = settings.method == "finetune"
    card = read_card(cached_export(settings.model, settings.resolved_weights)) if is_finetuned else None
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
    folder: Path, trainer: Trainer, state: TrainingState, start: PreparedTraining, held_out: EvaluatedPredictions
) -> RunResult:
    # The rest of an epoch, where a resumed run ended at once, has neither loss nor learning rate.
    records = [record for record in read_log(folder) if {"val_accuracy", "loss"} <= record.keys()]
    figures: dict[str, Any] = {
        "train_photos": len(trainer.train.labels),
        "steps": state.step,
        "best_step": state.best_step,
        "epochs": state.step / trainer.epoch_steps,
        "images_per_second": [round(record["images_per_second"], 2) for record in records],
    }
    notes = [*start.notes, *leak_notes(start.leaked, held_out)]
    if trainer.test is None:
        notes.append(
            "The photos that were measured also chose the epoch, so accuracy looks better than it is. Give test photos "
            "of their own for a figure to rely on."
        )
    if changed := changed_photos(folder, start.states, trainer.progress):
        notes.append(
            f"During the run, {changed}: the network may have been trained on either content. "
            f"{DATA} has the SHA-256 from the start of the run."
        )
    if start.probe is not None:
        notes.append(_compare_with_probe(start.probe, held_out, state, trainer.preprocessing.crop_size))
        figures["probe_top1"] = start.probe["top1"]
    return RunResult(
        held_out=held_out, found=start.found, curves=_curves(records, start.range), notes=notes, figures=figures
    )


def _curves(records: Sequence[dict[str, Any]], tried: Sequence[tuple[float, float]]) -> list[Chart]:
    found = []
    if len(records) > 1:
        found = [
            line_chart(
                "Training loss",
                "epoch",
                [record["loss"] for record in records],
                "The mean of each epoch, with augmentation and regularisation.",
            ),
            line_chart(
                "Validation accuracy",
                "epoch",
                [record["val_accuracy"] for record in records],
                "The weights of the epoch with the highest validation accuracy are kept.",
                share=True,
            ),
            line_chart("Learning rate", "epoch", [record["lr"] for record in records], "At the end of each epoch."),
        ]
    if len(tried) > 1:
        what = "The loss at rising learning rates: one is chosen where the loss falls, well before it rises again."
        found.append(line_chart("Learning-rate range test: loss", "step", [loss for _, loss in tried], what))
    return found


def _compare_with_probe(probe: dict[str, Any], held_out: EvaluatedPredictions, state: TrainingState, size: int) -> str:
    """Return a note that compares the network with its probe, on the same photos, each at its own input size."""
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
