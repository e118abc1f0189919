"""95 % confidence intervals of proportions, medians and means. Standard library only.

Those of proportions are score intervals, valid also for small samples and for proportions near 0 and 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

Interval: TypeAlias = tuple[float, float]

Z = 1.959964  # two-sided 95 % quantile of the normal distribution


def wilson(hits: float, n: float) -> Interval:
    """Return the interval of the proportion `hits / n` (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    share, z2 = hits / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Of no hits and of hits alone, an end is the proportion itself, which rounding would miss.
    return max(0.0, min(share, centre - spread)), min(1.0, max(share, centre + spread))


def paired(lost: float, gained: float, n: float) -> Interval:
    """Return the interval of a difference of two accuracies on the same `n` photos, `(lost - gained) / n`.

    `lost` photos are correct only in the first measurement, `gained` only in the second (Tango 1998,
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C891).
    """
    return -_upper(gained, lost, n), _upper(lost, gained, n)


def median(values: Sequence[float]) -> Interval:
    """Return the interval of the median that the values were drawn from, whatever their distribution.

    Its ends are order statistics, the values that a sign test does not reject (Conover 1999, Practical Nonparametric
    Statistics, 3.2). Below six values there is none at 95 %: it is then everything, (-inf, inf).
    """
    n, ordered = len(values), sorted(values)
    # Keep as many as can be: k or fewer of n values are below the median with a probability of Σ C(n, i) / 2ⁿ ≤ 2.5 %.
    first, ways, term = 0, 1, 1
    while 40 * ways <= 2**n:
        first += 1
        term = term * (n - first + 1) // first
        ways += term
    return (ordered[first - 1], ordered[n - first]) if first else (-math.inf, math.inf)


def mean(values: Sequence[float]) -> Interval:
    """Return the interval of the mean of normally distributed values (Student 1908).

    It is everything, (-inf, inf), of fewer than two, and where one is NaN or infinite.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return -math.inf, math.inf
    centre = statistics.fmean(values)
    spread = student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return centre - spread, centre + spread


@cache
def student_quantile(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t with so many degrees of freedom, by bisection."""
    low, high = Z, 13.0  # 12.706 with one degree of freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < 0.95 else (low, middle)
    return high


def _student(t: float, freedom: int) -> float:
    """Return the probability that |T| < t (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = sine * (cosine if odd else 1), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    return 2 / math.pi * (angle + total) if odd else total


def _upper(lost: float, gained: float, n: float) -> float:
    """Return the upper limit: the root of the score function, by bisection."""
    low, high = (lost - gained) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        # The maximum-likelihood share of `gained` given the difference `middle`: the root of a quadratic.
        a, b = 2 * n, (2 * n - lost + gained) * middle - lost - gained
        share = (math.sqrt(max(0.0, b * b + 4 * a * gained * middle * (1 - middle))) - b) / (2 * a)
        spread = math.sqrt(max(0.0, n * (2 * share + middle * (1 - middle))))
        if n * middle - (lost - gained) < Z * spread:
            low = middle
        else:
            high = middle
    return high
