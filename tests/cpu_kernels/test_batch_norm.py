"""Batch norm with shortcut and activation, beside torch's layers in float64."""

import copy

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels.batch_norm import (
    BatchNormActivation,
    ConcatBatchNormActivation,
    can_fuse,
    shared_statistics,
)

CHANNELS = 21  # no multiple of what a vector holds


def norm_of(channels=CHANNELS, **options):
    norm = nn.BatchNorm2d(channels, **options)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.normal_(norm.bias)
    return norm


def results(module, norm, inputs):
    """Output, gradients of inputs and parameters, and running statistics."""
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    y = module(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)  # not a constant, whose gradient is 0
    return [y, *torch.autograd.grad((y * weights).sum(), [*inputs, norm.weight, norm.bias]), *norm.buffers()]


def layers(norm, activation):
    return lambda x, shortcut=None: activation(norm(x) if shortcut is None else norm(x) + shortcut)


@pytest.mark.parametrize("shape", [(3, CHANNELS, 9, 7), (1, CHANNELS, 2, 1), (40, CHANNELS, 5, 8)], ids=str)
@pytest.mark.parametrize(
    ("activation", "has_shortcut"),
    [
        *((nn.Identity(), False), (nn.Identity(), True), (nn.ReLU(), False), (nn.ReLU(), True)),
        *((nn.ReLU6(), False), (nn.SiLU(), False)),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_results_are_torchs(shape, activation, has_shortcut, layout):
    torch.manual_seed(0)
    norm = norm_of(eps=1e-3, momentum=0.3)
    exact = copy.deepcopy(norm).double()
    inputs = [3 * torch.randn(shape) + 2] + [torch.randn(shape)] * has_shortcut
    inputs = [x.to(memory_format=layout) for x in inputs]
    found = results(BatchNormActivation(norm, activation), norm, inputs)
    expected = results(layers(exact, activation), exact, [x.double() for x in inputs])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("channels", [(21,), (16, 32, 7), (1, 1, 40)], ids=str)
@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU(), nn.SiLU()], ids=str)
def test_a_concatenation_is_not_made(channels, activation, layout):
    torch.manual_seed(0)
    norm = norm_of(sum(channels), eps=1e-3, momentum=0.3)
    exact = copy.deepcopy(norm).double()
    inputs = [(3 * torch.randn(3, c, 9, 7) + 2).to(memory_format=layout) for c in channels]
    fused = ConcatBatchNormActivation(norm, activation)
    found = results(lambda *x: fused(x, [shared_statistics(piece) for piece in x]), norm, inputs)
    expected = results(lambda *x: activation(exact(torch.cat(x, 1))), exact, [x.double() for x in inputs])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_concatenation_in_other_types_or_evaluation_goes_through_the_layers(is_trained):
    dtype = torch.float64 if is_trained else torch.float32
    norm = norm_of(12).to(dtype).train(is_trained)
    pieces = [torch.randn(2, c, 4, 4, dtype=dtype) for c in (4, 8)]
    copied = copy.deepcopy(norm)
    found = ConcatBatchNormActivation(norm, nn.ReLU())(pieces, [shared_statistics(piece) for piece in pieces])
    torch.testing.assert_close(found, torch.relu(copied(torch.cat(pieces, 1))))


def test_statistics_do_not_cancel():
    """A deviation of a millionth of the mean is beyond float32; of a thousandth it is not."""
    torch.manual_seed(0)
    x = 1000 + torch.randn(8, 16, 24, 24)
    norm = norm_of(16)
    exact = copy.deepcopy(norm).double()
    found = BatchNormActivation(norm, nn.Identity())(x)
    torch.testing.assert_close(found, exact(x.double()).float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.running_var, exact.running_var.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU()], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(activation, value):
    x = torch.randn(2, CHANNELS, 4, 4)
    x[1, 3, 2, 2] = value
    y = BatchNormActivation(norm_of(), activation)(x)
    assert y[:, 3].isnan().all()
    assert y[:, 4:].isfinite().all()


def test_large_values_of_silu_are_torchs():
    norm = norm_of(1)
    nn.init.constant_(norm.weight, 100)
    x = torch.linspace(-1, 1, 1001).view(1, 1, -1, 1).requires_grad_()
    expected = nn.functional.silu(copy.deepcopy(norm)(x))
    found = BatchNormActivation(norm, nn.SiLU())(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_equal_bit_for_bit_from_run_to_run():
    x = torch.randn(16, CHANNELS, 13, 13)
    norm = norm_of()
    first, second = (results(BatchNormActivation(n, nn.SiLU()), n, [x]) for n in (norm, copy.deepcopy(norm)))
    assert all(torch.equal(one, other) for one, other in zip(first[:4], second[:4], strict=True))


def test_evaluation_mode_uses_the_running_statistics():
    norm = norm_of().eval()
    x, shortcut = torch.randn(2, 2, CHANNELS, 5, 5)
    before = norm.running_mean.clone()
    torch.testing.assert_close(BatchNormActivation(norm, nn.ReLU())(x, shortcut), torch.relu(norm(x) + shortcut))
    assert torch.equal(norm.running_mean, before)


def test_other_types_go_through_the_layers():
    norm = norm_of().double()
    x = torch.randn(2, CHANNELS, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(BatchNormActivation(norm, nn.ReLU6())(x), nn.functional.relu6(norm(x)))


def test_a_single_value_a_channel_is_torchs_error():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        BatchNormActivation(norm_of(), nn.ReLU())(torch.randn(1, CHANNELS, 1, 1))


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}], ids=str)
def test_other_kinds_of_batch_norm_stay(options):
    assert can_fuse(nn.BatchNorm2d(4))
    assert not can_fuse(nn.BatchNorm2d(4, **options))
    assert not can_fuse(nn.BatchNorm1d(4))
