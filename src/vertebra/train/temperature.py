"""Temperature scaling (Guo et al. 2017): one number that the logits are divided by, so that confidence is calibrated.

It is fitted to held-out photos. Of a few photos that are all classified rightly the likelihood has no optimum: the
sharper, the better, until every answer has a probability of 1. A prior on the logarithm of the temperature stands for
the rest of the evidence: a normal density centred at T = 1, the head as it was fitted, against which N photos weigh in
with N times their mean log-likelihood (maximum a posteriori). `bench/small.py` compares its widths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .metrics import Floats, Labels

# A temperature beyond these says that there was too little to fit it on.
_RANGE = (0.05, 20.0)
_MOST_STEPS = 60


@dataclass(frozen=True)
class Prior:
    """Standard deviations of normal densities, in natural logarithms; infinity is no prior.

    To be sharper than the head as it was fitted takes more evidence than to be flatter: too much confidence costs more
    than too little, and of few photos the likelihood asks for it whenever they are easy.
    """

    sharper: float = 0.25  # of log T below 0
    flatter: float = 1.0  # of log T above 0
    strength: float = 2.0  # of the logarithm of the head's regularisation, about the middle of those that are tried

    def cost(self, log_temperature: float) -> float:
        """The negative logarithm of the density, but for a constant."""
        return log_temperature**2 / (2 * self._deviation(log_temperature) ** 2)

    def slope(self, log_temperature: float) -> float:
        """The derivative of `cost`."""
        return log_temperature / self._deviation(log_temperature) ** 2

    def curvature(self, log_temperature: float) -> float:
        """The second derivative of `cost`."""
        return 1 / self._deviation(log_temperature) ** 2

    def _deviation(self, log_temperature: float) -> float:
        return self.sharper if log_temperature < 0 else self.flatter


PRIOR = Prior()
NO_PRIOR = Prior(math.inf, math.inf, math.inf)


def softmax(logits: Floats) -> Floats:
    """(N, K) → probabilities, in double precision."""
    exponential = np.exp(_below_zero(logits))
    probabilities: Floats = exponential / exponential.sum(axis=1, keepdims=True)
    return probabilities


def fit_temperature(logits: Floats, labels: Labels, prior: Prior = PRIOR) -> float:
    """What the logits are divided by for the best posterior (Guo et al. 2017, with a prior); it changes no ranking.

    Newton's method on the logarithm of the inverse temperature, between bounds that each step narrows; it takes about
    six passes. Without photos it is 1.
    """
    if not len(labels):
        return 1.0
    centred = _below_zero(logits)
    own = centred[np.arange(len(labels)), labels].mean()
    low, high = -math.log(_RANGE[1]), -math.log(_RANGE[0])
    place = 0.0
    for _ in range(_MOST_STEPS):
        inverse = math.exp(place)
        weights = np.exp(inverse * centred)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * centred).sum(axis=1)
        slope = inverse * (mean.mean() - own)
        curvature = inverse**2 * ((weights * centred**2).sum(axis=1) - mean**2).mean() + slope
        slope -= prior.slope(-place) / len(labels)
        curvature += prior.curvature(-place) / len(labels)
        low, high = (low, place) if slope > 0 else (place, high)
        following = place - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        step, place = following - place, following
        if abs(step) < 1e-6:
            break
    return math.exp(-place)


def cross_entropy(logits: Floats, labels: Labels) -> float:
    """Mean negative logarithm of the true class's probability."""
    centred = _below_zero(logits)
    own = centred[np.arange(len(labels)), labels]
    return float((np.log(np.exp(centred).sum(axis=1)) - own).mean())


def _below_zero(logits: Floats) -> Floats:
    found: Floats = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return found


def posterior_loss(logits: Floats, labels: Labels, prior: Prior = PRIOR) -> tuple[float, float]:
    """The temperature, and the negative logarithm of its posterior for each photo: cross-entropy and prior."""
    temperature = fit_temperature(logits, labels, prior)
    return temperature, cross_entropy(logits / temperature, labels) + prior.cost(math.log(temperature)) / len(labels)
