"""Average pooling before 1×1 convolutions: which are exchanged, and that results stay."""

import pytest

pytest.importorskip("torch")
import torch
from torch import fx, nn

from vertebra.cpu_kernels.pooling_order import pool_first


def order(network):
    return [type(network.get_submodule(n.target)).__name__ for n in network.graph.nodes if n.op == "call_module"]


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(2), nn.AvgPool2d((2, 3)), nn.AvgPool2d(3, stride=2), nn.AvgPool2d(2, padding=0)], ids=str
)
@pytest.mark.parametrize("conv", [{}, {"bias": False}, {"groups": 2}, {"padding": "same"}], ids=str)
def test_results_and_gradients_stay(conv, pool):
    network = nn.Sequential(nn.Conv2d(6, 4, 1, **conv), pool).double()
    module = fx.symbolic_trace(network)
    pool_first(module)
    module.graph.lint()
    module.recompile()
    assert order(module) == ["AvgPool2d", "Conv2d"]
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(network(x))
    inputs = (x, *network.parameters())
    assert {id(p) for p in module.parameters()} == {id(p) for p in network.parameters()}
    torch.testing.assert_close(module(x), network(x))
    for found, expected in zip(
        torch.autograd.grad(module(x), inputs, gradient), torch.autograd.grad(network(x), inputs, gradient), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("conv", "pool"),
    [
        (nn.Conv2d(6, 4, 3), nn.AvgPool2d(2)),
        (nn.Conv2d(6, 4, 1, stride=2), nn.AvgPool2d(2)),
        (nn.Conv2d(6, 4, 1, padding=1), nn.AvgPool2d(2)),
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(2, padding=1)),
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(2, ceil_mode=True)),
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(2, divisor_override=3)),
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(3, stride=1)),
        (nn.Conv2d(6, 4, 1), nn.MaxPool2d(2)),
    ],
    ids=str,
)
def test_what_would_change_or_not_pay_stays(conv, pool):
    module = fx.symbolic_trace(nn.Sequential(conv, pool))
    before = order(module)
    pool_first(module)
    assert order(module) == before


def test_a_convolution_that_others_read_stays():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(6, 4, 1), nn.AvgPool2d(2)

        def forward(self, x):
            x = self.conv(x)
            return self.pool(x), x

    module = fx.symbolic_trace(Read())
    pool_first(module)
    assert order(module) == ["Conv2d", "AvgPool2d"]
