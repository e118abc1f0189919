"""95 % confidence intervals of proportions. Standard library only.

Both are score intervals, valid also for small samples and for proportions near 0 and 1.
"""

from __future__ import annotations

import math
from typing import TypeAlias

Interval: TypeAlias = tuple[float, float]

Z = 1.959964  # two-sided 95 % quantile of the normal distribution


def wilson(hits: float, n: float) -> Interval:
    """Return the interval of the proportion `hits / n` (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    share, z2 = hits / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def paired(lost: float, gained: float, n: float) -> Interval:
    """Return the interval of a difference of two accuracies on the same `n` photos, `(lost - gained) / n`.

    `lost` photos are correct only in the first measurement, `gained` only in the second (Tango 1998,
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C891).
    """
    return -_upper(gained, lost, n), _upper(lost, gained, n)


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
