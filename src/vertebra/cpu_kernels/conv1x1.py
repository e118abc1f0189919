"""1×1 convolutions with the statistics of their output, which batch norm needs, and their gradients.

They are products of matrices. Torch's library is as fast while everything is in the cache. These fetch from memory what
comes next while they compute, and write large maps past the cache: 0.9 of the time, for gradients of weights 0.85.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .compiled_functions import library
from .layer_kernel import LayerKernel, empty_map

# Measured: with fewer channels, or fewer pixels in the batch, torch's take as long.
_MIN_CHANNELS, _MIN_PIXELS = 24, 400


class Conv1x1(LayerKernel):
    """A 1×1 convolution with stride s: (N, C, H, W) → (N, C', ⌈H/s⌉, ⌈W/s⌉)."""

    layer: nn.Conv2d

    def compute(self, x: Tensor) -> Tensor:
        """Forwards and backwards by kernels; few pixels by the layer itself."""
        y: Tensor = _apply(self.layer, x, False)[0] if is_worthwhile(x, self.layer) else self.layer(x)
        return y


class Conv1x1WithStatistics(Conv1x1):
    """Gives as well what `channel_statistics` would find of the output, (2, C'); None where there is no kernel."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """(N, C, H, W) → what the layer gives, and its statistics."""
        if self.takes(x) and is_worthwhile(x, self.layer):
            return _apply(self.layer, x, True)
        return self.layer(x), None


def can_replace(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether there is a kernel for a convolution."""
    return (
        type(conv) is nn.Conv2d
        and conv.groups == 1
        and conv.bias is None
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
        and conv.kernel_size == (1, 1)
        and conv.stride in {(1, 1), (2, 2)}
        and conv.padding in {(0, 0), "valid", "same"}
    )


def is_worthwhile(x: Tensor, layer: nn.Conv2d) -> bool:
    """Whether the maps (N, C, H, W) have enough pixels."""
    return x.numel() >= _MIN_PIXELS * x.shape[1] * layer.stride[0] ** 2


def _apply(layer: nn.Conv2d, x: Tensor, with_statistics: bool) -> tuple[Tensor, Tensor | None]:
    found: tuple[Tensor, Tensor | None] = _Conv1x1.apply(x, layer.weight, layer.stride[0], with_statistics)
    return found


class _Conv1x1(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, with_statistics: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.stride, ctx.size = stride, x.shape
        x = _every(x, stride)
        ctx.save_for_backward(x, weight)
        out_channels, channels = weight.shape[:2]
        statistics = torch.empty(2, out_channels, dtype=torch.float64) if with_statistics else None
        y = _product(x, weight.view(out_channels, channels).t(), statistics)
        if statistics is not None:
            ctx.mark_non_differentiable(statistics)
        return y, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx: Tensor | None = None
        if needs_x and ctx.stride == 1:
            dx = _product(dy, weight.view(weight.shape[:2]), None)
        elif needs_x:
            like_x = empty_map(*ctx.size)
            stride = [ctx.stride, ctx.stride]
            dx = torch.ops.aten.convolution_backward(
                dy, like_x, weight, None, stride, [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        return dx, _weight_gradient(x, dy, weight) if needs_weight else None, None, None


def _every(x: Tensor, stride: int) -> Tensor:
    """Every pixel of a map, or every second of its rows and columns, in channels-last memory."""
    return x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)


def _product(x: Tensor, weights: Tensor, statistics: Tensor | None) -> Tensor:
    """(N, C, H, W) and (C, C') → (N, C', H, W)."""
    images, channels, height, width = x.shape
    out_channels = weights.shape[1]
    y = empty_map(images, out_channels, height, width)
    sizes, threads = (images * height * width, channels, out_channels), torch.get_num_threads()
    totals = None if statistics is None else torch.empty(threads, 2, out_channels, dtype=torch.float64)
    scratch = torch.empty(library().conv1x1_scratch_size(*sizes, threads))
    library().conv1x1(x, weights, *weights.stride(), y, statistics, *sizes, totals, scratch, threads)
    return y


def _weight_gradient(x: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
    out_channels, channels = weight.shape[:2]
    found = torch.empty(weight.shape)
    sizes, threads = (dy.numel() // out_channels, channels, out_channels), torch.get_num_threads()
    scratch = torch.empty(library().conv1x1_gradient_scratch_size(*sizes, threads))
    library().conv1x1_weight_gradient(x, dy, found, *sizes, scratch, threads)
    return found
