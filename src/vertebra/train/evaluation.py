"""Evaluate a run: metrics, calibration and thresholds from predictions of held-out photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vertebra.data import Photo

from .metrics import Floats, Labels, Metrics, compute_metrics, expected_calibration_error, picture_weights
from .prepare import PreparedProbe, split_indices
from .run_folder import TrainError
from .temperature import fit_temperature, softmax
from .thresholds import Fit, Rejection, Threshold, cross_fit, fit_threshold, measure_rejection

if TYPE_CHECKING:
    from .fit import Trainer
    from .prepare_training import PreparedTraining
    from .probe import Probe

PRECISIONS = (0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class EvaluatedPredictions:
    """Predictions of held-out photos, and their metrics."""

    description: str  # how the photos were held out
    photos: tuple[Photo, ...]
    labels: Labels
    logits: Floats  # (N, K), before calibration
    probabilities: Floats  # (N, K), calibrated with parameters that were not fitted to the photo itself
    metrics: Metrics  # of the probabilities
    ece_before: float | None
    rejections: tuple[Rejection, ...]  # for `PRECISIONS`, and last for the target precision of the run
    weights: Floats  # (N,), from `picture_weights`
    temperature: float  # of the exported classifier

    @property
    def measures(self) -> Metrics:
        """Alias of `metrics`, its name in version 0.1."""
        return self.metrics


@dataclass(frozen=True)
class Calibration:
    """A temperature, and thresholds for several target precisions."""

    temperature: float
    thresholds: tuple[Threshold, ...]  # for `PRECISIONS`, and last for the target precision of the run

    @staticmethod
    def fit(
        logits: Floats,
        labels: Labels,
        precision: float,
        temperature: float | None = None,
        pictures: Labels | None = None,
    ) -> Calibration:
        """Fit to held-out logits (N, K) and labels (N,); the temperature is fitted unless given.

        Duplicates have equal numbers in `pictures` (N,).
        """
        weights = None if pictures is None else picture_weights(pictures)
        own = fit_temperature(logits, labels) if temperature is None else temperature
        probabilities = softmax(logits / own)
        return Calibration(
            own, tuple(fit_threshold(probabilities, labels, value, weights) for value in (*PRECISIONS, precision))
        )


def evaluate_predictions(
    description: str,
    photos: Sequence[Photo],
    labels: Labels,
    logits: Floats,
    calibration: Calibration,
    names: Sequence[str],
    *,
    pictures: Labels | None = None,
    fit: Fit | None = None,
    parts: Labels | None = None,
) -> EvaluatedPredictions:
    """Compute all metrics of held-out photos from their uncalibrated logits (N, K).

    Duplicates have equal numbers in `pictures` (N,); None: there are none. If `calibration` was fitted to these photos,
    `fit` refits it: each of the `parts` (N,) is measured with a calibration that was fitted to the others. None: five
    parts.
    """
    targets = [threshold.target for threshold in calibration.thresholds]
    pictures = np.arange(len(labels)) if pictures is None else np.unique(pictures, return_inverse=True)[1]
    weights = picture_weights(pictures)
    parts = pictures % min(5, max(1, len(labels))) if parts is None else parts
    if fit is not None and len(labels):
        probabilities, answered = cross_fit(fit, labels, parts, targets, weights)
    else:
        probabilities = softmax(logits / calibration.temperature)
        confidence = probabilities.max(axis=1)
        answered = np.stack([threshold.answers(confidence) for threshold in calibration.thresholds], axis=1)
    right = probabilities.argmax(axis=1) == labels
    return EvaluatedPredictions(
        description=description,
        photos=tuple(photos),
        labels=labels,
        logits=logits,
        probabilities=probabilities,
        metrics=compute_metrics(probabilities, labels, tuple(names), weights),
        ece_before=expected_calibration_error(softmax(logits), labels),
        rejections=tuple(
            measure_rejection(threshold, answered[:, column], right, weights)
            for column, threshold in enumerate(calibration.thresholds)
        ),
        weights=weights,
        temperature=calibration.temperature,
    )


def evaluate_probe(prepared: PreparedProbe, probe: Probe, precision: float) -> EvaluatedPredictions:
    """Evaluate a probe on the test photos, else on the validation photos, else by cross-validation.

    Temperature and thresholds are fitted to out-of-fold predictions. In cross-validation, each fold is measured with
    those that were fitted to the other folds.
    """
    photos, measurable = prepared.photos, probe.measurable
    out_of_fold = prepared.train_indices[measurable]
    logits = probe.logits(measurable)
    labels, pictures = photos.labels[out_of_fold], photos.pictures[out_of_fold]
    calibration = Calibration.fit(logits, labels, precision, probe.temperature, pictures)
    held, description = out_of_fold, f"out-of-fold predictions of {len(set(prepared.folds))}-fold cross-validation"
    if prepared.held_split is not None:
        held, description = split_indices(prepared.splits, prepared.held_split), f"the {prepared.held_split} photos"
        logits = probe.head.logits(prepared.features[held])
    return evaluate_predictions(
        description,
        [photos.photos[i] for i in held.tolist()],
        photos.labels[held],
        logits,
        calibration,
        photos.names,
        pictures=photos.pictures[held],
        fit=probe.refit if prepared.held_split is None else None,
        parts=prepared.folds[measurable],
    )


def evaluate_training(trainer: Trainer, start: PreparedTraining) -> EvaluatedPredictions:
    """Evaluate a network on the test photos, else on the validation set; every process must call it."""
    settings, val, test = trainer.settings, trainer.val, trainer.test
    val_logits = trainer.logits(val, "measuring")
    if test is None:
        split, logits = val, val_logits
        description = "the validation photos, which chose the epoch, as there are no test photos"
    else:
        split, logits = test, trainer.logits(test, "measuring")
        description = "the test photos"
    if not np.isfinite(logits).all():
        raise TrainError(
            "the network's outputs on held-out photos are NaN or infinite, so it cannot be evaluated and is "
            f"not exported. Train again with a smaller learning rate, such as --lr {float(settings.lr) / 5:.2g}"
        )

    def refit(indices: Labels) -> Callable[[Labels], Floats]:
        temperature = fit_temperature(val_logits[indices], val.labels[indices])
        return lambda others: softmax(val_logits[others] / temperature)

    return evaluate_predictions(
        description,
        split.photos(start.classes),
        split.labels,
        logits,
        Calibration.fit(val_logits, val.labels, settings.precision, pictures=start.picture_ids("val")),
        start.classes,
        pictures=start.picture_ids("val" if test is None else "test"),
        fit=refit if test is None else None,  # nothing is calibrated on test photos
    )
