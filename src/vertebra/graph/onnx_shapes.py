"""Output shapes of ONNX operators: https://onnx.ai/onnx/operators

A rule maps a `NodeContext` (a node, the shapes of its inputs, and known values of small ones) to the shapes of its
outputs. Operators without a rule have the shapes that the file declares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .onnx_operator_sets import BINARY, REDUCTIONS, UNARY
from .onnx_reader import Array, OnnxNode
from .shapes import Shape, broadcast, num_positions


@dataclass(frozen=True, slots=True)
class NodeContext:
    """A node with the shapes and values of its inputs by position; None for one that is omitted or unknown.

    A rule that needs an unknown shape or value raises one of `UNKNOWN_ERRORS`.
    """

    node: OnnxNode
    shapes: Sequence[Any]  # each a Shape or None
    values: Sequence[Array | None]

    def option(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found

    def axis(self, default: int) -> int:
        """The attribute `axis`, as an index of the first input's axes."""
        return int(self.option("axis", default) % len(self.shapes[0]))

    def integers(self, position: int, name: str = "") -> list[int] | None:
        """Integers given as an input, or as an attribute in older opsets; None if omitted."""
        if name and name in self.node.attributes:
            found = self.node.attributes[name]
            return [int(value) for value in (found if isinstance(found, list) else [found])]
        if position >= len(self.shapes) or self.shapes[position] is None:
            return None
        value = self.values[position]
        if value is None:
            raise ValueError("the values of this input are unknown")
        return [int(number) for number in np.atleast_1d(value).ravel()]


UNKNOWN_ERRORS = (ValueError, IndexError, TypeError, KeyError)


def _axes(axes: Sequence[int], rank: int) -> list[int]:
    return [axis % rank for axis in axes]


def _same(a: NodeContext) -> list[Shape]:
    return [a.shapes[0]] * len(a.node.outputs)


def _broadcast(a: NodeContext) -> list[Shape]:
    return [broadcast(*(shape for shape in a.shapes if shape is not None))]


