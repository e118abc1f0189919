"""Mean, range and interval over seeds."""

import math

import pytest

from vertebra.lab.experiment import Figure
from vertebra.lab.seed_statistics import over_seeds, paired_difference, power


def test_over_seeds():
    found = over_seeds([3.0, 1.0, 2.0])
    assert (found.mean, found.minimum, found.maximum, found.n) == (2.0, 1.0, 3.0, 3)
    assert found.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert not found.excludes_zero
    assert found.figure("%") == Figure(2.0, "%", 3, found.interval)
    one = over_seeds([5.0])
    assert one.interval is None
    assert not one.excludes_zero


def test_what_two_arms_share_cancels():
    one, other = [10.0, 20.0, 30.0], [9.0, 18.9, 29.1]
    assert not over_seeds(one).excludes_zero
    assert paired_difference(one, other).excludes_zero
    assert paired_difference(other, one).mean == pytest.approx(-1)
    with pytest.raises(ValueError, match="zip"):
        paired_difference(one, other[:2])


def test_the_power_of_a_power_law_and_of_noise():
    found = power({x: [3 * x**0.5] * 2 for x in (1, 4, 16)})
    assert found.value == pytest.approx(0.5) and found.n == 6
    assert found.interval == pytest.approx((0.5, 0.5))
    flat = power({1: [1.0, 2.0], 2: [2.0, 1.0]})
    assert flat.value == pytest.approx(0, abs=1e-12) and flat.interval[0] < -0.5 < 0.5 < flat.interval[1]
    # By hand: slope of (0, 0), (1, 0), (2, 3) is 1.5; residuals 0.5, -1, 0.5; standard error sqrt(1.5 / 2).
    by_hand = power({math.e**x: [math.e**y] for x, y in ((0, 0), (1, 0), (2, 3))})
    assert by_hand.interval == pytest.approx((1.5 - 12.706 * 0.75**0.5, 1.5 + 12.706 * 0.75**0.5), rel=1e-4)
