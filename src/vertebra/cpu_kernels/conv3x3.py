"""3×3 convolutions by Winograd's algorithm: a quarter of the products of the definition, and their gradients likewise.

Lavin & Gray 2015 (https://arxiv.org/abs/1509.09308), as cuDNN has it for GPUs; torch's own library for processors no
longer does. The error of rounding is about that of torch's.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .compiled_functions import library
from .layer_kernel import LayerKernel

_VECTOR = 16  # channels that are computed at once
_TILE = 4  # rows and columns of outputs that are computed at once
# Measured: with fewer channels, or fewer pixels in the batch, the transforms of maps or weights take what is saved.
_MIN_CHANNELS, _MIN_PIXELS = 32, 400
_MIN_FILLED = 0.6  # share of its tiles that a map has to fill: 7×7 fill three quarters of four tiles


class Conv3x3(LayerKernel):
    """A 3×3 convolution: (N, C, H, W) → (N, C', H, W)."""

    layer: nn.Conv2d

    def compute(self, x: Tensor) -> Tensor:
        """Forwards and backwards by kernels; small maps by the layer itself."""
        if not is_worthwhile(x):
            y: Tensor = self.layer(x)
            return y
        result: Tensor = _Conv3x3.apply(x, self.layer.weight, self.layer.bias)
        return result


class Weights3x3(NamedTuple):
    """Transformed weights of a convolution, for all calls until they change."""

    values: Tensor
    channels: int
    out_channels: int


def can_replace(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether there is a kernel for a convolution."""
    return (
        type(conv) is nn.Conv2d
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
        and conv.in_channels % _VECTOR == conv.out_channels % _VECTOR == 0
        and conv.kernel_size == (3, 3)
        and (conv.stride, conv.padding, conv.dilation) == ((1, 1), (1, 1), (1, 1))
        and conv.padding_mode == "zeros"
    )


def is_worthwhile(x: Tensor) -> bool:
    """Whether the maps (N, C, H, W) are large enough."""
    images, _, height, width = x.shape
    tiles = -(-height // _TILE) * -(-width // _TILE)
    return images * height * width >= _MIN_PIXELS and height * width >= _MIN_FILLED * _TILE**2 * tiles


def transformed_weights(weight: Tensor, for_input_gradient: bool = False) -> Weights3x3:
    """(C', C, 3, 3) → what `convolve` takes; for the gradient of the input the convolution from C' to C channels."""
    strides, address = list(weight.stride()), weight.data_ptr()
    out_channels, channels = weight.shape[:2]
    if for_input_gradient:  # turned by 180°: from the last value on, backwards
        address += weight.element_size() * 2 * (strides[2] + strides[3])
        strides = [strides[1], strides[0], -strides[2], -strides[3]]
        out_channels, channels = channels, out_channels
    values = torch.empty(library().conv3x3_weights_size(channels, out_channels))
    library().conv3x3_weights(
        address, (ctypes.c_int64 * 4)(*strides), channels, out_channels, values, torch.get_num_threads()
    )
    return Weights3x3(values, channels, out_channels)


def convolve(x: Tensor, weights: Weights3x3, bias: Tensor | None = None) -> Tensor:
    """(N, C, H, W) → (N, C', H, W), both channels-last."""
    images, channels, height, width = x.shape
    y = torch.empty((images, weights.out_channels, height, width), memory_format=torch.channels_last)
    library().conv3x3(
        x, weights.values, bias, torch.zeros(channels), y,
        *_sizes(x, weights.out_channels), _scratch(x, weights.out_channels), torch.get_num_threads(),
    )  # fmt: skip
    return y


def weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """The gradient of the weights, (C', C, 3, 3), from the input and that of the output, both channels-last."""
    channels, out_channels = x.shape[1], dy.shape[1]
    sums, found = torch.empty(36 * out_channels * channels), torch.empty(out_channels, 3, 3, channels)
    library().conv3x3_weight_gradient(
        x, dy, torch.zeros(max(channels, out_channels)), sums, found,
        *_sizes(x, out_channels), _scratch(x, out_channels), torch.get_num_threads(),
    )  # fmt: skip
    return found.permute(0, 3, 1, 2)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        return convolve(x, transformed_weights(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            convolve(dy, transformed_weights(weight, for_input_gradient=True)) if needs_x else None,
            weight_gradient(x, dy) if needs_weight else None,
            dy.sum((0, 2, 3)) if needs_bias else None,
        )


def _sizes(x: Tensor, out_channels: int) -> tuple[int, int, int, int, int]:
    images, channels, height, width = x.shape
    return images, height, width, channels, out_channels


def _scratch(x: Tensor, out_channels: int) -> Tensor:
    return torch.empty(library().conv3x3_scratch_size(*_sizes(x, out_channels), torch.get_num_threads()))
