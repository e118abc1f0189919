"""Tests of kernels, which are compiled once for all test processes."""

import pytest


@pytest.fixture(autouse=True)
def _kernels(kernels):
    """For all tests of this folder."""


@pytest.fixture(params=[1, 2, 3, 7])
def threads(request):
    """Numbers of threads that torch and the kernels have."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def assert_convolves():
    """A function of a kernel, its layer and an input: compares output and all gradients with torch's in float64."""
    torch = pytest.importorskip("torch")

    def results(module, conv, x):
        x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = module(x)
        torch.manual_seed(1)
        gradients = torch.autograd.grad(y, [x, *conv.parameters()], torch.randn(y.shape, dtype=torch.float64).to(y))
        return [part.double() for part in (y, *gradients)]

    def compare(kernel, conv, x, atol):
        found = results(kernel, conv, x)
        double = conv.double()
        for one, other in zip(found, results(double, double, x.double()), strict=True):
            scale = other.abs().max().clamp(min=1e-30)
            torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=atol)

    return compare
