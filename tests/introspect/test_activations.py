"""Values without slope and dead channels, where the shares are known."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vertebra.errors import UsageError
from vertebra.introspect import activation_slopes

# Ten values from -4.5 to 4.5, half of them negative, in two channels: one all negative, one all positive.
HALVES = torch.linspace(-4.5, 4.5, 10).view(1, 2, 1, 5)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Masked(nn.Module):
    """ReLU in torch's arithmetic alone, in place."""

    def forward(self, x):
        return x.mul_(x > 0)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class OwnRelu(nn.Module):
    def forward(self, x):
        return Hidden.apply(x)


@pytest.mark.parametrize(
    ("layer", "function", "flat", "dead"),
    [
        (nn.ReLU(), "relu", 5, 1),
        (nn.ReLU(inplace=True), "relu", 5, 1),
        (nn.ReLU6(inplace=True), "hardtanh", 5, 1),
        (nn.SiLU(inplace=True), "silu", 0, 0),
        (nn.GELU(), "gelu", 1, 0),  # slope -7e-5 at -4.5, -3e-3 at -3.5
        (nn.Hardswish(), "hardswish", 3, 0),  # flat below -3 and in its minimum at -1.5
        (nn.PReLU(), "prelu", 0, 0),
        (nn.Threshold(2.0, 0.0), "threshold", 7, 1),
        (Swish(), "Swish", 0, 0),
        (Masked(), "Masked", 5, 1),
        (OwnRelu(), "OwnRelu", 5, 1),
    ],
)
def test_slopes_of_each_function(layer, function, flat, dead):
    before = HALVES.clone()
    (found,) = activation_slopes(nn.Sequential(nn.Identity(), layer), HALVES)
    assert torch.equal(HALVES, before)
    assert (found.path, found.call, found.function) == ("1", 0, function)
    assert (found.values, found.channels) == (10, 2)
    assert found.flat_values == flat
    assert found.flat_share == found.flat_values / 10
    assert (found.dead_channels, found.dead_share) == (dead, dead / 2)


def test_half_of_normal_noise_is_flat_under_relu_and_none_under_silu():
    x = torch.randn(4, 5, 100, 10, generator=torch.Generator().manual_seed(0))
    relu, silu = (activation_slopes(layer, x)[0] for layer in (nn.ReLU(), nn.SiLU()))
    assert relu.flat_share == pytest.approx(float((x <= 0).float().mean()))
    assert relu.flat_share == pytest.approx(0.5, abs=0.01)
    assert silu.flat_share < 1e-2 < activation_slopes(nn.SiLU(), x, threshold=0.2)[0].flat_share


class Functional(nn.Module):
    """Calls functions in forward(), twice at the same place, and by keyword."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ReLU()

    def forward(self, x):
        x = F.relu(-x)
        x = torch.relu_(x - 1)
        x = F.silu(input=x, inplace=True)
        return self.inner(x.sigmoid() - 2)


def test_functions_are_named_by_the_module_that_calls_them():
    rows = activation_slopes(nn.Sequential(Functional()), HALVES)
    named = [(row.path, row.call, row.function) for row in rows]
    assert named == [("0", 0, "relu"), ("0", 1, "relu"), ("0", 2, "silu"), ("0", 3, "sigmoid"), ("0.inner", 0, "relu")]
    assert [row.flat_values for row in rows] == [5, 6, 0, 0, 10]


def test_a_channel_is_dead_if_no_image_of_any_batch_has_a_slope():
    net, one, other = nn.ReLU(), torch.full((2, 3, 1, 1), -1.0), torch.full((1, 3, 1, 1), -1.0)
    other[0, 1] = 1
    (row,) = activation_slopes(net, iter([other, one]))
    assert (row.values, row.flat_values, row.channels, row.dead_channels) == (9, 8, 3, 2)


class Identity(nn.Module):
    def forward(self, x):
        return x


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.scale.view(-1, 1, 1)


class Norm(nn.Module):
    def forward(self, x):
        return x / x.std()


class Pool(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 3, 1, 1)


class Squared(nn.Module):
    """In a way that autograd refuses, for use without gradients."""

    def forward(self, x):
        return x.mul_(2).mul_(x)


@pytest.mark.parametrize("other", [Squared, Identity, Scale, Norm, Pool, nn.Softmax2d, lambda: nn.BatchNorm2d(2)])
def test_what_is_no_activation_is_left_out(other):
    rows = activation_slopes(nn.Sequential(other(), nn.ReLU()), HALVES)
    assert [row.path for row in rows] == ["1"]


def test_the_network_is_as_it_was():
    net = nn.Sequential(nn.BatchNorm2d(2), Functional(), nn.Dropout()).train()
    state, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.random.get_rng_state()
    with torch.inference_mode():
        activation_slopes(net, HALVES)
    with pytest.raises(RuntimeError):
        activation_slopes(net, torch.ones(1, 3, 2, 2))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("net", "images", "threshold", "message"),
    [
        (nn.Conv2d(2, 1, 1), HALVES, 1e-3, "no activation of this Conv2d was found"),
        (nn.ReLU(), [], 1e-3, "there are no images"),
        (nn.ReLU(), HALVES[:0], 1e-3, r"got a tensor \(0, 2, 1, 5\)"),
        (nn.ReLU(), ["photo.jpg"], 1e-3, "got str"),
        (nn.ReLU(), HALVES, 0, "threshold is 0"),
    ],
)
def test_bad_input(net, images, threshold, message):
    with pytest.raises(UsageError, match=message):
        activation_slopes(net, images, threshold)


def test_every_family_has_its_activations(tiny_family, tiny_network):
    net = tiny_network(tiny_family)
    rows = activation_slopes(net, torch.randn(1, 3, 64, 64))
    kinds = {"mobilenetv2": {"hardtanh"}, "efficientnet": {"silu", "sigmoid"}}.get(tiny_family, {"relu"})
    assert {row.function for row in rows} == kinds
    assert ("inception3a.branch1", "relu") in {(row.path, row.function) for row in rows} or tiny_family != "googlenet"
    assert all(0 <= row.flat_share <= 1 for row in rows)
