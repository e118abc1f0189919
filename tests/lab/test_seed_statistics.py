"""Mean, range and interval over seeds."""

import pytest

from vertebra.lab.experiment import Figure
from vertebra.lab.seed_statistics import over_seeds, paired_difference


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
