"""Which positions a strided convolution and its neighbours read."""

import pytest
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import move_stride_to_1x1, positions_read
from vertebra.models.resnet import Bottleneck


def _share(read):
    return {path: float(mask.double().mean()) for path, mask in read.items()}


def test_a_strided_1x1_reads_a_quarter_and_a_3x3_all():
    network = nn.Sequential(nn.Conv2d(2, 3, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    assert _share(positions_read(network, 8)) == {"0": 1}
    network[2].stride = (2, 2)  # of the 3×3 every second output counts no more, and with it 3 of 8 rows and columns
    assert _share(positions_read(network, 8)) == {"0": 25 / 64, "2": 1 / 4}
    assert positions_read(network[2], 4)[""].tolist() == [[True, False] * 2, [False] * 4] * 2


def test_what_reads_the_same_map_counts():
    block = Bottleneck(2, 2, 2, nn.Conv2d(2, 8, 1, 2))
    assert _share(positions_read(block, 8)) == {"conv2": 1, "downsample": 1}
    assert _share(positions_read(move_stride_to_1x1(block), 8)) == {"conv1": 1 / 4, "downsample": 1 / 4}


def test_norms_that_take_their_inputs_statistics_cancel_nothing():
    network = nn.Sequential(nn.Conv2d(2, 4, 2, 2), nn.LayerNorm([4, 4, 4]), nn.Conv2d(4, 4, 1), nn.GroupNorm(1, 4))
    assert _share(positions_read(network, 8)) == {"0": 1}


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(2, 3, 1, 2), nn.BatchNorm2d(3))
    before = network[0].weight.clone()
    positions_read(network, 4)
    assert network.training and network[0].weight.equal(before) and not network[0]._forward_pre_hooks


def test_without_a_stride_there_is_nothing_to_read():
    with pytest.raises(UsageError, match="no convolution of this Conv2d has a stride"):
        positions_read(nn.Conv2d(2, 3, 1), 4)
