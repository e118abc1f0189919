"""Convolutions by kernels compute the gradients that are asked for, no others, with as many threads as there are."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels.batch_norm import BatchNormActivation, ConcatBatchNormActivation, shared_statistics
from vertebra.cpu_kernels.conv1x1 import Conv1x1
from vertebra.cpu_kernels.conv3x3 import Conv3x3
from vertebra.cpu_kernels.depthwise import DepthwiseConv


def dense():
    return Conv3x3(nn.Conv2d(32, 48, 3, padding=1, bias=False))


def pointwise():
    return Conv1x1(nn.Conv2d(32, 48, 1, bias=False))


def strided():
    return Conv1x1(nn.Conv2d(32, 48, 1, stride=2, bias=False))


def depthwise():
    return DepthwiseConv(nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False))


@pytest.mark.parametrize("build", [dense, pointwise, strided, depthwise])
def test_a_first_layer_needs_no_gradient_of_its_input(build):
    kernel = build()
    kernel(torch.randn(4, 32, 20, 20)).sum().backward()
    assert kernel.layer.weight.grad is not None
    assert kernel.layer.weight.grad.shape == kernel.layer.weight.shape


@pytest.mark.parametrize("build", [dense, pointwise, strided, depthwise])
def test_frozen_weights_need_none_of_their_own(build):
    kernel = build().requires_grad_(False)
    x = torch.randn(4, 32, 20, 20, requires_grad=True)
    kernel(x).sum().backward()
    assert kernel.layer.weight.grad is None
    assert x.grad is not None


def norm():
    return BatchNormActivation(nn.BatchNorm2d(32), nn.ReLU())


def plain(kernel):
    return nn.Sequential(kernel.norm, kernel.activation) if isinstance(kernel, BatchNormActivation) else kernel.layer


def outcome(module, *inputs):
    """What it gives, or the error that it raises."""
    try:
        return module(*inputs)
    except (RuntimeError, ValueError) as error:
        return str(error)


NOT_TAKEN = {  # inputs, and the type of the weights
    "empty": (torch.randn(0, 32, 20, 20), torch.float32),
    "more channels": (torch.randn(4, 48, 20, 20), torch.float32),
    "fewer channels": (torch.randn(4, 16, 20, 20), torch.float32),
    "one image": (torch.randn(32, 20, 20), torch.float32),
    "bfloat16": (torch.randn(4, 32, 20, 20).bfloat16(), torch.float32),
    "float64": (torch.randn(4, 32, 20, 20).double(), torch.float64),
    "inputs float64": (torch.randn(4, 32, 20, 20).double(), torch.float32),
    "weights float64": (torch.randn(4, 32, 20, 20), torch.float64),
}


@pytest.mark.parametrize("build", [dense, pointwise, strided, depthwise, norm])
@pytest.mark.parametrize(("x", "dtype"), NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_what_the_kernels_do_not_take_is_the_layers(build, x, dtype):
    kernel = build().to(dtype)
    found, expected = outcome(kernel, x), outcome(plain(copy.deepcopy(kernel)), x)
    assert type(found) is type(expected)
    assert found == expected if isinstance(found, str) else torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 32, 1, 1), (4, 1, 1, 1), (4, 32, 1, 20), (20,)])
def test_a_shortcut_that_is_expanded_is_torchs(shape):
    x, shortcut, kernel = torch.randn(4, 32, 20, 20), torch.randn(shape), norm()
    expected = torch.relu(copy.deepcopy(kernel.norm)(x) + shortcut)
    assert torch.equal(kernel(x, shortcut), expected)
    assert torch.equal(kernel(x, shortcut.double()), torch.relu(kernel.norm(x) + shortcut.double()))


def test_maps_that_cannot_be_concatenated_are_refused():
    pieces = [torch.randn(4, 16, 20, 20), torch.randn(4, 16, 10, 10)]
    kernel = ConcatBatchNormActivation(nn.BatchNorm2d(32), nn.ReLU())
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        kernel(pieces, [shared_statistics(piece) for piece in pieces])


@pytest.mark.parametrize("build", [dense, pointwise, strided, depthwise])
def test_autocast_gives_the_type_that_it_gives_for_the_layer(build):
    with torch.autocast("cpu", torch.bfloat16):
        assert build()(torch.randn(4, 32, 20, 20)).dtype == torch.bfloat16


FEWER_THREADS = """
import torch
from torch import nn
from vertebra.cpu_kernels import fuse

torch.manual_seed(0)
torch.set_num_threads(1)
network = nn.Sequential(
    nn.Conv2d(3, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.SiLU(),
    nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False),
    nn.Conv2d(48, 48, 1, bias=False), nn.BatchNorm2d(48),
    nn.Conv2d(48, 320, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(320),
).train()
x, factors = torch.randn(8, 3, 24, 24), torch.randn(8, 320, 12, 12)

def gradients(module):
    return torch.autograd.grad((module(x) * factors).sum(), list(network.parameters()))

expected = gradients(network)
torch.get_num_threads = lambda: 3
print(max(float((a - b).norm() / b.norm()) for a, b in zip(gradients(fuse(network)), expected)))
"""


def test_openmp_may_give_fewer_threads_than_are_asked_for(kernels):
    cache = Path(kernels._name).parents[1]  # where they are compiled already
    changed = {"OMP_THREAD_LIMIT": "1", "VERTEBRA_CACHE": str(cache)}
    command = [sys.executable, "-W", "ignore", "-c", FEWER_THREADS]
    done = subprocess.run(
        command, env={**os.environ, **changed}, capture_output=True, text=True, check=True, timeout=100
    )
    assert float(done.stdout) < 1e-4
