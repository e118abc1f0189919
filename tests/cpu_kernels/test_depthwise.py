"""Depthwise convolutions beside torch's."""

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels.depthwise import DepthwiseConv, can_replace


def depthwise(channels=48, kernel=3, stride=1, **options):
    options = {"padding": kernel // 2, "groups": channels, "bias": False} | options
    return nn.Conv2d(channels, channels, kernel, stride, **options)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (10, 37), (33, 12), (3, 16)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_results_are_torchs(kernel, stride, size, layout, assert_convolves):
    torch.manual_seed(0)
    conv = depthwise(kernel=kernel, stride=stride)
    x = torch.randn(3, 48, *size).to(memory_format=layout)
    assert_convolves(DepthwiseConv(conv), conv, x, 2e-6)


def test_other_types_go_through_the_layer():
    conv = depthwise().double()
    x = torch.randn(1, 48, 5, 5, dtype=torch.float64)
    assert torch.equal(DepthwiseConv(conv)(x), conv(x))


@pytest.mark.parametrize(
    "conv",
    [
        depthwise(40),
        depthwise(kernel=7),
        depthwise(stride=3),
        depthwise(padding=0),
        depthwise(dilation=2, padding=2),
        depthwise(bias=True),
        depthwise(padding_mode="reflect"),
        depthwise(groups=16),
        nn.Conv2d(16, 32, 3, padding=1, groups=16, bias=False),
        nn.Conv2d(16, 16, 3, padding="same", groups=16, bias=False),
        nn.ReLU(),
    ],
    ids=str,
)
def test_others_stay(conv):
    assert can_replace(depthwise())
    assert not can_replace(conv)
