"""The confidence below which an answer is "unsure": for a target precision, fitted to held-out photos."""

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
    """A confidence below which the answer is "unsure", for a target precision."""

    target: float  # precision
    value: float | None  # least confidence of an answer; None: always answers
    estimate: float | None  # precision to expect; None: there was nothing to estimate it from
    reached: bool  # the estimate is at least the target; else `value` is that of the best estimate
    # Right ones and all of the answers that the estimate is from; it says the same.
    counts: tuple[float, float] | None = field(default=None, compare=False)

    def answers(self, confidence: Floats) -> NDArray[np.bool_]:
        """Which photos are answered, by their best probabilities (N,)."""
        return confidence >= (self.value or 0.0)


def fit_threshold(probabilities: Floats, labels: Labels, target: float, weights: Floats | None = None) -> Threshold:
    """The lowest threshold that is expected to reach the target precision; else that of the highest precision.

    Of n answers k right, (k + 1) / (n + 2) is expected of the next (Laplace's rule of succession): of a few photos all
    right does not show a precision of 99 %, which takes 98. Nothing is answered that is less sure than any photo that
    was measured, of which nothing is known. A target of 0 asks for every answer. `weights` (N,) are what each photo
    counts for, as from `weights_of`; None: 1.
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
    # Photos of the same confidence are answered or refused together.
    last = np.append(np.diff(confidence[order]) < 0, True)
    enough = np.nonzero((expected >= target) & last)[0]
    if len(enough):
        at = int(enough[-1])
    else:
        allowed = np.where(last, expected, -1.0)
        at = int(np.nonzero(allowed == allowed.max())[0][-1])
    lowest = float(confidence[order[at]])
    # Between the last that is answered and the first that is not, so that rounding decides nothing.
    below = float(confidence[order[at + 1]]) if at + 1 < len(right) else lowest * (1 - 1e-5)
    return Threshold(
        target, (lowest + below) / 2, float(expected[at]), bool(len(enough)), (float(hits[at]), float(answers[at]))
    )


@dataclass(frozen=True)
class Rejection:
    """A threshold, with its coverage and precision on photos that it was not fitted to."""

    target: float  # precision
    threshold: float | None  # least confidence of an answer; None: always answers
    reached: bool  # the threshold's estimate is at least the target
    estimate: float | None  # what the threshold was chosen by
    coverage: float | None  # share of photos that were answered; None: not measured
    precision: float | None  # of the answers; None: nothing was answered, or not measured
    precision_interval: Interval | None
    counts: tuple[float, float] | None = field(default=None, compare=False)  # as `Threshold` has them

    def __str__(self) -> str:
        """Whether it is reached, in one line for people: `"target precision 0.99 not reached: 0.93"`."""
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
        """Why it is not reached, for people: the estimate is another figure than `precision`; None where it is."""
        if self.reached or self.estimate is None or self.counts is None:
            return None
        right, answers = (f"{count:,.1f}".removesuffix(".0") for count in self.counts)
        return f"{self._rounded_down(self.estimate)} is expected of the next answer, from {right} right of {answers}"

    def _rounded_down(self, estimate: float) -> str:
        # Rounded down, so that it is never shown as what it falls short of.
        digits = 2 if math.floor(estimate * 100) / 100 < self.target else 4
        return f"{math.floor(estimate * 10**digits) / 10**digits:g}"


def rejection(
    threshold: Threshold, answered: NDArray[np.bool_], right: NDArray[np.bool_], weights: Floats | None = None
) -> Rejection:
    """Coverage and precision of a threshold.

    `answered` (N,) says of each photo whether a threshold that was not fitted to it answers it, `right` (N,) whether
    its best class is the true one; `weights` (N,) are from `weights_of`, None where all are 1.
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


# From places of photos to fit to, to what gives the calibrated probabilities of other places.
Fit = Callable[[Labels], Callable[[Labels], Floats]]


def cross_fitted(
    fit: Fit, labels: Labels, parts: Labels, targets: Sequence[float], weights: Floats | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Calibrated predictions of each photo by a temperature and thresholds that were fitted to the other parts.

    Fitted to the same photos, confidence would look better calibrated, and thresholds more precise, than they are.

    `parts` (N,) is the part that each photo is left out with; `weights` (N,) are from `weights_of`, None where all are
    1. Returns probabilities (N, K), and which photos are answered for each target, (N, targets).
    """
    weights = np.ones(len(labels)) if weights is None else weights
    probabilities: list[Floats] = []
    answered = np.zeros((len(labels), len(targets)), bool)
    places: list[Labels] = []
    for part in np.unique(parts):
        own, others = np.nonzero(parts == part)[0], np.nonzero(parts != part)[0]
        apply = fit(others)
        fitted, found = apply(others), apply(own)
        for column, target in enumerate(targets):
            threshold = fit_threshold(fitted, labels[others], target, weights[others])
            answered[own, column] = threshold.answers(found.max(axis=1))
        probabilities.append(found)
        places.append(own)
    return np.concatenate(probabilities)[np.argsort(np.concatenate(places))], answered
