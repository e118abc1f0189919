"""Shapes of the results of the operations that convolutional networks are made of: windows, broadcasting, ATen's rules.

torch knows ATen's too, but its rules for the meta device are written in Python over its reference operators: the first
use imports 900 modules (3 s), and each batch norm takes 1 ms. A rule here returns None where the case is not the plain
one, and torch's own is used. The tests hold both against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int, ...]


Tensor: TypeAlias = Any  # of torch, on the meta device


class Indices(Shape):
    """The shape of a result of int64; other results have the type of the first operand."""


# One shape for each result. A single result that is the first operand itself, changed in place, is FIRST_OPERAND.
Shapes: TypeAlias = list[Shape] | None
Rule: TypeAlias = Callable[..., Shapes]
FIRST_OPERAND: Shapes = []


def window(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool = False, after: int | None = None
) -> int:
    """How many positions a sliding window has along one side; `after` is the padding at its end where that differs."""
    reach = size + padding + (padding if after is None else after) - dilation * (kernel - 1) - 1
    count = (reach + (stride - 1 if ceil else 0)) // stride + 1
    # With ceil, a window must begin inside the input or the padding on its left.
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def spread(values: Sequence[int] | int, dims: int) -> list[int]:
    """One value for each spatial dimension, from one for all."""
    values = [values] if isinstance(values, int) else list(values)
    return values * dims if len(values) == 1 else values


def _one(shape: Sequence[int]) -> Shapes:
    return [tuple(shape)]


def _plain(*tensors: Tensor) -> bool:
    return all(tensor.is_contiguous() for tensor in tensors)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Shapes:
    dims = weight.ndim - 2
    if transposed or x.ndim != weight.ndim or x.shape[1] != weight.shape[1] * groups or not _plain(x, weight):
        return None
    steps, pads, dilations = spread(stride, dims), spread(padding, dims), spread(dilation, dims)
    sides = [window(x.shape[2 + i], weight.shape[2 + i], steps[i], pads[i], dilations[i]) for i in range(dims)]
    if min(sides, default=1) < 1 or x.dtype != weight.dtype:
        return None  # torch says what is wrong
    return _one((x.shape[0], weight.shape[0], *sides))


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Shapes:
    if not _plain(x):
        return None
    # The statistics of the batch, which only training has.
    channels = (x.shape[1],) if training else (0,)
    return [tuple(x.shape), channels, channels]


def _same(x: Tensor, *args: Any, **kwargs: Any) -> Shapes:
    return _one(x.shape) if _plain(x) and x.is_floating_point() else None


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Shapes:
    return None if half_to_float else _same(x)


def _itself(x: Tensor, *args: Any, **kwargs: Any) -> Shapes:
    return FIRST_OPERAND


def broadcast(*shapes: Sequence[int]) -> Shape:
    """The shape of several together, as numpy has it; where two sides do not fit the larger one is taken."""
    rank = max(map(len, shapes), default=0)
    sides = zip(*((*[1] * (rank - len(shape)), *shape) for shape in shapes), strict=True)
    return tuple(0 if 0 in side else max(side) for side in sides)


def _binary(x: Tensor, y: Any, **kwargs: Any) -> Shapes:
    if isinstance(y, float) and x.is_floating_point() and _plain(x):
        return _one(x.shape)
    if not hasattr(y, "shape") or x.dtype != y.dtype or not _plain(x, y):
        return None
    if x.shape == y.shape:
        return _one(x.shape)
    # A scale of one value a channel: (N, C, 1, 1) times (N, C, H, W), in either order.
    for big, small in ((x, y), (y, x)):
        if big.ndim == small.ndim and all(s in (1, b) for b, s in zip(big.shape, small.shape, strict=True)):
            return _one(big.shape)
    return None


def _binary_in_place(x: Tensor, y: Any, **kwargs: Any) -> Shapes:
    return FIRST_OPERAND if hasattr(y, "shape") and x.shape == y.shape else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Shapes:
    first = tensors[0]
    if not _plain(*tensors) or any(t.ndim != first.ndim or t.dtype != first.dtype for t in tensors):
        return None
    dim %= first.ndim
    sides = [{t.shape[i] for t in tensors} for i in range(first.ndim) if i != dim]
    if any(len(side) > 1 for side in sides):
        return None
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return _one(shape)


def _mean(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Shapes:
    if not dims or dtype is not None or not _plain(x) or not x.is_floating_point():
        return None
    gone = {dim % x.ndim for dim in dims}
    return _one([1 if i in gone else side for i, side in enumerate(x.shape) if keepdim or i not in gone])


def _addmm(bias: Tensor, x: Tensor, weight: Tensor, **kwargs: Any) -> Shapes:
    if bias.ndim != 1 or x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[0] or x.dtype != weight.dtype:
        return None
    return _one((x.shape[0], weight.shape[1]))


def _constant_pad(x: Tensor, pad: Sequence[int], value: float = 0) -> Shapes:
    if not _plain(x) or any(side < 0 for side in pad):
        return None
    shape = list(x.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    return _one(shape)


def _max_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Shapes:
    shape = _pooled(x, kernel_size, stride, padding, dilation, ceil_mode)
    return None if shape is None else [shape, Indices(shape)]


def _avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    *args: Any,
) -> Shapes:
    shape = _pooled(x, kernel_size, stride, padding, (1,), ceil_mode)
    return None if shape is None else _one(shape)


def _pooled(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Shape | None:
    if x.ndim != 4 or not _plain(x):
        return None
    kernel, pads, dilations = spread(kernel_size, 2), spread(padding, 2), spread(dilation, 2)
    steps = spread(stride, 2) if stride else kernel
    sides = [window(x.shape[2 + i], kernel[i], steps[i], pads[i], dilations[i], ceil_mode) for i in range(2)]
    return (*x.shape[:2], *sides) if min(sides) > 0 else None


def _adaptive_pool(x: Tensor, output_size: Sequence[int]) -> Shapes:
    return _one((*x.shape[:2], *output_size)) if x.ndim == 4 and _plain(x) else None


# By the name of the overload, as torch.ops has it.
RULES: dict[str, Rule] = {
    "convolution.default": _convolution,
    "native_batch_norm.default": _batch_norm,
    "relu.default": _same,
    "silu.default": _same,
    "sigmoid.default": _same,
    "hardtanh.default": _same,
    "_softmax.default": _softmax,
    "relu_.default": _itself,
    "silu_.default": _itself,
    "sigmoid_.default": _itself,
    "hardtanh_.default": _itself,
    "add.Tensor": _binary,
    "mul.Tensor": _binary,
    "add_.Tensor": _binary_in_place,
    "mul_.Tensor": _binary_in_place,
    "cat.default": _cat,
    "max_pool2d_with_indices.default": _max_pool,
    "avg_pool2d.default": _avg_pool,
    "_adaptive_avg_pool2d.default": _adaptive_pool,
    "mean.dim": _mean,
    "addmm.default": _addmm,
    "constant_pad_nd.default": _constant_pad,
}
