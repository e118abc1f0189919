"""Batch norm with the concatenation before it, and the shortcut and activation behind it, as one operation."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .compiled_functions import library
from .layer_kernel import empty_map, has_kernel

# Numbers as in activation.h.
ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.SiLU: 3}
_NONE = ACTIVATIONS[nn.Identity]


class BatchNormActivation(nn.Module):
    """activation(norm(x) + shortcut): (N, C, H, W) → the same shape; shares the layers' parameters and buffers.

    In evaluation mode, and for what `takes` denies, it calls the layers themselves.
    """

    def __init__(self, norm: nn.BatchNorm2d, activation: nn.Module) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor, shortcut: Tensor | None = None, statistics: Tensor | None = None) -> Tensor:
        """Call the kernel if it computes what the layers would; `statistics` are those of x, if they are known."""
        if self.takes([x], shortcut):
            found = channel_statistics(x) if statistics is None else statistics
            return _normalise(self.norm, self.activation, [x], [found], shortcut)
        y = self.norm(x)
        activated: Tensor = self.activation(y if shortcut is None else y + shortcut)
        return activated

    def takes(self, pieces: Sequence[Tensor], shortcut: Tensor | None = None) -> bool:
        """Whether the kernel computes this: nothing that torch would convert, refuse or expand."""
        beside = [self.norm.weight] if shortcut is None else [self.norm.weight, shortcut]
        if not self.norm.training or not has_kernel(*pieces, *beside):
            return False
        images, _, *size = pieces[0].shape
        return (
            all([len(piece), *piece.shape[2:]] == [images, *size] for piece in pieces)
            and sum(piece.shape[1] for piece in pieces) == self.norm.num_features
            and (shortcut is None or [*shortcut.shape] == [images, self.norm.num_features, *size])
        )


class ConcatBatchNormActivation(BatchNormActivation):
    """activation(norm(concatenation)) without making the concatenation: (N, C1, H, W), … → (N, C1 + …, H, W).

    A dense layer reads all maps before it. Their statistics are computed once, for all layers that read them.
    """

    def forward(self, pieces: Sequence[Tensor], statistics: Sequence[Tensor | None]) -> Tensor:  # type: ignore[override]
        """As of the superclass; `statistics` are those that `channel_statistics` gives for each piece."""
        known = [part for part in statistics if part is not None]
        if len(known) == len(pieces) and self.takes(pieces):
            return _normalise(self.norm, self.activation, pieces, known)
        return super().forward(torch.cat(list(pieces), 1))


def can_fuse(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a layer is a batch norm of the usual kind."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None


def shared_statistics(x: Tensor) -> Tensor | None:
    """Return `channel_statistics`, or None where there is no kernel."""
    return channel_statistics(x) if has_kernel(x) else None


def channel_statistics(x: Tensor) -> Tensor:
    """(N, C, H, W) → mean and variance of each channel, without Bessel's correction, (2, C) in float64."""
    x = x.detach().contiguous(memory_format=torch.channels_last)
    channels = x.shape[1]
    found = torch.empty(2, channels, dtype=torch.float64)
    library().channel_statistics(x, _rows(x), channels, found, *_scratch(channels), torch.get_num_threads())
    return found


def _normalise(
    norm: nn.BatchNorm2d,
    activation: nn.Module,
    pieces: Sequence[Tensor],
    statistics: Sequence[Tensor],
    shortcut: Tensor | None = None,
) -> Tensor:
    if _rows(pieces[0]) <= 1:  # torch's own message
        F.batch_norm(torch.cat(list(pieces), 1), None, None, norm.weight, norm.bias, True)
    act = ACTIVATIONS[type(activation)]
    y: Tensor = _BatchNormActivation.apply(norm, act, statistics, norm.weight, norm.bias, shortcut, *pieces)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
    return y


class _BatchNormActivation(torch.autograd.Function):
    """Saves the input alone, and computes the normalised values again; after a shortcut also the output.

    Apart, the input, the normalised values and mostly the activation are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        norm: nn.BatchNorm2d,
        act: int,
        statistics: Sequence[Tensor],
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        *pieces: Tensor,
    ) -> Tensor:
        pieces = tuple(piece.contiguous(memory_format=torch.channels_last) for piece in pieces)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        images, _, height, width = pieces[0].shape
        channels = len(weight)
        y = empty_map(images, channels, height, width)
        saved = torch.empty(4 * channels)
        library().batch_norm_forward(
            _pointers(pieces), _pointers(statistics), _channels(pieces), len(pieces), shortcut,
            _rows(y), channels, weight, bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps, act,
            y, saved, torch.get_num_threads(),
        )  # fmt: skip
        ctx.act, ctx.has_shortcut = act, shortcut is not None
        ctx.save_for_backward(saved, y if shortcut is not None and act != _NONE else None, *pieces)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved, y, *pieces = ctx.saved_tensors
        channels = len(saved) // 4
        dy = dy.contiguous(memory_format=torch.channels_last)
        gradients = [torch.empty_like(piece) for piece in pieces]
        dshortcut = torch.empty_like(y) if y is not None else None
        dweight, dbias = torch.empty(channels), torch.empty(channels)
        library().batch_norm_backward(
            _pointers(pieces), _channels(pieces), len(pieces), y, dy, _rows(dy), channels, saved, ctx.act,
            _pointers(gradients), dshortcut, dweight, dbias, *_scratch(channels), torch.get_num_threads(),
        )  # fmt: skip
        if ctx.has_shortcut and y is None:
            dshortcut = dy
        return None, None, None, dweight, dbias, dshortcut, *gradients


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[1] if x.shape[1] else 0


def _pointers(tensors: Sequence[Tensor]) -> Any:
    """Their addresses as an array; the caller holds the tensors."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _channels(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_int64 * len(tensors))(*(tensor.shape[1] for tensor in tensors))


def _scratch(channels: int) -> tuple[Tensor, Tensor]:
    shape = torch.get_num_threads(), 2, channels
    return torch.empty(shape, dtype=torch.float64), torch.empty(shape)