def _window_sides(a: NodeContext, size: Shape, kernel: Sequence[int]) -> Shape:
    """Spatial output sizes of a sliding window."""
    rank = len(kernel)
    strides, dilations = a.option("strides", [1] * rank), a.option("dilations", [1] * rank)
    automatic = a.option("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(-(-side // stride) for side, stride in zip(size, strides, strict=True))
    pads = [0] * 2 * rank if automatic == "VALID" else a.option("pads", [0] * 2 * rank)
    ceil = a.option("ceil_mode", 0)
    return tuple(
        num_positions(size[i], kernel[i], strides[i], pads[i], dilations[i], ceil, pads[i + rank]) for i in range(rank)
    )


def _operands(a: NodeContext) -> tuple[Shape, Shape]:
    """Both shapes of a product. In 8-bit operators each operand is followed by its scale and zero point."""
    return a.shapes[0], a.shapes[3 if a.node.kind in ("QGemm", "QLinearConv", "QLinearMatMul") else 1]


def _convolution(a: NodeContext) -> list[Shape]:
    x, w = _operands(a)
    return [(x[0], w[0], *_window_sides(a, x[2:], a.option("kernel_shape", w[2:])))]


def _transposed_convolution(a: NodeContext) -> list[Shape]:
    x, w = _operands(a)
    rank = len(w) - 2
    sides = a.option("output_shape")
    if sides is None:
        strides, dilations = a.option("strides", [1] * rank), a.option("dilations", [1] * rank)
        pads, extra = a.option("pads", [0] * 2 * rank), a.option("output_padding", [0] * rank)
        same = str(a.option("auto_pad", "NOTSET")).startswith("SAME")
        sides = [
            x[2 + i] * strides[i]
            if same
            else (x[2 + i] - 1) * strides[i] + extra[i] + dilations[i] * (w[2 + i] - 1) + 1 - pads[i] - pads[i + rank]
            for i in range(rank)
        ]
    return [(x[0], w[1] * a.option("group", 1), *sides)]


def _pool(a: NodeContext) -> list[Shape]:
    x, whole = a.shapes[0], "Global" in a.node.kind
    sides = [1] * (len(x) - 2) if whole else _window_sides(a, x[2:], a.option("kernel_shape"))
    return [(*x[:2], *sides)] * len(a.node.outputs)


def _gemm(a: NodeContext) -> list[Shape]:
    left, right = _operands(a)
    return [(left[1 if a.option("transA") else 0], right[0 if a.option("transB") else 1])]


def _product(a: NodeContext) -> list[Shape]:
    left, right = _operands(a)
    one, two = left if len(left) > 1 else (1, *left), right if len(right) > 1 else (*right, 1)
    sides = (one[-2],) * (len(left) > 1) + (two[-1],) * (len(right) > 1)
    return [(*broadcast(one[:-2], two[:-2]), *sides)]


def _flatten(a: NodeContext) -> list[Shape]:
    x, axis = a.shapes[0], a.option("axis", 1)
    return [(math.prod(x[:axis]), math.prod(x[axis:]))]


def _reshape(a: NodeContext) -> list[Shape]:
    x, wanted = a.shapes[0], a.integers(1, "shape") or []
    if not a.option("allowzero", 0):
        wanted = [x[i] if side == 0 and i < len(x) else side for i, side in enumerate(wanted)]
    known = math.prod(side for side in wanted if side != -1)
    return [tuple(math.prod(x) // max(known, 1) if side == -1 else side for side in wanted)]


def _transpose(a: NodeContext) -> list[Shape]:
    x = a.shapes[0]
    return [tuple(x[axis] for axis in a.option("perm", range(len(x))[::-1]))]


def _concat(a: NodeContext) -> list[Shape]:
    x, axis = a.shapes[0], a.axis(1)
    return [(*x[:axis], sum(shape[axis] for shape in a.shapes), *x[axis + 1 :])]


def _split(a: NodeContext) -> list[Shape]:
    x, axis, count = a.shapes[0], a.axis(0), len(a.node.outputs)
    part = -(-x[axis] // count)
    parts = a.integers(1, "split") or [min(part, x[axis] - i * part) for i in range(count)]
    return [(*x[:axis], side, *x[axis + 1 :]) for side in parts]


def apply_slice(a: NodeContext, values: Array) -> Array:
    """Slice an array as the operator Slice does."""
    starts, ends = a.integers(1, "starts") or [], a.integers(2, "ends") or []
    axes, steps = a.integers(3, "axes") or range(len(starts)), a.integers(4) or [1] * len(starts)
    slices = [slice(None)] * values.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        slices[axis] = slice(start, end, step)
    return values[tuple(slices)]


def _gather(a: NodeContext) -> list[Shape]:
    x, axis = a.shapes[0], a.axis(0)
    return [(*x[:axis], *a.shapes[1], *x[axis + 1 :])]


def _squeeze(a: NodeContext) -> list[Shape]:
    x, axes = a.shapes[0], a.integers(1, "axes")
    gone = [i for i, side in enumerate(x) if side == 1] if axes is None else _axes(axes, len(x))
    return [tuple(side for i, side in enumerate(x) if i not in gone)]


def _unsqueeze(a: NodeContext) -> list[Shape]:
    x, axes = list(a.shapes[0]), a.integers(1, "axes") or []
    for axis in sorted(_axes(axes, len(x) + len(axes))):
        x.insert(axis, 1)
    return [tuple(x)]


def _tile(a: NodeContext) -> list[Shape]:
    return [tuple(side * times for side, times in zip(a.shapes[0], a.integers(1) or [], strict=True))]


def _pad(a: NodeContext) -> list[Shape]:
    x, pads = list(a.shapes[0]), a.integers(1, "pads") or []
    axes = a.integers(3) or list(range(len(x)))
    for i, axis in enumerate(_axes(axes, len(x))):
        x[axis] += pads[i] + pads[i + len(axes)]
    return [tuple(x)]


def _resize(a: NodeContext) -> list[Shape]:
    x = a.shapes[0]
    scales_at, sizes_at = (1, 3) if a.node.kind == "Upsample" or len(a.shapes) == 2 else (2, 3)
    sizes = a.integers(sizes_at)
    axes = _axes(a.option("axes", range(len(x))), len(x))
    if sizes is not None:
        return [tuple(sizes[axes.index(i)] if i in axes else side for i, side in enumerate(x))]
    scales = a.values[scales_at] if scales_at < len(a.values) else a.option("scales")
    found = list(x)
    for axis, scale in zip(axes, np.asarray(scales, float).ravel().tolist(), strict=True):
        found[axis] = math.floor(x[axis] * scale + 1e-4)  # scales are float32
    return [tuple(found)]


def _reduce(a: NodeContext) -> list[Shape]:
    x, axes = a.shapes[0], a.integers(1, "axes")
    if a.node.kind in ("ArgMax", "ArgMin"):
        axes = [a.option("axis", 0)]
    if not axes and a.option("noop_with_empty_axes", 0):
        return [x]
    gone, keep = _axes(axes or range(len(x)), len(x)), a.option("keepdims", 1)
    return [tuple(1 if i in gone else side for i, side in enumerate(x) if keep or i not in gone)]


def _top_k(a: NodeContext) -> list[Shape]:
    x, count = list(a.shapes[0]), a.integers(1, "k") or [1]
    x[a.option("axis", -1)] = count[0]
    return [tuple(x)] * 2


def _depth_to_space(a: NodeContext) -> list[Shape]:
    (n, c, h, w), b = a.shapes[0], a.option("blocksize")
    return [(n, c // b**2, h * b, w * b) if a.node.kind == "DepthToSpace" else (n, c * b**2, h // b, w // b)]


def _recurrent(a: NodeContext) -> list[Shape]:
    x, directions, hidden = a.shapes[0], a.shapes[1][0], a.shapes[2][-1]
    if a.option("layout", 0):
        return [(x[0], x[1], directions, hidden), *[(x[0], directions, hidden)] * 2]
    return [(x[0], directions, x[1], hidden), *[(directions, x[1], hidden)] * 2]


def _layer_norm(a: NodeContext) -> list[Shape]:
    """The result, then statistics for training: the mean and deviation of a layer norm."""
    x, axis = a.shapes[0], a.axis(-1)
    return [x, *[(*x[:axis], *[1] * (len(x) - axis))] * 2, x]


RULES: dict[str, Callable[[NodeContext], list[Shape]]] = (
    dict.fromkeys(UNARY, _same)
    | dict.fromkeys(BINARY, _broadcast)
    | dict.fromkeys(REDUCTIONS, _reduce)
    | dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "DeformConv", "QLinearConv"), _convolution)
    | dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _pool)
    | dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "QLinearGlobalAveragePool"), _pool)
    | dict.fromkeys(("Gemm", "QGemm"), _gemm)
    | dict.fromkeys(("FusedMatMul", "MatMul", "MatMulInteger", "QLinearMatMul", "vertebra::AdaptivePool"), _product)
    | dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent)
    | dict.fromkeys(("QLinearAdd", "QLinearMul"), lambda a: [broadcast(a.shapes[0], a.shapes[3])])
    | dict.fromkeys(("Resize", "Upsample"), _resize)
    | dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space)
    | dict.fromkeys(("LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization"), _layer_norm)
    | {
        "Concat": _concat,
        "ConstantOfShape": lambda a: [tuple(a.integers(0) or [])],
        "ConvTranspose": _transposed_convolution,
        "Expand": lambda a: [broadcast(a.shapes[0], a.integers(1) or [])],
        "Flatten": _flatten,
        "Gather": _gather,
        "GatherElements": lambda a: [a.shapes[1]],
        "Pad": _pad,
        "Reshape": _reshape,
        "Shape": lambda a: [(len(a.shapes[0][a.option("start", 0) : a.option("end")]),)],
        "Size": lambda a: [()],
        "Slice": lambda a: [apply_slice(a, np.broadcast_to(np.int8(0), a.shapes[0])).shape],
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "TopK": _top_k,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
