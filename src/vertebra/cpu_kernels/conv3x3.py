"""3×3 convolutions by Winograd's algorithm: a quarter of the products of the definition, and their gradients likewise.

Lavin & Gray 2015 (https://arxiv.org/abs/1509.09308), as cuDNN has it for GPUs; torch's own library for processors no
longer does. With stride 2 it is 0.56 of the products. The error of rounding is about that of torch's.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .compiled_functions import library
from .layer_kernel import LayerKernel, empty_map

_VECTOR = 16  # channels that are computed at once
_TILE = 4  # rows and columns of outputs that are computed at once
# Measured: with fewer channels, or fewer pixels in the batch, the transforms of maps or weights take what is saved.
_MIN_CHANNELS, _MIN_PIXELS = 32, 400
_MIN_FILLED = 0.6  # share of its tiles that a map has to fill: 7×7 fill three quarters of four tiles


class Conv3x3(LayerKernel):
    """A 3×3 convolution with stride s: (N, C, H, W) → (N, C', ⌈H/s⌉, ⌈W/s⌉)."""

    layer: nn.Conv2d

    def compute(self, x: Tensor) -> Tensor:
        """Forwards and backwards by kernels; small maps by the layer itself."""
        stride = self.layer.stride[0]
        if not is_worthwhile(x, stride):
            y: Tensor = self.layer(x)
            return y
        result: Tensor = _Conv3x3.apply(x, self.layer.weight, self.layer.bias, stride)
        return result


def can_replace(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether there is a kernel for a convolution."""
    return (
        type(conv) is nn.Conv2d
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
        and conv.in_channels % _VECTOR == conv.out_channels % _VECTOR == 0
        and conv.kernel_size == (3, 3)
        and conv.stride in {(1, 1), (2, 2)}
        and (conv.padding, conv.dilation) == ((1, 1), (1, 1))
        and conv.padding_mode == "zeros"
    )


def is_worthwhile(x: Tensor, stride: int) -> bool:
    """Whether the maps (N, C, H, W) are large enough."""
    images, _, *size = x.shape
    height, width = (-(-pixels // stride) for pixels in size)
    tiles = -(-height // _TILE) * -(-width // _TILE)
    return images * height * width >= _MIN_PIXELS and height * width >= _MIN_FILLED * _TILE**2 * tiles


class _Use(IntEnum):
    """What is computed, as in conv3x3.c."""

    OUTPUT = 0
    INPUT_GRADIENT = 1
    WEIGHT_GRADIENT = 2


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        images, _, height, width = x.shape
        y = empty_map(images, weight.shape[0], -(-height // stride), -(-width // stride))
        _convolve(_Use.OUTPUT, x, weight, bias, y, _sizes(x, weight.shape[0]), stride)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        sizes = _sizes(x, weight.shape[0])
        dx = dweight = None
        if needs_x:
            dx = torch.empty_like(x)
            _convolve(_Use.INPUT_GRADIENT, dy, weight, None, dx, sizes, ctx.stride)
        if needs_weight:
            dweight = empty_map(*weight.shape)
            library().conv3x3_weight_gradient(
                x, dy, _zeros(x, dy), dweight, *sizes, ctx.stride,
                _scratch(_Use.WEIGHT_GRADIENT, sizes, ctx.stride), torch.get_num_threads(),
            )  # fmt: skip
        return dx, dweight, dy.sum((0, 2, 3)) if needs_bias else None, None


_Sizes = tuple[int, int, int, int, int]  # images, height, width, channels, output channels


def _convolve(
    use: _Use, maps: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, sizes: _Sizes, stride: int
) -> None:
    library().conv3x3(
        use, maps, weight, (ctypes.c_int64 * 4)(*weight.stride()), bias, _zeros(maps), output, *sizes, stride,
        _scratch(use, sizes, stride), torch.get_num_threads(),
    )  # fmt: skip


def _sizes(x: Tensor, out_channels: int) -> _Sizes:
    images, channels, height, width = x.shape
    return images, height, width, channels, out_channels


def _scratch(use: _Use, sizes: _Sizes, stride: int) -> Tensor:
    return torch.empty(library().conv3x3_scratch_size(use, *sizes, stride, torch.get_num_threads()))


def _zeros(*maps: Tensor) -> Tensor:
    """A pixel outside of any of the maps."""
    return torch.zeros(max(map_.shape[1] for map_ in maps))
