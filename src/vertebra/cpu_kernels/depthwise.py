"""Depthwise convolutions with a gradient of the weights of our own.

Forwards, and for the gradient of the input, torch's kernels are as fast as memory; for that of the weights they take
two to ten times as long, most of all for 5×5.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .library import library, pointer

_VECTOR = 16  # channels that are computed at once


class DepthwiseConv(nn.Module):
    """A depthwise convolution: (N, C, H, W) → (N, C, ⌈H/stride⌉, ⌈W/stride⌉); shares the layer's weights.

    For other types than float32 on the CPU it calls the layer itself.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Call the kernel if it computes what the layer would."""
        conv = self.conv
        if x.dtype != torch.float32 or x.device.type != "cpu":
            y: Tensor = conv(x)
            return y
        result: Tensor = _Depthwise.apply(x, conv.weight, conv.stride[0], conv.padding[0])
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
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        channels, _, kernel, _ = weight.shape
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            geometry = [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], channels
            dx, _, _ = torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, [True, False, False])
        if ctx.needs_input_grad[1]:
            threads = torch.get_num_threads()
            sums, zeros = torch.empty(threads, kernel * kernel, channels), torch.zeros(x.shape[3], channels)
            library().depthwise_weight_gradient(
                pointer(x), pointer(dy), pointer(zeros), pointer(sums), *x.shape, *dy.shape[2:], kernel, ctx.stride,
                ctx.padding, threads,
            )  # fmt: skip
            dweight = sums[0].t().reshape(weight.shape)
        return dx, dweight, None, None
