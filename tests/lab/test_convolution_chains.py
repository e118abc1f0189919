"""Which 1×1 runs in front of a larger convolution and which behind it, in any network."""

from torch import nn

from vertebra.anatomy import inspect
from vertebra.introspect import UnreducedInception, googlenet_with, replace_bottlenecks
from vertebra.lab.convolution_chains import (
    convolution_chains,
    direction,
    macs_with_plain_blocks,
    macs_without_reductions,
    pointwise,
)
from vertebra.models import efficientnet_b0, resnet50
from vertebra.models.state_dict import meta_build


def _rows(*layers, size=8):
    return inspect(nn.Sequential(*layers).to("meta"), (layers[0].in_channels, size, size)).rows


def test_a_bottleneck_narrows_and_restores():
    chain, *others = convolution_chains(
        _rows(nn.Conv2d(8, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 8, 1))
    )
    assert not others and chain.channels == (8, 2, 8) and chain.narrows and chain.restores
    assert chain.macs == 8 * 2 * 64 + 9 * 4 * 36 + 16 * 36


def test_a_larger_convolution_that_widens_is_no_bottleneck():
    """SqueezeNet's Fire modules, without a 1×1 behind."""
    (chain,) = convolution_chains(_rows(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 3)))
    assert chain.restores and not chain.is_bottleneck


def test_a_chain_ends_at_a_pooling():
    chain, *others = convolution_chains(_rows(nn.Conv2d(8, 2, 1), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3)))
    assert not others and chain.front is None and not chain.narrows and chain.channels == (2, 2, 2)


def test_a_gate_does_not_end_it_and_its_own_1x1_do_not_count():
    with meta_build():
        rows = inspect(efficientnet_b0(), 64).rows
    chains = convolution_chains(rows)
    assert sum(chain.front is not None and chain.behind is not None for chain in chains) == 15  # the first has no 1×1
    assert len(pointwise(rows)) == 15 + 16 + 1 and {direction(row) for row in pointwise(rows)} == {"narrows", "widens"}


def test_networks_without_convolutions_have_no_chains():
    rows = inspect(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 2).rows
    assert convolution_chains(rows) == [] and pointwise(rows) == [] and macs_without_reductions(rows)[0] == []


def test_the_macs_without_reductions_are_those_of_the_network_without_them():
    with meta_build():
        whole = inspect("googlenet", 224)
        without = inspect(googlenet_with(UnreducedInception), 224)
    reductions, macs = macs_without_reductions(whole.rows)
    assert len(reductions) == 18 and macs == without.macs


def test_what_reduces_for_a_grouped_convolution_is_no_reduction():
    rows = _rows(nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
    assert macs_without_reductions(rows) == ([], sum(row.macs for row in rows))


def test_the_macs_with_plain_blocks_are_those_of_the_network_with_them():
    with meta_build():
        whole, plain = resnet50(), replace_bottlenecks(resnet50(), ["layer2", "layer3", "layer4"])
        first = [row for row in inspect(whole, 224).rows if not row.name.startswith("layer1")]
        others = [row for row in inspect(plain, 224).rows if not row.name.startswith("layer1")]
    assert macs_with_plain_blocks(first) == sum(row.macs for row in others)
