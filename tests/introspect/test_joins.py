"""Additions, concatenations, gates and residual blocks of any network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vertebra.anatomy import inspect
from vertebra.introspect import find_additions, find_concatenations, find_gates, shapes_of


def rows_of(network, size=32):
    return inspect(network.to("meta"), (4, size, size)).rows


@pytest.mark.parametrize(
    ("name", "added", "concatenated", "gated"),
    [("resnet18", 8, 0, 0), ("googlenet", 0, 10, 0), ("mobilenet_v2", 10, 0, 0), ("efficientnet_b0", 9, 0, 16)],
)
def test_the_families_have_those_of_their_papers(name, added, concatenated, gated):
    """GoogLeNet, as published, also concatenates the three channels of its input."""
    for size in (224, 32):  # at 32 pixels the last maps are a single pixel, as the gates are
        rows = inspect(name, size).rows
        assert (len(find_additions(rows)), len(find_concatenations(rows)), len(find_gates(rows))) == (
            added,
            concatenated,
            gated,
        )


def test_gates_of_another_library_are_found():
    """torchvision's MobileNetV3 has a hard sigmoid; the counts are those of the paper's Table 2."""
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        rows = inspect(models.mobilenet_v3_small()).rows
    assert [gate.convolution.kind for gate in find_gates(rows)] == ["depthwise conv"] * 9
    assert len(find_additions(rows)) == 6


class Joins(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.conv, self.join = nn.Conv2d(4, 4, 1), join

    def forward(self, x):
        return self.join(x, self.conv(x))


@pytest.mark.parametrize(("dim", "count"), [(1, 1), (0, 0), (2, 0), (3, 0)])
def test_only_channels_are_concatenated(dim, count):
    assert len(find_concatenations(rows_of(Joins(lambda x, y: torch.cat([x, y], dim))))) == count
    assert not find_concatenations(rows_of(Joins(lambda x, y: torch.cat([x.flatten(2), y.flatten(2)], 1))))


def hard_sigmoid(x):
    return F.relu6(x + 3) / 6


@pytest.mark.parametrize(
    ("join", "added", "gated"),
    [
        (lambda x, y: x + y, 1, 0),
        (lambda x, y: y.add_(x), 1, 0),
        (lambda x, y: y + 1, 0, 0),
        (lambda x, y: y + y, 0, 0),
        (lambda x, y: x + y.mean((2, 3), keepdim=True), 0, 0),  # of another shape: a bias that depends on the image
        (lambda x, y: x * torch.sigmoid(y), 0, 0),  # one number for each value, not for each channel
        (lambda x, y: y * torch.sigmoid(y), 0, 0),
        (lambda x, y: x * torch.sigmoid(y.mean((2, 3), keepdim=True)), 0, 1),
        (lambda x, y: torch.sigmoid(y.mean((2, 3), keepdim=True)) * x, 0, 1),
        (lambda x, y: x * torch.sigmoid(y.mean((2, 3)))[:, :, None, None], 0, 1),
        (lambda x, y: x * hard_sigmoid(y.mean((2, 3), keepdim=True)), 0, 1),
        (lambda x, y: x * torch.rsqrt(y.var((2, 3), keepdim=True)), 0, 0),  # a norm
    ],
)
def test_what_is_a_sum_and_what_a_gate(join, added, gated):
    rows = rows_of(Joins(join))
    assert (len(find_additions(rows)), len(find_gates(rows))) == (added, gated)


def test_silu_of_a_single_pixel_is_no_gate():
    assert not find_gates(rows_of(Joins(lambda x, y: y * torch.sigmoid(y)), 1))


def test_shapes_of_a_module():
    rows = inspect("resnet50").rows
    assert shapes_of("layer2.0", rows) == ((1, 256, 56, 56), (1, 512, 28, 28))
    assert shapes_of("layer1", rows) == ((1, 64, 56, 56), (1, 256, 56, 56))  # not layer10, if there were one
    assert shapes_of("layer9", rows) is None
