"""Comparison of an int8 file with the float one: accuracy on labelled photos, agreement on others."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vertebra.errors import UsageError
from vertebra.intervals import Interval, Z, paired, wilson
from vertebra.pixels import Pixels
from vertebra.units import counted

from .onnx_model import Array

MIN_PHOTOS = 20
_MAX_RANGE_PHOTOS = 128  # photos for ranges and rounding; more change little
_MAX_LAYER_PHOTOS = 64  # photos that say which layers go back to float; all others judge
_MAX_NEEDED = 1_000_000  # photos; more are not asked for


@dataclass(frozen=True)
class Calibration:
    """Photos for quantisation: pixels (N, H, W, 3) at the card's size, and the correct classes of each.

    `labels` is None if unknown. A photo can have several correct classes: ImageNet has two classes named "crane".
    """

    images: Pixels
    labels: Sequence[frozenset[int]] | None = None

    def split(self) -> tuple[Pixels, Calibration, Calibration]:
        """Split into three disjoint parts: for ranges and rounding, for choosing layers, and for the final comparison.

        Each part is spread evenly over the photos of each label, or over all photos in order without labels.

        Raises:
            UsageError: there are too few photos.
        """
        count = len(self.images)
        check_count(count)
        order = list(range(count))
        if self.labels is not None:
            by_label = [sorted(right) for right in self.labels]
            order.sort(key=lambda i: by_label[i])
        sizes = split_sizes(count)
        parts: tuple[list[int], ...] = ([], [], [])
        for done, i in enumerate(order, 1):
            # The part that is furthest behind its share of the photos so far.
            behind = [size * done / count - len(part) for size, part in zip(sizes, parts, strict=True)]
            parts[behind.index(max(behind))].append(i)
        ranges, choosing, judging = (sorted(part) for part in parts)
        return self.images[ranges], self._part(choosing), self._part(judging)

    def _part(self, chosen: list[int]) -> Calibration:
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        return Calibration(self.images[chosen], labels)


def split_sizes(count: int) -> tuple[int, int, int]:
    """Split `count` photos into the numbers for ranges, for choosing layers and for the comparison."""
    ranges, choosing = min(_MAX_RANGE_PHOTOS, count // 2), min(_MAX_LAYER_PHOTOS, count // 4)
    return ranges, choosing, count - ranges - choosing


def min_folder_size(judged: int) -> int:
    """Return the fewest photos of which at least `judged` are for the comparison."""
    return next(count for count in range(judged, 4 * judged + MIN_PHOTOS) if split_sizes(count)[2] >= judged)


def check_count(photos: int) -> None:
    """Raise a `UsageError` if there are too few photos to quantise."""
    if photos < MIN_PHOTOS:
        raise UsageError(
            f"{counted(photos, 'photo')} {'is' if photos == 1 else 'are'} too few to quantise by: "
            f"at least {MIN_PHOTOS} are needed, and 100 or more of the "
            "kind that the network will get are better. Add photos to the calibration folder."
        )


@dataclass(frozen=True)
class Verdict:
    """Accuracy of int8 beside float on photos that were not used to quantise."""

    photos: int
    measure: str  # "accuracy" or "agreement"
    float_score: float  # %; 100 where the measure is agreement with float
    int8_score: float  # %
    agreed: int  # photos with the same class from both
    lost: int  # photos that only float classifies correctly; without labels, all that differ
    gained: int  # photos that only int8 classifies correctly; without labels 0
    expected_drop: float  # points of accuracy lost if the float probabilities are calibrated
    expected_error: float  # its standard error, points
    divergence: float  # mean KL divergence of the probabilities, nats

    @property
    def agreement(self) -> float:
        """Share of photos with the same class from float and int8, %."""
        return 100 * self.agreed / self.photos

    @property
    def agreement_interval(self) -> Interval:
        """Its 95 % confidence interval, %."""
        low, high = wilson(self.agreed, self.photos)
        return 100 * low, 100 * high

    @property
    def drop(self) -> float:
        """Points of accuracy lost; without labels, the expected loss."""
        return self.float_score - self.int8_score if self.measure == "accuracy" else self.expected_drop

    @property
    def drop_interval(self) -> Interval:
        """The 95 % confidence interval of the accuracy lost, points.

        Without labels, the upper end is that of the share of photos that differ: no more can be lost.
        """
        low, high = paired(self.lost, self.gained, self.photos)
        if self.measure == "agreement":
            low = (self.expected_drop - Z * self.expected_error) / 100
        return 100 * low, 100 * high

    def allows(self, max_drop: float) -> bool:
        """Whether at most `max_drop` points are lost on these photos, without a claim about others.

        If the loss is at most one photo, the expected loss decides.
        """
        return self.drop <= max_drop + 1e-9 or (
            self.drop <= 100 / self.photos + 1e-9 and self.expected_drop <= max_drop + 1e-9
        )

    def shows(self, max_drop: float) -> bool:
        """Whether the photos show, with 95 % confidence, that at most `max_drop` points are lost."""
        return self.drop_interval[1] <= max_drop + 1e-9

    def exceeds(self, max_drop: float) -> bool:
        """Whether the photos show, with 95 % confidence, that more than `max_drop` points are lost."""
        return self.drop_interval[0] > max_drop + 1e-9

    def needed(self, max_drop: float) -> int | None:
        """Estimate how many such photos would show the bound; None if no number would."""
        lost, gained = self.lost / self.photos, self.gained / self.photos
        if self.measure == "accuracy" and self.drop >= max_drop and not self.exceeds(max_drop):
            # Few photos show how often the two differ, but not which is right more often: float's probabilities do.
            differing, drop = lost + gained, min(max(self.expected_drop / 100, 0.0), lost + gained)
            lost, gained = (differing + drop) / 2, (differing - drop) / 2

        def enough(photos: int) -> bool:
            return 100 * paired(lost * photos, gained * photos, photos)[1] <= max_drop + 1e-9

        if not enough(_MAX_NEEDED):
            return None
        return 1 + bisect.bisect_left(range(1, _MAX_NEEDED), True, key=enough)

    def claim(self, max_drop: float) -> str:
        """State what the photos show about a loss of at most `max_drop` points."""
        judged = f"{self.photos:,} photos judged"
        if self.shows(max_drop):
            return f"shown with 95 % confidence: {judged}, at most {self.drop_interval[1]:.2f} points lost"
        needed = self.needed(max_drop)
        if needed is not None:
            return f"not shown: {judged}, a bound of {points(max_drop)} needs about {needed:,}"
        if self.measure == "agreement":
            return (
                f"not shown: {judged}, and with {self.photos - self.agreed} answers that differ from float's, a bound "
                f"of {points(max_drop)} needs photos whose class is known"
            )
        return (
            f"not shown: {judged} lose {self.drop:.1f} points, and no number of photos like these shows a bound of "
            f"{points(max_drop)}"
        )


def points(number: float) -> str:
    """`"1 point"`, `"2.5 points"`."""
    return f"{number:g} point{'' if number == 1 else 's'}"


def judge(expected: Array, found: Array, labels: Sequence[frozenset[int]] | None) -> Verdict:
    """Compare probabilities (N, K) of float and int8 on the same photos."""
    count = len(expected)
    rows = np.arange(count)
    ours, theirs = found.argmax(1), expected.argmax(1)
    losses = (expected[rows, theirs] - expected[rows, ours]).astype(np.float64) * 100
    error = float(losses.std(ddof=1) / np.sqrt(count)) if count > 1 else float("inf")
    p, q = (np.clip(values.astype(np.float64), 1e-9, 1) for values in (expected, found))
    divergence = (p * np.log(p / q)).sum(1).mean()
    same = ours == theirs
    if labels is None:
        measure, scores = "agreement", (100.0, 100 * float(same.mean()))
        lost, gained = int((~same).sum()), 0
    else:
        right, still = _is_correct(theirs, labels), _is_correct(ours, labels)
        measure, scores = "accuracy", (100 * float(right.mean()), 100 * float(still.mean()))
        lost, gained = int((right & ~still).sum()), int((still & ~right).sum())
    return Verdict(
        count, measure, *scores, int(same.sum()), lost, gained, float(losses.mean()), error, float(divergence)
    )


def _is_correct(choices: Array, labels: Sequence[frozenset[int]]) -> Array:
    """(N,) bool: whether each choice is a correct class."""
    return np.array([int(choice) in right for choice, right in zip(choices, labels, strict=True)])
