"""What a pooling computes, from one-hot maps."""

import pytest
from torch import nn

from vertebra.lab.pooling_by_size import bins, independent_values, is_identity

ADAPTIVE = nn.AdaptiveAvgPool2d(7)


@pytest.mark.parametrize(("side", "values"), [(1, 1), (3, 9), (6, 36), (7, 49), (8, 49), (14, 49)])
def test_below_seven_values_repeat(side, values):
    assert independent_values(ADAPTIVE, side) == values
    assert is_identity(ADAPTIVE, side) is (side == 7)


def test_the_bins_are_torchs_formula():
    for side in (1, 5, 8, 14):
        assert bins(ADAPTIVE, side) == [(i * side // 7, -(-(i + 1) * side // 7)) for i in range(7)]


def test_other_poolings_have_theirs():
    assert bins(nn.AvgPool2d(3, stride=2), 7) == [(0, 3), (2, 5), (4, 7)]
    assert is_identity(nn.Identity(), 5) and not is_identity(nn.AvgPool2d(2), 4)
