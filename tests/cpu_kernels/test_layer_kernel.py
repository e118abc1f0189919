"""Convolutions by kernels compute the gradients that are asked for, and no others."""

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels.conv3x3 import Conv3x3
from vertebra.cpu_kernels.depthwise import DepthwiseConv


def dense():
    return Conv3x3(nn.Conv2d(32, 48, 3, padding=1, bias=False))


def depthwise():
    return DepthwiseConv(nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False))


@pytest.mark.parametrize("build", [dense, depthwise])
def test_a_first_layer_needs_no_gradient_of_its_input(build):
    kernel = build()
    kernel(torch.randn(1, 32, 20, 20)).sum().backward()
    assert kernel.layer.weight.grad is not None
    assert kernel.layer.weight.grad.shape == kernel.layer.weight.shape


@pytest.mark.parametrize("build", [dense, depthwise])
def test_frozen_weights_need_none_of_their_own(build):
    kernel = build().requires_grad_(False)
    x = torch.randn(1, 32, 20, 20, requires_grad=True)
    kernel(x).sum().backward()
    assert kernel.layer.weight.grad is None
    assert x.grad is not None
