"""Squeeze-excitation beside the layer."""

import copy

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels.squeeze_excitation import FusedSqueezeExcitation
from vertebra.models.layers import SqueezeExcitation


def results(module, layer, x):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("shape", [(3, 21, 9, 7), (1, 32, 1, 1), (5, 16, 30, 41)], ids=str)
@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU])
def test_results_are_the_layers(activation, shape, layout):
    torch.manual_seed(0)
    layer = SqueezeExcitation(shape[1], 4, activation)
    exact = copy.deepcopy(layer).double()
    x = (torch.randn(shape) + 1).to(memory_format=layout)
    found, expected = results(FusedSqueezeExcitation(layer), layer, x), results(exact, exact, x.double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-4, atol=1e-4)


def test_frozen_weights_need_no_gradient():
    layer = SqueezeExcitation(16, 4, nn.SiLU).requires_grad_(False)
    layer.fc1.weight.requires_grad_()
    x = torch.randn(2, 16, 5, 5, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), [x, layer.fc1.weight])
    FusedSqueezeExcitation(layer)(x).square().sum().backward()
    torch.testing.assert_close(x.grad, expected[0])
    torch.testing.assert_close(layer.fc1.weight.grad, expected[1])
    assert layer.fc2.weight.grad is None


def test_other_types_go_through_the_layer():
    layer = SqueezeExcitation(16, 4, nn.SiLU).double()
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    assert torch.equal(FusedSqueezeExcitation(layer)(x), layer(x))
