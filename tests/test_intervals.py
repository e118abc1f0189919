"""Intervals of shares and of paired differences, against values and formulas from elsewhere."""

import math

import numpy as np
import pytest

from vertebra.intervals import Z, mean, median, paired, student_quantile, wilson


@pytest.mark.parametrize(
    ("hits", "n", "interval"),  # Wilson's formula, worked out apart
    [(10, 10, (0.722467, 1.0)), (0, 10, (0.0, 0.277533)), (95, 100, (0.888250, 0.978456))],
)
def test_wilson(hits, n, interval):
    assert wilson(hits, n) == pytest.approx(interval, abs=1e-4)


def test_wilson_of_none_and_of_all_ends_at_the_proportion():
    for n in range(1, 500):
        assert (wilson(0, n)[0], wilson(n, n)[1]) == (0, 1)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "interval"),  # Fagerland, Lydersen and Laake 2014, table V: 1 and 7 of 21 photos differ
    [(1, 7, 21, (-0.517, -0.026)), (7, 1, 21, (0.026, 0.517)), (0, 0, 380, (-0.01, 0.01))],
)
def test_paired(lost, gained, n, interval):
    assert paired(lost, gained, n) == pytest.approx(interval, abs=6e-4)


@pytest.mark.parametrize(("lost", "gained", "n"), [(3, 1, 40), (0, 2, 9), (12, 12, 60), (5, 0, 5), (0, 0, 7)])
def test_paired_ends_where_the_score_is_that_of_95_percent(lost, gained, n):
    """The likeliest shares under a given difference by search, in place of the quadratic's root."""

    def score(difference):
        shares = np.linspace(max(0, -difference), min(1, (1 - difference) / 2), 200_001)[1:-1]
        other, rest = shares + difference, 1 - 2 * shares - difference
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = sum(
                count * np.log(share) if count else 0 * share
                for count, share in ((gained, shares), (lost, other), (n - lost - gained, rest))
            )
        best = shares[np.nanargmax(likelihood)]
        return (lost - gained - n * difference) / math.sqrt(n * (2 * best + difference * (1 - difference)))

    low, high = paired(lost, gained, n)
    assert low <= (lost - gained) / n <= high
    if high < 1:
        assert score(high) == pytest.approx(-Z, abs=0.01)
    if low > -1:
        assert score(low) == pytest.approx(Z, abs=0.01)


@pytest.mark.parametrize(
    ("n", "first", "last"),  # which values in order; tables of the sign test, as in Conover 1999, A3
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (20, 6, 15), (30, 10, 21), (100, 40, 61)],
)
def test_median(n, first, last):
    values = np.random.default_rng(0).permutation(np.arange(1, n + 1)).tolist()
    assert median(values) == (first, last)


def test_median_of_few_values_says_nothing():
    assert median([1.0] * 5) == median([]) == (-math.inf, math.inf)


def test_median_covers_95_percent():
    draws = np.random.default_rng(0).exponential(1, (2000, 25))  # as skewed as times are
    covered = sum(low <= math.log(2) <= high for low, high in map(median, draws.tolist()))
    assert 0.95 <= covered / 2000 <= 0.975


def test_students_quantile_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (*range(1, 12), 30, 101, 1000):
        assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_mean():
    values = [1.0, 2.0, 4.0, 9.0]
    half = 3.182446 * np.std(values, ddof=1) / 2
    assert mean(values) == pytest.approx((4 - half, 4 + half))
    assert mean([2.0, 2.0]) == (2, 2)
    assert mean([2.0]) == mean([]) == mean([1.0, math.nan]) == mean([1.0, math.inf, 2.0]) == (-math.inf, math.inf)
