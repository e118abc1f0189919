"""A softmax classifier on features: one convex problem, solved to convergence.

The loss is the mean cross-entropy plus `strength / 2` times the squared weights; features are centred and scaled so
that their mean length is 1, which makes a strength mean the same for every network.

A step of L-BFGS costs 8·N·D·K operations (two matrix products forth and back): 2.4 GFLOPs for 4,600 photos, 1,280
features and 101 classes, 25 ms on two cores. From nothing it takes about 80 steps, from a neighbouring strength half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ._calibrate import cross_entropy, fit_temperature
from ._measure import Floats, Labels

STRENGTHS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7)
_STEPS = 300
# Single precision cannot tell smaller changes of the loss apart.
_LEAST_CHANGE = 1e-6


@dataclass(frozen=True)
class Head:
    """logits = features @ weight + bias."""

    weight: Floats  # (D, K)
    bias: Floats  # (K,)

    def logits(self, features: Floats) -> Floats:
        """(N, D) → (N, K)."""
        found: Floats = features @ self.weight + self.bias
        return found


class Solver:
    """Fits heads to some photos' features, one strength after the other."""

    def __init__(self, features: Floats, labels: Labels, classes: int) -> None:
        values = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        self._mean = values.mean(0)
        values = values - self._mean
        self._scale = float(values.norm(dim=1).mean()) or 1.0
        self._features = values / self._scale
        self._labels = torch.from_numpy(labels)
        self._weight = torch.zeros(values.shape[1], classes, requires_grad=True)
        self._bias = torch.zeros(classes, requires_grad=True)

    def fit(self, strength: float) -> Head:
        """The best head for a strength, starting from the one before."""
        optimiser = torch.optim.LBFGS(
            [self._weight, self._bias],
            max_iter=_STEPS,
            max_eval=2 * _STEPS,
            history_size=10,
            tolerance_grad=1e-5,
            tolerance_change=_LEAST_CHANGE,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            logits = torch.addmm(self._bias, self._features, self._weight)
            value = F.cross_entropy(logits, self._labels) + strength / 2 * self._weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        weight = self._weight.detach() / self._scale
        bias = self._bias.detach() - self._mean @ weight
        return Head(weight.numpy().copy(), bias.numpy().copy())


@dataclass(frozen=True)
class Trial:
    """How well a strength did on photos that the head had not seen."""

    strength: float
    loss: float  # mean negative logarithm of the true class's probability, at the best temperature
    accuracy: float


def choose_strength(
    train: tuple[Floats, Labels], val: tuple[Floats, Labels], classes: int
) -> tuple[float, Head, list[Trial]]:
    """From the middle of `STRENGTHS` to where the photos that choose say that it gets worse.

    They are asked after calibration: the plain loss would punish a strong head for its modesty, which one number cures.

    Returns:
        The strength, its head fitted to `train`, and all trials in the order of their strengths.
    """
    solver = Solver(*train, classes)
    trials: dict[int, Trial] = {}
    heads: dict[int, Head] = {}

    def loss(place: int) -> float:
        if not 0 <= place < len(STRENGTHS):
            return float("inf")
        if place not in trials:
            heads[place] = solver.fit(STRENGTHS[place])
            logits = heads[place].logits(val[0])
            trials[place] = Trial(
                STRENGTHS[place],
                cross_entropy(logits / fit_temperature(logits, val[1]), val[1]),
                float((logits.argmax(1) == val[1]).mean()),
            )
        return trials[place].loss

    best = len(STRENGTHS) // 2
    direction = 1 if loss(best + 1) < loss(best) else -1
    while loss(best + direction) < loss(best):
        best += direction
    return STRENGTHS[best], heads[best], [trials[place] for place in sorted(trials)]


def cross_validated(
    features: Floats,
    labels: Labels,
    folds: Labels,
    classes: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Floats, float, list[Trial]]:
    """Predict each photo by a head that has not seen it.

    The strength is chosen by the largest fold alone, so that its choice costs one fit more instead of one for each.

    Returns:
        Logits (N, K), the strength, and the trials that chose it.
    """
    numbers, sizes = np.unique(folds, return_counts=True)
    order = numbers[np.argsort(-sizes, kind="stable")]
    logits = np.zeros((len(labels), classes), np.float32)
    strength = 0.0
    trials: list[Trial] = []
    for done, fold in enumerate(order):
        out = folds == fold
        train = features[~out], labels[~out]
        if done == 0:
            strength, head, trials = choose_strength(train, (features[out], labels[out]), classes)
        else:
            head = Solver(*train, classes).fit(strength)
        logits[out] = head.logits(features[out])
        tell(done + 1, len(order))
    return logits, strength, trials
