"""Is the int8 file as good as the float one? On photos with labels: accuracy. On photos without: agreement."""

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
    """Photos to quantise by: pixels (N, H, W, 3) at the card's size, and for each the classes that are right.

    `labels` is None where they are not known. A photo can have more than one right class because ImageNet has two
    classes of one name ("crane").
    """

    images: Pixels
    labels: Sequence[frozenset[int]] | None = None

    def split(self) -> tuple[Pixels, Calibration, Calibration]:
        """Three parts that share no photo: for ranges and rounding, to choose layers by, and to judge by.

        What was chosen to look well on some photos is judged on others. Each part is spread evenly over the photos of
        each label, or over all of them in their order where labels are not known.

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
            # Whichever part is furthest behind its share of the photos so far.
            behind = [size * done / count - len(part) for size, part in zip(sizes, parts, strict=True)]
            parts[behind.index(max(behind))].append(i)
        ranges, choosing, judging = (sorted(part) for part in parts)
        return self.images[ranges], self._part(choosing), self._part(judging)

    def _part(self, chosen: list[int]) -> Calibration:
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        return Calibration(self.images[chosen], labels)


def split_sizes(count: int) -> tuple[int, int, int]:
    """How many of `count` photos are for ranges, for choosing, and for judging."""
    ranges, choosing = min(_MAX_RANGE_PHOTOS, count // 2), min(_MAX_LAYER_PHOTOS, count // 4)
    return ranges, choosing, count - ranges - choosing


def min_folder_size(judged: int) -> int:
    """The fewest photos of which at least so many judge."""
    return next(count for count in range(judged, 4 * judged + MIN_PHOTOS) if split_sizes(count)[2] >= judged)


def check_count(photos: int) -> None:
    """Raise a `UsageError` where there are too few photos to quantise by."""
    if photos < MIN_PHOTOS:
        raise UsageError(
            f"{counted(photos, 'photo')} {'is' if photos == 1 else 'are'} too few to quantise by: "
            f"at least {MIN_PHOTOS} are needed, and 100 or more of the "
            "kind that the network will get are better. Add photos to the calibration folder."
        )


@dataclass(frozen=True)
class Verdict:
    """What int8 costs on photos that it was not made by."""

    photos: int
    measure: str  # "accuracy" or "agreement"
    float_score: float  # %; 100 where the measure is agreement with float
    int8_score: float  # %
    agreed: int  # photos to which both give the same class
    lost: int  # photos that float alone has right; without labels, all on which they differ: each may be one
    gained: int  # photos that int8 alone has right; without labels 0
    expected_drop: float  # points of accuracy that are lost if the float network's own probabilities are right
    expected_error: float  # its standard error, points
    divergence: float  # mean KL divergence of the probabilities, nats

    @property
    def agreement(self) -> float:
        """On how many photos float and int8 give the same class, %."""
        return 100 * self.agreed / self.photos

    @property
    def agreement_interval(self) -> Interval:
        """Its 95 % confidence interval, %."""
        low, high = wilson(self.agreed, self.photos)
        return 100 * low, 100 * high

    @property
    def drop(self) -> float:
        """Points of accuracy lost. Without labels, the loss to expect: a change of mind between near equals is none."""
        return self.float_score - self.int8_score if self.measure == "accuracy" else self.expected_drop

    @property
    def drop_interval(self) -> Interval:
        """The 95 % confidence interval of the accuracy lost, points.

        Without labels its upper end is that of the share on which they differ: no more can be lost.
        """
        low, high = paired(self.lost, self.gained, self.photos)
        if self.measure == "agreement":
            low = (self.expected_drop - Z * self.expected_error) / 100
        return 100 * low, 100 * high

    def allows(self, max_drop: float) -> bool:
        """Whether at most `max_drop` points are lost on these photos themselves; nothing is claimed of others.

        One photo more or less is below what a few photos can resolve: then the expected loss decides.
        """
        return self.drop <= max_drop + 1e-9 or (
            self.drop <= 100 / self.photos + 1e-9 and self.expected_drop <= max_drop + 1e-9
        )

    def shows(self, max_drop: float) -> bool:
        """Whether the photos show, with 95 % confidence, that at most `max_drop` points are lost."""
        return self.drop_interval[1] <= max_drop + 1e-9

    def exceeds(self, max_drop: float) -> bool:
        """Whether they show that more than `max_drop` points are lost."""
        return self.drop_interval[0] > max_drop + 1e-9

    def needed(self, max_drop: float) -> int | None:
        """How many photos would show it, if as many of them differ as here; None where no number would."""
        lost, gained = self.lost / self.photos, self.gained / self.photos
        if self.measure == "accuracy" and self.drop >= max_drop and not self.exceeds(max_drop):
            # So few photos tell how often the two differ, but not who is right more often: float's probabilities do.
            differing, drop = lost + gained, min(max(self.expected_drop / 100, 0.0), lost + gained)
            lost, gained = (differing + drop) / 2, (differing - drop) / 2

        def enough(photos: int) -> bool:
            return 100 * paired(lost * photos, gained * photos, photos)[1] <= max_drop + 1e-9

        if not enough(_MAX_NEEDED):
            return None
        return 1 + bisect.bisect_left(range(1, _MAX_NEEDED), True, key=enough)

    def claim(self, max_drop: float) -> str:
        """What may be said of a loss of at most `max_drop` points."""
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
    """(N,) of bool: whether each choice is among the right classes."""
    return np.array([int(choice) in right for choice, right in zip(choices, labels, strict=True)])
