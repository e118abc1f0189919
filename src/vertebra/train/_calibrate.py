"""What makes a classifier's confidence mean something: one temperature, and a threshold below which it is unsure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._measure import Floats, Labels

# A temperature beyond these says that there was too little to fit it on.
_RANGE = (0.05, 20.0)
_MOST_STEPS = 50


def softmax(logits: Floats) -> Floats:
    """(N, K) → probabilities, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    probabilities: Floats = exponential / exponential.sum(axis=1, keepdims=True)
    return probabilities


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """What the logits must be divided by for the likeliest labels (Guo et al. 2017); it changes no ranking.

    Newton's method on the inverse of the temperature, in which the cross-entropy is convex; it takes about six passes.
    """
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    own = centred[np.arange(len(labels)), labels].mean()
    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    inverse = 1.0
    for _ in range(_MOST_STEPS):
        weights = np.exp(inverse * centred)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * centred).sum(axis=1)
        slope = mean.mean() - own
        curvature = ((weights * centred**2).sum(axis=1) - mean**2).mean()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        step, inverse = following - inverse, following
        if abs(step) < 1e-6 * inverse:
            break
    return 1 / inverse


def cross_entropy(logits: Floats, labels: Labels) -> float:
    """Mean negative logarithm of the true class's probability."""
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    own = centred[np.arange(len(labels)), labels]
    return float((np.log(np.exp(centred).sum(axis=1)) - own).mean())


@dataclass(frozen=True)
class Rejection:
    """What it takes to be right as often as wanted."""

    precision: float  # wanted share of right answers among the answers
    threshold: float | None  # least probability of an answer; None: cannot be reached
    coverage: float  # share of photos that are answered


def rejection(probabilities: Floats, labels: Labels, precision: float) -> Rejection:
    """The lowest threshold whose answers are right as often as wanted, and what share of photos it answers."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    found = np.cumsum(right) / np.arange(1, len(right) + 1)
    # Photos of the same confidence are answered or refused together.
    last = np.append(np.diff(confidence[order]) < 0, True)
    enough = np.nonzero((found >= precision) & last)[0]
    if not len(enough):
        return Rejection(precision, None, 0.0)
    at = int(enough[-1])
    if at == len(right) - 1:
        return Rejection(precision, 0.0, 1.0)
    # Between the last that is answered and the first that is not, so that rounding decides nothing.
    threshold = float(confidence[order[at]] + confidence[order[at + 1]]) / 2
    return Rejection(precision, threshold, (at + 1) / len(right))
