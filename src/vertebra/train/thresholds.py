"""Confidence thresholds, below which an answer is "unsure", fitted to held-out photos for a target precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vertebra.intervals import Interval, wilson

from .metrics import Floats, Labels


@dataclass(frozen=True)
class Threshold:
    """A confidence threshold for a target precision."""

    target: float  # precision
    value: float | None  # minimum confidence of an answer; None: every photo is answered
    estimate: float | None  # expected precision; None: no photos to estimate it from
    reached: bool  # whether the estimate is at least the target; if not, `value` has the highest estimate
    # Correct answers and all answers that the estimate is computed from.
    counts: tuple[float, float] | None = field(default=None, compare=False)

    def answers(self, confidence: Floats) -> NDArray[np.bool_]:
        """Return which photos are answered, (N,), from their top-1 probabilities (N,)."""
        return confidence >= (self.value or 0.0)


def fit_threshold(probabilities: Floats, labels: Labels, target: float, weights: Floats | None = None) -> Threshold:
    """Fit the lowest threshold whose expected precision reaches the target, or the one with the highest.

    With k of n answers correct, the expected precision is (k + 1) / (n + 2) (Laplace's rule of succession), so that a
    precision of 99 % takes at least 98 photos. The threshold is never far below the lowest confidence that was
    measured. With a target of 0 every photo is answered. `weights` (N,) are from `picture_weights`; None: all are 1.
    """
    if target <= 0:
        return Threshold(target, None, None, True)
    if not len(labels):
        return Threshold(target, None, None, False)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    counts = (np.ones(len(labels)) if weights is None else weights)[order]
    hits, answers = np.cumsum(right * counts), np.cumsum(counts)
    expected = (hits + 1) / (answers + 2)
    # Photos with equal confidence are answered or rejected together.
    last = np.append(np.diff(confidence[order]) < 0, True)
    enough = np.nonzero((expected >= target) & last)[0]
    if len(enough):
        at = int(enough[-1])
    else:
        allowed = np.where(last, expected, -1.0)
        at = int(np.nonzero(allowed == allowed.max())[0][-1])
    lowest = float(confidence[order[at]])
    # Midway between the last answered photo and the first rejected one, so that rounding errors do not matter.
    below = float(confidence[order[at + 1]]) if at + 1 < len(right) else lowest * (1 - 1e-5)
    return Threshold(
        target, (lowest + below) / 2, float(expected[at]), bool(len(enough)), (float(hits[at]), float(answers[at]))
    )


@dataclass(frozen=True)
class Rejection:
    """Coverage and precision of a threshold on photos that it was not fitted to."""

    target: float  # precision
    threshold: float | None  # minimum confidence of an answer; None: every photo is answered
    reached: bool  # whether the threshold's estimate is at least the target
    estimate: float | None  # expected precision, by which the threshold was chosen
    coverage: float | None  # share of photos answered; None: not measured
    precision: float | None  # of the answers; None: nothing was answered, or not measured
    precision_interval: Interval | None
    counts: tuple[float, float] | None = field(default=None, compare=False)  # as `Threshold` has them

    def __str__(self) -> str:
        """Return whether the target is reached in one line, such as "target precision 0.99 not reached: 0.93"."""
        if self.target <= 0:
            return "no target precision"
        what = f"target precision {self.target:g}"
        if self.reached:
            return f"{what} reached"
        if self.estimate is None:
            return f"{what} not measured"
        return f"{what} not reached: {self._rounded_down(self.estimate)}"

    @property
    def why(self) -> str | None:
        """Why the target is not reached: the estimate, which differs from `precision`. None if it is reached."""
        if self.reached or self.estimate is None or self.counts is None:
            return None
        right, answers = (f"{count:,.1f}".removesuffix(".0") for count in self.counts)
        return f"{self._rounded_down(self.estimate)} is expected of the next answer, from {right} right of {answers}"

    def _rounded_down(self, estimate: float) -> str:
        # Rounded down, so that a missed target is never shown as reached.
        digits = 2 if math.floor(estimate * 100) / 100 < self.target else 4
        return f"{math.floor(estimate * 10**digits) / 10**digits:g}"


def measure_rejection(
    threshold: Threshold, answered: NDArray[np.bool_], right: NDArray[np.bool_], weights: Floats | None = None
) -> Rejection:
    """Compute coverage and precision of a threshold.

    `answered` (N,) is from thresholds that were not fitted to the photo itself, `right` (N,) whether its top-1 class
    is correct, `weights` (N,) from `picture_weights`; None: all are 1.
    """
    count, hits = int(answered.sum()), int((answered & right).sum())
    pictures = count if weights is None else float(weights[answered].sum())
    return Rejection(
        target=threshold.target,
        threshold=threshold.value,
        reached=threshold.reached,
        estimate=threshold.estimate,
        coverage=count / len(right) if len(right) else None,
        precision=hits / count if count else None,
        precision_interval=wilson(hits / count * pictures, pictures) if count else None,
        counts=threshold.counts,
    )


# Fits a calibration to photos, given by their indices, and returns a function: indices -> calibrated probabilities.
Fit = Callable[[Labels], Callable[[Labels], Floats]]


def cross_fit(
    fit: Fit, labels: Labels, parts: Labels, targets: Sequence[float], weights: Floats | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Predict each photo with a temperature and thresholds that were fitted to the other parts.

    Fitted to the same photos, calibration and precision would look better than they are.

    `parts` (N,) is the part of each photo; `weights` (N,) are from `picture_weights`, None: all are 1. Returns
    probabilities (N, K), and which photos are answered for each target, (N, targets).
    """
    weights = np.ones(len(labels)) if weights is None else weights
    probabilities: list[Floats] = []
    answered = np.zeros((len(labels), len(targets)), bool)
    indices: list[Labels] = []
    for part in np.unique(parts):
        own, others = np.nonzero(parts == part)[0], np.nonzero(parts != part)[0]
        apply = fit(others)
        fitted, found = apply(others), apply(own)
        for column, target in enumerate(targets):
            threshold = fit_threshold(fitted, labels[others], target, weights[others])
            answered[own, column] = threshold.answers(found.max(axis=1))
        probabilities.append(found)
        indices.append(own)
    return np.concatenate(probabilities)[np.argsort(np.concatenate(indices))], answered
