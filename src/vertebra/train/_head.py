"""A linear classifier on features: a softmax fitted to convergence, helped by a discriminant analysis.

The softmax is one convex problem: the mean cross-entropy plus `strength / 2` times the squared weights. Features are
centred and scaled so that their mean length is 1, which makes a strength mean the same for every network.

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
_LEAST_CHANGE = 3e-6


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


def discriminant(features: Floats, labels: Labels, classes: int) -> Head:
    """Linear discriminant analysis with a common covariance, as much of it diagonal as not: one linear system."""
    values, numbers = torch.from_numpy(np.asarray(features, np.float32)), torch.from_numpy(labels)
    counts = torch.bincount(numbers, minlength=classes).float()
    means = torch.zeros(classes, values.shape[1]).index_add_(0, numbers, values) / counts.clamp(min=1)[:, None]
    rest = values - means[numbers]
    covariance = rest.T @ rest / len(values)
    covariance.diagonal().add_(float(covariance.diagonal().mean()) + 1e-6)
    weight = torch.linalg.solve(covariance, means.T)
    # A class without photos is never the answer.
    bias = torch.log(counts.clamp(min=1e-6)) - (means * weight.T).sum(1) / 2
    return Head(weight.numpy(), bias.numpy())


# Shares of the discriminant in the sum of both. On Caltech-101, of which five parts were held out in turn, a third
# makes 94.35 % right into 94.7 %, and the loss 0.187 into 0.178: the two are wrong in different places.
SHARES = (0.0, 0.15, 0.3, 0.5)


@dataclass(frozen=True)
class Recipe:
    """How the final head is made."""

    strength: float
    softmax_factor: float
    discriminant_factor: float

    def fit(self, features: Floats, labels: Labels, classes: int) -> Head:
        """Both heads on all photos, added up."""
        one = Solver(features, labels, classes).fit(self.strength)
        if not self.discriminant_factor:
            return Head(self.softmax_factor * one.weight, self.softmax_factor * one.bias)
        other = discriminant(features, labels, classes)
        return Head(
            self.softmax_factor * one.weight + self.discriminant_factor * other.weight,
            self.softmax_factor * one.bias + self.discriminant_factor * other.bias,
        )


def cross_validated(
    features: Floats,
    labels: Labels,
    folds: Labels,
    classes: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Floats, Recipe, list[Trial]]:
    """Predict each photo by heads that have not seen it.

    The strength is chosen by the largest fold alone, so that its choice costs a few fits and not that for each.

    Returns:
        Logits (N, K), the recipe, and the trials that chose its strength.
    """
    numbers, sizes = np.unique(folds, return_counts=True)
    order = numbers[np.argsort(-sizes, kind="stable")]
    softmax_logits, other_logits = (np.zeros((len(labels), classes), np.float32) for _ in range(2))
    # A covariance of more features than photos is a guess.
    shares = SHARES if len(features) > features.shape[1] else SHARES[:1]
    strength = 0.0
    trials: list[Trial] = []
    for done, fold in enumerate(order):
        out = folds == fold
        train = features[~out], labels[~out]
        if done == 0:
            strength, head, trials = choose_strength(train, (features[out], labels[out]), classes)
        else:
            head = Solver(*train, classes).fit(strength)
        softmax_logits[out] = head.logits(features[out])
        if len(shares) > 1:
            other_logits[out] = discriminant(*train, classes).logits(features[out])
        tell(done + 1, len(order))
    # The discriminant is far too sure of itself; each is brought to its own temperature before they are added.
    one = 1 / fit_temperature(softmax_logits, labels)
    other = 1 / fit_temperature(other_logits, labels) if len(shares) > 1 else 0.0
    best_loss, best_logits, recipe = float("inf"), softmax_logits, Recipe(strength, one, 0.0)
    for share in shares:
        logits = (1 - share) * one * softmax_logits + share * other * other_logits
        loss = cross_entropy(logits / fit_temperature(logits, labels), labels)
        if loss < best_loss:
            best_loss, best_logits = loss, logits
            recipe = Recipe(strength, (1 - share) * one, share * other)
    return best_logits, recipe, trials
