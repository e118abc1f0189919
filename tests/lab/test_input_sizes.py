"""Which square images a network runs on."""

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.input_sizes import error_at, smallest_input

POOLS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Dropout(), nn.AdaptiveAvgPool2d(1))


def test_the_error_is_the_networks_own():
    assert error_at(POOLS, 4) is None
    assert error_at(POOLS, 3) == (
        "Given input size: (4x1x1). Calculated output size: (4x0x0). Output size is too small"
    )  # fmt: skip
    assert smallest_input(POOLS) == 4


def test_the_network_is_left_as_it_was():
    before = {name: value.clone() for name, value in POOLS.state_dict().items()}
    smallest_input(POOLS.train())
    assert POOLS.training and all(torch.equal(value, before[name]) for name, value in POOLS.state_dict().items())


def test_a_network_that_runs_on_none_is_refused_with_its_error():
    with pytest.raises(UsageError, match=r"Bilinear runs on no square image of 1 to 3 pixels.*missing 1 required"):
        smallest_input(nn.Bilinear(2, 2, 2), largest=3)
