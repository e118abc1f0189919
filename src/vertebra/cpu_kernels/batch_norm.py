"""Batch norm with the shortcut and activation behind it, as one operation with its own gradient."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .compiled_functions import library
from .layer_kernel import has_kernel

# Numbers as in activation.h.
ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.SiLU: 3}
_NONE, _RELU = 0, 1


class BatchNormActivation(nn.Module):
    """activation(norm(x) + shortcut): (N, C, H, W) → the same shape; shares the layers' parameters and buffers.

    In evaluation mode, and for other types than float32 on the CPU, it calls the layers themselves.
    """

    def __init__(self, norm: nn.BatchNorm2d, activation: nn.Module) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Call the kernel if it computes what the layers would."""
        norm = self.norm
        if norm.training and has_kernel(x):
            result: Tensor = _BatchNormActivation.apply(
                x, norm.weight, norm.bias, shortcut, norm, ACTIVATIONS[type(self.activation)]
            )
            return result
        y = norm(x)
        activated: Tensor = self.activation(y if shortcut is None else y + shortcut)
        return activated


def can_fuse(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a layer is a batch norm of the usual kind."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None


class _BatchNormActivation(torch.autograd.Function):
    """Saves the input alone, and computes the normalised values again; after a shortcut also the output.

    Apart, the input, the normalised values and mostly the activation are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, act: int
    ) -> Tensor:
        images, channels, height, width = x.shape
        rows = images * height * width
        if rows <= 1:  # torch's own message
            F.batch_norm(x, None, None, weight, bias, True)
        x = x.contiguous(memory_format=torch.channels_last)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        y, saved = torch.empty_like(x), torch.empty(4, channels)
        totals, sums = _scratch(channels)
        library().batch_norm_forward(
            x, shortcut, rows, channels, weight, bias,
            norm.running_mean, norm.running_var, norm.momentum, norm.eps, act,
            y, saved, totals, sums, torch.get_num_threads(),
        )  # fmt: skip
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
        ctx.act, ctx.has_shortcut = act, shortcut is not None
        ctx.save_for_backward(x, saved, y if shortcut is not None and act != _NONE else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, saved, y = ctx.saved_tensors
        images, channels, height, width = x.shape
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dshortcut = torch.empty_like(x), torch.empty_like(x) if y is not None else None
        dweight, dbias = torch.empty(channels), torch.empty(channels)
        totals, sums = _scratch(channels)
        library().batch_norm_backward(
            x, y, dy, images * height * width, channels, saved, ctx.act,
            dx, dshortcut, dweight, dbias,
            totals, sums, torch.get_num_threads(),
        )  # fmt: skip
        if ctx.has_shortcut and y is None:
            dshortcut = dy
        return dx, dweight, dbias, dshortcut, None, None


def _scratch(channels: int) -> tuple[Tensor, Tensor]:
    shape = torch.get_num_threads(), 2, channels
    return torch.empty(shape, dtype=torch.float64), torch.empty(shape)
