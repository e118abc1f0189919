"""The step after fitting: metrics, calibration and thresholds of predictions of held-out photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vertebra.data import Photo

from .metrics import Floats, Labels, Metrics, compute_metrics, expected_calibration_error, weights_of
from .temperature import fit_temperature, softmax
from .thresholds import Fit, Rejection, Threshold, cross_fitted, fit_threshold, rejection


@dataclass(frozen=True)
class EvaluatedPredictions:
    """Predictions of photos that were not trained on, and their metrics."""

    description: str  # how the photos were held out, for people
    photos: tuple[Photo, ...]
    labels: Labels
    logits: Floats  # (N, K), before calibration
    probabilities: Floats  # (N, K), calibrated by what was not fitted to these photos
    metrics: Metrics  # of the probabilities
    ece_before: float | None
    rejections: tuple[Rejection, ...]  # one for each of `PRECISIONS`, and the last for the target precision of the run
    weights: Floats  # (N,), what each photo counts for: those of the same picture together as one

    @property
    def measures(self) -> Metrics:
        """The name of `metrics` in version 0.1."""
        return self.metrics


@dataclass(frozen=True)
class RunEvaluation:
    """What the step `evaluate` of a run gives to `export` and `report`."""

    held_out: EvaluatedPredictions
    temperature: float  # that is exported
    unmeasured: tuple[Photo, ...] = ()  # held out, and in no metric


PRECISIONS = (0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the thresholds of some target precisions."""

    temperature: float
    thresholds: tuple[Threshold, ...]  # for `PRECISIONS`, and the last for the target precision of the run

    @staticmethod
    def fit(
        logits: Floats,
        labels: Labels,
        precision: float,
        temperature: float | None = None,
        pictures: Labels | None = None,
    ) -> Calibration:
        """From held-out photos, (N, K) and (N,); the temperature too, where none is given.

        Photos of equal numbers in `pictures` (N,) show the same picture.
        """
        weights = None if pictures is None else weights_of(pictures)
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
    """All metrics of predictions of held-out photos.

    Args:
        description: how the photos were held out, for people.
        photos: N of them.
        labels: (N,).
        logits: (N, K), before calibration.
        calibration: that is exported.
        names: of the K classes.
        pictures: (N,), equal numbers for photos that show the same picture. None: no two do.
        fit: where the calibration was fitted to these very photos, what fits another one to some of them; each part is
            then measured by what was fitted to the others.
        parts: (N,), with `fit`; None: every fifth picture is a part.
    """
    targets = [threshold.target for threshold in calibration.thresholds]
    pictures = np.arange(len(labels)) if pictures is None else np.unique(pictures, return_inverse=True)[1]
    weights = weights_of(pictures)
    parts = pictures % min(5, max(1, len(labels))) if parts is None else parts
    if fit is not None and len(labels):
        probabilities, answered = cross_fitted(fit, labels, parts, targets, weights)
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
            rejection(threshold, answered[:, column], right, weights)
            for column, threshold in enumerate(calibration.thresholds)
        ),
        weights=weights,
    )
