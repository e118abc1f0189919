"""Mean, range and 95 % interval over seeds, of one arm or of the difference between two."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vertebra import intervals
from vertebra.intervals import Interval

from .experiment import Figure


@dataclass(frozen=True)
class SeedStatistics:
    """What repeated runs of one measurement have in common."""

    values: tuple[float, ...]  # one a seed
    mean: float
    minimum: float
    maximum: float
    interval: Interval | None  # 95 %, of the mean (Student's t); None with one seed

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known and does not contain 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def figure(self, unit: str = "") -> Figure:
        """The mean as a figure of an experiment, with n and interval."""
        return Figure(self.mean, unit, self.n, self.interval)


def over_seeds(values: Sequence[float]) -> SeedStatistics:
    """The statistics of one value a seed; at least one."""
    interval = intervals.mean(values) if len(values) > 1 else None
    return SeedStatistics(tuple(values), statistics.fmean(values), min(values), max(values), interval)


def paired_difference(one: Sequence[float], other: Sequence[float]) -> SeedStatistics:
    """The statistics of `one - other`, seed by seed: what both owe to the seed cancels."""
    return over_seeds([a - b for a, b in zip(one, other, strict=True)])


def power(values: Mapping[float, Sequence[float]]) -> Figure:
    """The exponent p of value ∝ x^p: the slope on logarithmic scales, with its 95 % interval (least squares).

    Args:
        values: positive ones, one a seed, for each of at least two positive x; three values in all.
    """
    points = [(math.log(x), math.log(value)) for x, own in values.items() for value in own]
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    slope, offset = statistics.linear_regression(xs, ys)
    squares = sum((y - offset - slope * x) ** 2 for x, y in points)
    freedom, centre = len(points) - 2, statistics.fmean(xs)
    error = math.sqrt(squares / freedom / sum((x - centre) ** 2 for x in xs))
    half = intervals.student_quantile(freedom) * error
    return Figure(slope, n=len(points), interval=(slope - half, slope + half))
