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
    """Metrics of one class: None if it has no photos; `precision` is None also if it was never predicted."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    photos: int


@dataclass(frozen=True)
class Metrics:
    """Metrics of a set of predictions, as fractions from 0 to 1, with 95 % intervals.

    None stands for what cannot be measured: everything without photos, `top5` with five classes or fewer, and `ece`
    with fewer photos than bins.
    """

    n: int  # photos
    pictures: int  # distinct pictures; intervals count duplicates once
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
        """Return the metrics as JSON values."""
        return asdict(self)

    def most_confused(self, most: int = 10) -> list[tuple[str, str, int]]:
        """Return (true, predicted, photos) of the most frequent confusions."""
        found = [
            (self.classes[true].name, self.classes[predicted].name, count)
            for true, row in enumerate(self.confusion)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ]
        return sorted(found, key=lambda entry: (-entry[2], entry[:2]))[:most]


def picture_weights(pictures: Labels) -> Floats:
    """Return the weight of each photo (N,): duplicates, whose numbers are equal, have a total weight of 1."""
    _, inverse, counts = np.unique(pictures, return_inverse=True, return_counts=True)
    weights: Floats = 1.0 / counts[inverse]
    return weights


def compute_metrics(
    probabilities: Floats, labels: Labels, names: tuple[str, ...], weights: Floats | None = None
) -> Metrics:
    """Compute all metrics from probabilities (N, K), labels (N,) and `picture_weights` (N,); None: all are 1."""
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
    """Return the top-1 accuracy."""
    return int((probabilities.argmax(axis=1) == labels).sum()) / len(labels)


def top_k_accuracy_score(probabilities: Floats, labels: Labels, k: int) -> float | None:
    """Return the top-k accuracy; None with k classes or fewer."""
    n, count = probabilities.shape
    if count <= k:
        return None
    own = probabilities[np.arange(n), labels]
    # Ties are broken in favour of the first class, as in argmax.
    earlier = np.arange(count)[None] < labels[:, None]
    likelier = ((probabilities > own[:, None]) | ((probabilities == own[:, None]) & earlier)).sum(axis=1)
    hits = int((likelier < k).sum())
    return float(hits / n)


def log_loss(probabilities: Floats, labels: Labels) -> float:
    """Return the mean negative log-probability of the true class; probabilities are clipped to at least 1e-12."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def _interval(share: float, n: int, pictures: float) -> Interval:
    """Wilson interval of a share of n photos that show `pictures` distinct pictures."""
    return wilson(round(share * n) * (pictures / n), pictures)


def _class_metrics(name: str, hits: int, predictions: int, photos: int) -> ClassMetrics:
    if not photos:
        return ClassMetrics(name, None, None, None, 0)
    precision = hits / predictions if predictions else None
    return ClassMetrics(name, precision, hits / photos, 2 * hits / (predictions + photos), photos)


def _balanced_accuracy(confusion: NDArray[np.int64], pictures: NDArray[Any]) -> tuple[float, Interval]:
    """Mean recall of the classes with photos, and its interval; `pictures` (K,) are distinct pictures per class."""
    photos = confusion.sum(axis=1)
    has_photos = photos > 0
    recalls, counts = np.diagonal(confusion)[has_photos] / photos[has_photos], pictures[has_photos]
    balanced = float(recalls.mean())
    # One more hit and one more miss in each class keep a class with few photos, all of them hits, from having no
    # variance (Agresti and Coull 1998).
    smoothed = (recalls * counts + 1) / (counts + 2)
    spread = Z * math.sqrt(float((smoothed * (1 - smoothed) / (counts + 2)).sum())) / len(recalls)
    return balanced, (max(0.0, balanced - spread), min(1.0, balanced + spread))


class Bin(NamedTuple):
    """One bin of a calibration curve."""

    confidence: float
    accuracy: float
    photos: int


def calibration_curve(probabilities: Floats, labels: Labels, bins: int = ECE_BINS) -> list[Bin]:
    """Return mean confidence and accuracy in bins of equal width; empty bins are left out."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(float(confidence[bin_of == b].mean()), float(right[bin_of == b].mean()), int((bin_of == b).sum()))
        for b in range(bins)
        if (bin_of == b).any()
    ]


def expected_calibration_error(probabilities: Floats, labels: Labels, bins: int = ECE_BINS) -> float | None:
    """Return the expected calibration error (ECE, Naeini et al. 2015); None with fewer photos than bins.

    A bin of one photo has an accuracy of 0 or 1, however well calibrated the classifier is.
    """
    if len(labels) < bins:
        return None
    found = calibration_curve(probabilities, labels, bins)
    return sum(b.photos * abs(b.confidence - b.accuracy) for b in found) / len(labels)
