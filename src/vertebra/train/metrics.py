"""Metrics of predictions with their 95 % intervals, from probabilities and labels alone; named as in scikit-learn."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

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
    nll: float | None  # log loss
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
    """(N,) equal numbers for photos that show the same picture → what each counts for: together they count as one."""
    _, place, counts = np.unique(pictures, return_inverse=True, return_counts=True)
    weights: Floats = 1.0 / counts[place]
    return weights


def compute_metrics(
    probabilities: Floats, labels: Labels, names: tuple[str, ...], weights: Floats | None = None
) -> Metrics:
    """From probabilities (N, K) and true classes (N,); `weights` (N,) are from `weights_of`, None where all are 1."""
    n, count = probabilities.shape
    weights = np.ones(n) if weights is None else weights
    if not n:
        unknown = tuple(ClassMetrics(name, None, None, None, 0) for name in names)
        return Metrics(0, 0, *(None,) * 8, classes=unknown, confusion=((0,) * count,) * count)
    confusion = confusion_matrix(probabilities, labels)
    top1, top5 = accuracy_score(probabilities, labels), top_k_accuracy_score(probabilities, labels, 5)
    pictures = float(weights.sum())
    balanced, balanced_interval = _balanced_accuracy(confusion, np.bincount(labels, weights, minlength=count))
    sums = np.diagonal(confusion).tolist(), confusion.sum(axis=0).tolist(), confusion.sum(axis=1).tolist()
    return Metrics(
        n=n,
        pictures=round(pictures),
        top1=top1,
        top1_interval=_interval(top1, n, pictures),
        top5=top5,
        top5_interval=None if top5 is None else _interval(top5, n, pictures),
        balanced_accuracy=balanced,
        balanced_accuracy_interval=balanced_interval,
        ece=expected_calibration_error(probabilities, labels),
        nll=log_loss(probabilities, labels),
        classes=tuple(map(_class_metrics, names, *sums)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def confusion_matrix(probabilities: Floats, labels: Labels) -> NDArray[np.int64]:
    """(N, K) and (N,) → (K, K) photos, [true][predicted]."""
    confusion = np.zeros((probabilities.shape[1],) * 2, np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    return confusion


def accuracy_score(probabilities: Floats, labels: Labels) -> float:
    """Share of the photos whose most probable class is the true one."""
    return int((probabilities.argmax(axis=1) == labels).sum()) / len(labels)


def top_k_accuracy_score(probabilities: Floats, labels: Labels, k: int) -> float | None:
    """Share of the photos whose true class is among the k most probable; None of k classes or fewer."""
    n, count = probabilities.shape
    if count <= k:
        return None
    own = probabilities[np.arange(n), labels]
    # Of equal probabilities the first class counts as likelier, as in argmax.
    earlier = np.arange(count)[None] < labels[:, None]
    likelier = ((probabilities > own[:, None]) | ((probabilities == own[:, None]) & earlier)).sum(axis=1)
    hits = int((likelier < k).sum())
    return float(hits / n)


def log_loss(probabilities: Floats, labels: Labels) -> float:
    """Mean negative logarithm of the true class's probability, which counts as 1e-12 at least."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def _interval(share: float, n: int, pictures: float) -> Interval:
    """Of a share of n photos, that show fewer pictures."""
    return wilson(round(share * n) * (pictures / n), pictures)


def _class_metrics(name: str, hits: int, predictions: int, photos: int) -> ClassMetrics:
    if not photos:
        return ClassMetrics(name, None, None, None, 0)
    precision = hits / predictions if predictions else None
    return ClassMetrics(name, precision, hits / photos, 2 * hits / (predictions + photos), photos)


def _balanced_accuracy(confusion: NDArray[np.int64], pictures: NDArray[Any]) -> tuple[float, Interval]:
    """Mean recall of the classes that have photos, of which they show so many pictures (K,), with its interval."""
    photos = confusion.sum(axis=1)
    has_photos = photos > 0
    recalls, counts = np.diagonal(confusion)[has_photos] / photos[has_photos], pictures[has_photos]
    balanced = float(recalls.mean())
    # Each class's recall is a share of its own photos; one more hit and one more miss keep a class of a few photos,
    # all of them hits, from counting as certain (Agresti and Coull 1998).
    smoothed = (recalls * counts + 1) / (counts + 2)
    spread = Z * math.sqrt(float((smoothed * (1 - smoothed) / (counts + 2)).sum())) / len(recalls)
    return balanced, (max(0.0, balanced - spread), min(1.0, balanced + spread))


class Bin(NamedTuple):
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
