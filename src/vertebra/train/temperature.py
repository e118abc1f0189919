"""Temperature scaling (Guo et al. 2017): logits are divided by one number, so that confidence is calibrated.

It is fitted to held-out photos. If all of a few photos are classified correctly, the likelihood has no maximum: it
rises until every probability is 1. So log T has a normal prior centred at T = 1, and T is the maximum a posteriori
estimate. `bench/small.py` compares widths of the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .metrics import Floats, Labels

# Bounds of T, reached only with too few photos.
_RANGE = (0.05, 20.0)
_MAX_STEPS = 60


@dataclass(frozen=True)
class Prior:
    """Standard deviations of normal priors, in natural logarithms; infinity: no prior.

    T < 1 (sharper) takes more evidence than T > 1: overconfidence costs more than underconfidence, and a few easy
    photos always favour it.
    """

    sharper: float = 0.25  # of log T below 0
    flatter: float = 1.0  # of log T above 0
    strength: float = 2.0  # of the log regularisation strength, around the middle of those tried

    def cost(self, log_temperature: float) -> float:
        """Return the negative log density, up to a constant."""
        return log_temperature**2 / (2 * self._deviation(log_temperature) ** 2)

    def slope(self, log_temperature: float) -> float:
        """Return the derivative of `cost`."""
        return log_temperature / self._deviation(log_temperature) ** 2

    def curvature(self, log_temperature: float) -> float:
        """Return the second derivative of `cost`."""
        return 1 / self._deviation(log_temperature) ** 2

    def _deviation(self, log_temperature: float) -> float:
        return self.sharper if log_temperature < 0 else self.flatter


PRIOR = Prior()
NO_PRIOR = Prior(math.inf, math.inf, math.inf)


def softmax(logits: Floats) -> Floats:
    """Return probabilities (N, K), in double precision."""
    exponential = np.exp(_shift_logits(logits))
    probabilities: Floats = exponential / exponential.sum(axis=1, keepdims=True)
    return probabilities


def fit_temperature(logits: Floats, labels: Labels, prior: Prior = PRIOR) -> float:
    """Fit the temperature to logits (N, K) and labels (N,) by maximum a posteriori; 1 without photos.

    Newton's method on log(1 / T), within bounds that each step narrows; about six steps.
    """
    if not len(labels):
        return 1.0
    centred = _shift_logits(logits)
    own = centred[np.arange(len(labels)), labels].mean()
    low, high = -math.log(_RANGE[1]), -math.log(_RANGE[0])
    log_inverse = 0.0
    for _ in range(_MAX_STEPS):
        inverse = math.exp(log_inverse)
        weights = np.exp(inverse * centred)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * centred).sum(axis=1)
        slope = inverse * (mean.mean() - own)
        curvature = inverse**2 * ((weights * centred**2).sum(axis=1) - mean**2).mean() + slope
        slope -= prior.slope(-log_inverse) / len(labels)
        curvature += prior.curvature(-log_inverse) / len(labels)
        low, high = (low, log_inverse) if slope > 0 else (log_inverse, high)
        following = log_inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        step, log_inverse = following - log_inverse, following
        if abs(step) < 1e-6:
            break
    return math.exp(-log_inverse)


def cross_entropy(logits: Floats, labels: Labels) -> float:
    """Return the mean cross-entropy."""
    centred = _shift_logits(logits)
    own = centred[np.arange(len(labels)), labels]
    return float((np.log(np.exp(centred).sum(axis=1)) - own).mean())


def _shift_logits(logits: Floats) -> Floats:
    found: Floats = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return found


def posterior_loss(logits: Floats, labels: Labels, prior: Prior = PRIOR) -> tuple[float, float]:
    """Return the temperature, and its negative log posterior per photo: cross-entropy plus prior."""
    temperature = fit_temperature(logits, labels, prior)
    return temperature, cross_entropy(logits / temperature, labels) + prior.cost(math.log(temperature)) / len(labels)
