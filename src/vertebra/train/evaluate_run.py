"""The step `evaluate` of a run: the fitted probe or network → its predictions of held-out photos, and their metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .evaluation import Calibration, RunEvaluation, evaluate_predictions
from .fit import Trainer
from .metrics import Floats, Labels
from .prepare import PreparedProbe
from .prepared_training import PreparedTraining
from .probe import Probe
from .run_folder import TrainError, read_table
from .temperature import fit_temperature, softmax
from .train_settings import Settings
from .validation import Split


def evaluate_probe(prepared: PreparedProbe, probe: Probe, precision: float) -> RunEvaluation:
    """By the test photos of the data set, or of its validation photos, or else by cross-validation.

    The temperature and the thresholds are fitted to out-of-fold predictions. Where these are measured themselves, each
    fold is measured with what was fitted to the others.
    """
    photos, own = prepared.photos, probe.measurable
    pool = prepared.train_indices
    calibration = Calibration.fit(
        probe.logits(own),
        photos.labels[pool][own],
        precision,
        probe.temperature,
        photos.pictures[pool][own],
    )
    if prepared.held_split is not None:
        held = prepared.held_indices
        held_out = evaluate_predictions(
            f"the {prepared.held_split} photos",
            [photos.photos[i] for i in held.tolist()],
            photos.labels[held],
            probe.head.logits(prepared.features[held]),
            calibration,
            photos.names,
            pictures=photos.pictures[held],
        )
        return RunEvaluation(held_out, calibration.temperature)
    held = pool[own]
    held_out = evaluate_predictions(
        f"out-of-fold predictions of {len(set(prepared.folds.tolist()))}-fold cross-validation",
        [photos.photos[i] for i in held.tolist()],
        photos.labels[held],
        probe.logits(own),
        calibration,
        photos.names,
        pictures=photos.pictures[held],
        fit=probe.refitted,
        parts=prepared.folds[own],
    )
    unmeasured = np.setdiff1d(np.arange(len(pool)), own)
    return RunEvaluation(held_out, calibration.temperature, tuple(photos.photos[i] for i in pool[unmeasured].tolist()))


def evaluate_training(
    settings: Settings, folder: Path, trainer: Trainer, names: tuple[str, ...], start: PreparedTraining
) -> RunEvaluation:
    """By the test photos of the run, or else by its validation set; every process must call it.

    Raises:
        TrainError: the outputs are NaN or infinite, or a photo cannot be read.
    """
    test = read_table(folder).get("test")
    val_logits, val_labels = trainer.logits(trainer.val, "measuring"), trainer.val.labels
    split = Split.numbered(*test, names) if test else trainer.val
    logits = trainer.logits(split, "measuring") if test else val_logits
    if not np.isfinite(logits).all():
        raise TrainError(
            "the network's outputs on held-out photos are NaN or infinite, so nothing can be said of it, and it is "
            f"not exported. Train again with a smaller learning rate, such as --lr {float(settings.lr) / 5:.2g}"
        )

    def refitted(places: Labels) -> Callable[[Labels], Floats]:
        temperature = fit_temperature(val_logits[places], val_labels[places])
        return lambda others: softmax(val_logits[others] / temperature)

    calibration = Calibration.fit(val_logits, val_labels, settings.precision, pictures=start.pictures_of("val"))
    held_out = evaluate_predictions(
        "the test photos" if test else "the validation photos, which chose the epoch, as there are no test photos",
        split.photos(names),
        split.labels,
        logits,
        calibration,
        names,
        pictures=start.pictures_of("test" if test else "val"),
        fit=None if test else refitted,  # test photos calibrate nothing
    )
    return RunEvaluation(held_out, calibration.temperature)
