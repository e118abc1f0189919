"""How good predictions are, with the uncertainty of the answer: numbers from probabilities and labels alone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.intervals import Interval, Z, wilson

Floats: TypeAlias = NDArray[np.floating[Any]]
Labels: TypeAlias = NDArray[np.int64]

ECE_BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class ClassMetrics:
    """Of one class; None without photos of it, and a precision also where nothing was predicted as it."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    photos: int


@dataclass(frozen=True)
class Metrics:
    """All values are fractions from 0 to 1; intervals hold the true value with 95 % probability.

    None is what cannot be measured: all of it without photos, the best five of five classes or fewer, and the
    calibration of so few photos that each could have a bin of its own.
    """

    n: int  # photos
    pictures: int  # different ones among them; intervals count photos of the same picture as one
    top1: float | None
    top1_interval: Interval | None
    top5: float | None
    top5_interval: Interval | None
    balanced_accuracy: float | None  # mean recall of the classes that have photos
    balanced_accuracy_interval: Interval | None
    ece: float | None  # expected calibration error
    nll: float | None  # mean negative logarithm of the true class's probability
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted] -> photos

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def most_confused(self, most: int = 10) -> list[tuple[str, str, int]]:
        """(true, predicted, photos) of the most frequent mistakes."""
        found = [
            (self.classes[true].name, self.classes[predicted].name, count)
            for true, row in enumerate(self.confusion)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ]
        return sorted(found, key=lambda entry: (-entry[2], entry[:2]))[:most]


def weights_of(pictures: Labels) -> Floats:
    """What each photo counts for, so that photos of the same picture count as one together; 1 of those alone.

    Args:
        pictures: (N,), equal numbers for photos that show the same picture.
    """
    _, place, counts = np.unique(pictures, return_inverse=True, return_counts=True)
    weights: Floats = 1.0 / counts[place]
    return weights


def compute_metrics(
    probabilities: Floats, labels: Labels, names: tuple[str, ...], weights: Floats | None = None
) -> Metrics:
    """Judge predictions.

    Args:
        probabilities: (N, K).
        labels: (N,), the true classes.
        names: of the K classes.
        weights: (N,), from `weights_of`. None: no two photos show the same picture.
    """
    n, count = probabilities.shape
    weights = np.ones(n) if weights is None else weights
    if not n:
        unknown = tuple(ClassMetrics(name, None, None, None, 0) for name in names)
        return Metrics(0, 0, *(None,) * 8, classes=unknown, confusion=((0,) * count,) * count)
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    right = int((predicted == labels).sum())
    own = probabilities[np.arange(n), labels]
    # How many classes were taken for likelier than the true one; of equals the first counts as likelier, as in argmax.
    earlier = np.arange(count)[None] < labels[:, None]
    better = ((probabilities > own[:, None]) | ((probabilities == own[:, None]) & earlier)).sum(axis=1)
    among_five = int((better < 5).sum())
    per_class = _per_class(confusion, names)
    pictures = float(weights.sum())
    share = pictures / n
    balanced, balanced_interval = _balanced(confusion, np.bincount(labels, weights, minlength=count))
    return Metrics(
        n=n,
        pictures=round(pictures),
        top1=right / n,
        top1_interval=wilson(right * share, pictures),
        top5=among_five / n if count > 5 else None,
        top5_interval=wilson(among_five * share, pictures) if count > 5 else None,
        balanced_accuracy=balanced,
        balanced_accuracy_interval=balanced_interval,
        ece=expected_calibration_error(probabilities, labels),
        nll=float(-np.log(np.maximum(own, 1e-12)).mean()),
        classes=per_class,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _per_class(confusion: NDArray[np.int64], names: tuple[str, ...]) -> tuple[ClassMetrics, ...]:
    found = []
    for index, name in enumerate(names):
        hits, guesses, photos = (
            int(confusion[index, index]),
            int(confusion[:, index].sum()),
            int(confusion[index].sum()),
        )
        precision = hits / guesses if guesses and photos else None
        recall = hits / photos if photos else None
        f1 = 2 * hits / (guesses + photos) if photos else None
        found.append(ClassMetrics(name, precision, recall, f1, photos))
    return tuple(found)


def _balanced(confusion: NDArray[np.int64], pictures: NDArray[Any]) -> tuple[float, Interval]:
    photos = confusion.sum(axis=1)
    there = photos > 0
    recalls, counts = np.diagonal(confusion)[there] / photos[there], pictures[there]
    balanced = float(recalls.mean())
    # Each class's recall is a share of its own photos; one more right and one more wrong keep a class of a few photos,
    # all of them right, from counting as certain (Agresti and Coull 1998).
    smoothed = (recalls * counts + 1) / (counts + 2)
    spread = Z * math.sqrt(float((smoothed * (1 - smoothed) / (counts + 2)).sum())) / len(recalls)
    return balanced, (max(0.0, balanced - spread), min(1.0, balanced + spread))


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence."""

    confidence: float
    accuracy: float
    photos: int


def calibration_curve(probabilities: Floats, labels: Labels, bins: int = ECE_BINS) -> list[Bin]:
    """Confidence against accuracy, in bins of equal width; empty ones are left out."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(float(confidence[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(bins)
        if (place == b).any()
    ]


def expected_calibration_error(probabilities: Floats, labels: Labels, bins: int = ECE_BINS) -> float | None:
    """Mean gap between confidence and accuracy (ECE, Naeini et al. 2015); None of fewer photos than bins.

    A bin of one photo has an accuracy of 0 or 1 whatever the classifier's confidence is worth.
    """
    if len(labels) < bins:
        return None
    found = calibration_curve(probabilities, labels, bins)
    return sum(b.photos * abs(b.confidence - b.accuracy) for b in found) / len(labels)
