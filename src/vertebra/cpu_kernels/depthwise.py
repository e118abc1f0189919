"""Depthwise convolutions by kernels of our own.

They read maps that are not in the cache in the order of memory; torch's take up to twice as long, and for the gradient
of the weights ten times, most of all for 5×5.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Size, Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .compiled_functions import library
from .layer_kernel import LayerKernel, empty_map

_VECTOR = 16  # channels that are computed at once
# Columns of a map below which torch's own kernels for 5×5 are faster: most windows reach over an end of the row.
_MIN_WIDTH = 16


class DepthwiseConv(LayerKernel):
    """A depthwise convolution: (N, C, H, W) → (N, C, ⌈H/stride⌉, ⌈W/stride⌉)."""

    layer: nn.Conv2d

    def compute(self, x: Tensor) -> Tensor:
        """Forwards and backwards by kernels."""
        result: Tensor = _Depthwise.apply(x, self.layer.weight, self.layer.stride[0])
        return result


def can_replace(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether there is a kernel for a convolution."""
    if type(conv) is not nn.Conv2d or not conv.groups == conv.in_channels == conv.out_channels:
        return False
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    return (
        conv.in_channels % _VECTOR == 0
        and conv.bias is None
        and kernel in ((3, 3), (5, 5))
        and stride in ((1, 1), (2, 2))
        and padding == (kernel[0] // 2, kernel[0] // 2)
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        if _is_narrow(x, weight):
            return F.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, channels)
        y = empty_map(images, channels, -(-height // stride), -(-width // stride))
        _call("depthwise_forward", x, _channels_last(weight), y, x.shape, y.shape, weight.shape[2], stride)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        channels, _, kernel, _ = weight.shape
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            if _is_narrow(x, weight):
                geometry = [ctx.stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], channels
                dx, _, _ = torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, [True, False, False])
            elif ctx.stride == 1:  # a convolution with the weights in reverse order
                _call("depthwise_forward", dy, _channels_last(weight.flip(2, 3)), dx, dy.shape, x.shape, kernel, 1)
            else:
                _call("depthwise_input_gradient", dy, _channels_last(weight), dx, x.shape, dy.shape, kernel)
        if ctx.needs_input_grad[1]:
            sums = torch.empty(torch.get_num_threads(), kernel * kernel, channels)
            _call("depthwise_weight_gradient", x, dy, sums, x.shape, dy.shape, kernel, ctx.stride)
            dweight = sums[0].t().reshape(weight.shape)
        return dx, dweight, None


def _is_narrow(x: Tensor, weight: Tensor) -> bool:
    return weight.shape[2] == 5 and x.shape[3] < _MIN_WIDTH


def _call(
    name: str, first: Tensor, second: Tensor, target: Tensor, shape: Size, out_shape: Size, *geometry: int
) -> None:
    """Call a kernel that reads the map `first`; the shapes are those of the convolution's input and output."""
    zeros = torch.zeros(first.shape[3], first.shape[1])
    getattr(library(), name)(
        first, second, zeros, target, *shape, *out_shape[2:], *geometry,
        torch.get_num_threads(),
    )  # fmt: skip


def _channels_last(weight: Tensor) -> Tensor:
    """(C, 1, k, k) → (k, k, C)."""
    return weight.detach()[:, 0].permute(1, 2, 0).contiguous()
