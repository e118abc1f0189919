"""Output shapes of ATen's most frequent operators in convolutional networks, and arithmetic of shapes.

torch's own rules for the meta device are written in Python on reference operators: their first use imports 900 modules
(3 s), and each batch norm takes 1 ms. A rule here returns None in all but the ordinary case, and torch's rule is used.
The tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int, ...]


class Indices(Shape):
    """The shape of an int64 output; other outputs have the dtype of the first operand."""


# One shape per output. FIRST_OPERAND stands for the first operand itself, changed in place.
Shapes: TypeAlias = list[Shape] | None
Rule: TypeAlias = Callable[[Mapping[str, Any]], Shapes]  # from the arguments by ATen's names
FIRST_OPERAND: Shapes = []


def num_positions(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool = False, after: int | None = None
) -> int:
    """Positions of a sliding window along one side; `after` is the padding at its end, if different."""
    reach = size + padding + (padding if after is None else after) - dilation * (kernel - 1) - 1
    count = (reach + (stride - 1 if ceil else 0)) // stride + 1
    # With ceil, a window must start inside the input or the padding before it.
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def per_dimension(values: Sequence[int] | int, dims: int) -> list[int]:
    """One value per spatial dimension, from one for all or one each."""
    values = [values] if isinstance(values, int) else list(values)
    return values * dims if len(values) == 1 else values


def broadcast(*shapes: Sequence[int]) -> Shape:
    """The broadcast shape, as in numpy; of two sizes that do not match, the larger one."""
    rank = max(map(len, shapes), default=0)
    sides = zip(*((*[1] * (rank - len(shape)), *shape) for shape in shapes), strict=True)
    return tuple(0 if 0 in side else max(side) for side in sides)


def _contiguous(*tensors: Any) -> bool:
    return all(tensor.is_contiguous() for tensor in tensors)


def _after_window(a: Mapping[str, Any], size: Shape, kernel: Sequence[int]) -> Shape:
    dims = len(kernel)
    steps, pads = per_dimension(a["stride"] or kernel, dims), per_dimension(a["padding"], dims)
    dilations, ceil = per_dimension(a.get("dilation", 1), dims), a.get("ceil_mode", False)
    return tuple(num_positions(size[i], kernel[i], steps[i], pads[i], dilations[i], ceil) for i in range(dims))


def _convolution(a: Mapping[str, Any]) -> Shapes:
    x, weight, groups = a["input"], a["weight"], a["groups"]
    if a["transposed"] or x.ndim != weight.ndim or x.shape[1] != weight.shape[1] * groups or not _contiguous(x, weight):
        return None
    sides = _after_window(a, x.shape[2:], weight.shape[2:])
    if min(sides, default=1) < 1 or x.dtype != weight.dtype:
        return None  # torch raises the error
    return [(x.shape[0], weight.shape[0], *sides)]


def _batch_norm(a: Mapping[str, Any]) -> Shapes:
    x = a["input"]
    # The saved statistics of the batch, which are empty in inference.
    channels = (x.shape[1],) if a["training"] else (0,)
    return [x.shape, channels, channels] if _contiguous(x) else None


def _same(a: Mapping[str, Any]) -> Shapes:
    x = a["self"]
    return [x.shape] if _contiguous(x) and x.is_floating_point() and not a.get("half_to_float") else None


def _in_place(a: Mapping[str, Any]) -> Shapes:
    return FIRST_OPERAND


def _binary(a: Mapping[str, Any]) -> Shapes:
    x, y = a["self"], a["other"]
    if isinstance(y, float) and x.is_floating_point() and _contiguous(x):
        return [x.shape]
    if not hasattr(y, "shape") or x.dtype != y.dtype or not _contiguous(x, y):
        return None
    if x.shape == y.shape:
        return [x.shape]
    # A scale per channel: (N, C, 1, 1) times (N, C, H, W), in either order.
    for big, small in ((x, y), (y, x)):
        if big.ndim == small.ndim and all(s in (1, b) for b, s in zip(big.shape, small.shape, strict=True)):
            return [big.shape]
    return None


def _binary_in_place(a: Mapping[str, Any]) -> Shapes:
    return FIRST_OPERAND if getattr(a["other"], "shape", None) == a["self"].shape else None


def _cat(a: Mapping[str, Any]) -> Shapes:
    tensors = a["tensors"]
    first = tensors[0]
    if not _contiguous(*tensors) or any(t.ndim != first.ndim or t.dtype != first.dtype for t in tensors):
        return None
    dim = a["dim"] % first.ndim
    sides = [{t.shape[i] for t in tensors} for i in range(first.ndim) if i != dim]
    if any(len(side) > 1 for side in sides):
        return None
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return [tuple(shape)]


def _mean(a: Mapping[str, Any]) -> Shapes:
    x = a["self"]
    if not a["dim"] or a["dtype"] is not None or not _contiguous(x) or not x.is_floating_point():
        return None
    gone = {dim % x.ndim for dim in a["dim"]}
    return [tuple(1 if i in gone else side for i, side in enumerate(x.shape) if a["keepdim"] or i not in gone)]


def _addmm(a: Mapping[str, Any]) -> Shapes:
    bias, x, weight = a["self"], a["mat1"], a["mat2"]
    if bias.ndim != 1 or x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[0] or x.dtype != weight.dtype:
        return None
    return [(x.shape[0], weight.shape[1])]


def _constant_pad(a: Mapping[str, Any]) -> Shapes:
    x, pad = a["self"], a["pad"]
    if not _contiguous(x) or any(side < 0 for side in pad):
        return None
    shape = list(x.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    return [tuple(shape)]


def _pool(a: Mapping[str, Any]) -> Shapes:
    x = a["self"]
    if x.ndim != 4 or not _contiguous(x):
        return None
    sides = _after_window(a, x.shape[2:], per_dimension(a["kernel_size"], 2))
    return [(*x.shape[:2], *sides)] if min(sides) > 0 else None


def _max_pool(a: Mapping[str, Any]) -> Shapes:
    shapes = _pool(a)
    return shapes and [*shapes, Indices(shapes[0])]


def _adaptive_pool(a: Mapping[str, Any]) -> Shapes:
    x = a["self"]
    return [(*x.shape[:2], *a["output_size"])] if x.ndim == 4 and _contiguous(x) else None


# By the name of the overload in torch.ops.aten.
RULES: dict[str, Rule] = {
    **dict.fromkeys((f"{op}.default" for op in ("relu", "silu", "sigmoid", "hardtanh", "_softmax")), _same),
    **dict.fromkeys((f"{op}_.default" for op in ("relu", "silu", "sigmoid", "hardtanh")), _in_place),
    "convolution.default": _convolution,
    "native_batch_norm.default": _batch_norm,
    "add.Tensor": _binary,
    "mul.Tensor": _binary,
    "add_.Tensor": _binary_in_place,
    "mul_.Tensor": _binary_in_place,
    "cat.default": _cat,
    "max_pool2d_with_indices.default": _max_pool,
    "avg_pool2d.default": _pool,
    "_adaptive_avg_pool2d.default": _adaptive_pool,
    "mean.dim": _mean,
    "addmm.default": _addmm,
    "constant_pad_nd.default": _constant_pad,
}
