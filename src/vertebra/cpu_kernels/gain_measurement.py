"""Measure on this machine whether the kernels are faster than torch's layers, and check that results agree."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from vertebra.cache import read_json, write_json

from .batch_norm import BatchNormActivation
from .c_compiler import KernelError, compiled_library
from .conv1x1 import Conv1x1
from .conv3x3 import Conv3x3
from .depthwise import DepthwiseConv

_SHAPE = 8, 96, 56, 56  # of a map in the second stage of a mobile network: 10 MB
_TURNS = 7


def measured_gain() -> float:
    """Return how many times as fast the kernels are, forwards and backwards; measured once for a number of threads.

    Raises:
        KernelError: there are none, or their results differ from torch's.
    """
    library = compiled_library()
    path = library.with_name(f"{library.stem}-{torch.get_num_threads()}-threads.json")
    known = read_json(path)
    if known is None:
        known = {"gain": _measure()}
        write_json(path, known)
    return float(known["gain"])


def _measure() -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers, kernels = _pair(nn.ReLU6())
        x, gradient = (part.contiguous(memory_format=torch.channels_last) for part in torch.randn(2, *_SHAPE))
        _check()
    seconds: dict[nn.Module, list[float]] = {layers: [], kernels: []}
    for turn in range(_TURNS):
        for module in (layers, kernels) if turn % 2 else (kernels, layers):
            start = time.perf_counter()
            _results(module, x, gradient)
            seconds[module].append(time.perf_counter() - start)
    return statistics.median(seconds[layers]) / statistics.median(seconds[kernels])


def _pair(activation: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    channels = _SHAPE[1]
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    norm = nn.BatchNorm2d(channels)
    return (
        nn.Sequential(conv, norm, activation),
        nn.Sequential(DepthwiseConv(conv), BatchNormActivation(norm, activation)),
    )


def _check() -> None:
    """Compare one operation at a time, with an activation whose gradient does not jump where rounding differs."""
    small, large = (nn.Conv2d(_SHAPE[1], _SHAPE[1], 2 * i + 1, padding=i, bias=False) for i in range(2))
    stages = zip(*(_stages(sequence) for sequence in _pair(nn.SiLU())), strict=True)
    pairs = *stages, (small, Conv1x1(small)), (large, Conv3x3(large))
    for layer, kernel in pairs:
        x, gradient = torch.randn(2, 4, _SHAPE[1], 14, 14)
        expected, found = _results(layer, x, gradient), _results(kernel, x, gradient)
        for one, other in zip(expected, found, strict=True):
            scale = one.abs().max()
            if not torch.allclose(one / scale, other / scale, rtol=1e-4, atol=1e-4):
                raise KernelError("the compiled kernels do not compute what torch's layers do")


def _stages(sequence: nn.Sequential) -> tuple[nn.Module, nn.Module]:
    """Return the convolution, and the rest."""
    return sequence[0], sequence[1:]


def _results(module: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Return the output and all gradients."""
    x = x.detach().requires_grad_()
    y: Tensor = module(x)
    return y, *torch.autograd.grad(y, (x, *module.parameters()), gradient)
