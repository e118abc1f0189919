"""The cost of one operation: its kind, MACs, other arithmetic and sliding window.

MACs (multiply-accumulates, half of the FLOPs) are counted for convolutions and matrix products, without the bias, as
in papers. Other arithmetic is counted separately: one for each addition, multiplication, comparison or transcendental
function of one element. `aten_cost` and `onnx_cost` map operators to these formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from .ir import Node


class Kind(StrEnum):
    """Operations that use the hardware in the same way."""

    DENSE = "dense conv"
    POINTWISE = "1×1 conv"
    GROUPED = "grouped conv"
    DEPTHWISE = "depthwise conv"
    MATMUL = "matmul"
    ELEMENTWISE = "elementwise"
    NORM = "norm"
    POOL = "pooling"
    COPY = "copy"
    VIEW = "view"
    UNUSED = "not run"
    UNKNOWN = "unknown"


CONVOLUTIONS = frozenset({Kind.DENSE, Kind.POINTWISE, Kind.GROUPED, Kind.DEPTHWISE})


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: kernel, stride and dilation along each spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one operation."""

    name: str  # "conv2d"
    kind: Kind
    macs: int = 0
    other_ops: int = 0
    detail: str = ""  # "3×3, stride 2"
    window: Window | None = None
    padding: tuple[int, ...] = ()  # cells before the first one, along each spatial dimension; () is none
    groups: int = 1
    rows: int | None = None  # of the left matrix, in a product with a weight matrix
    is_lookup: bool = False  # whether it reads only those values of a table that it returns


Counter: TypeAlias = Callable[[Node], Cost]
NORM = 7  # per element: mean 1, variance 2, normalise 2, scale and shift 2


def num_elements(node: Node) -> int:
    """The number of elements of the first output."""
    return math.prod(node.outputs[0].shape)


def per_element(name: str, kind: Kind, operations: int) -> Counter:
    """A counter of `operations` operations per output element."""
    return lambda node: Cost(name, kind, other_ops=operations * num_elements(node))


def format_sides(values: tuple[int, ...]) -> str:
    """`(3, 3)` → `"3×3"`."""
    return "×".join(map(str, values))


def convolution_cost(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    out: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    transposed: bool,
    has_bias: bool,
    padding: tuple[int, ...] = (),
) -> Cost:
    """The cost of a convolution, from the shapes of its input, weight and output."""
    kernel = weight[2:]
    # A transposed convolution spreads each input over the kernel; a plain one gathers it for each output.
    positions = math.prod(x) if transposed else math.prod(out)
    if groups == 1:
        kind = Kind.POINTWISE if math.prod(kernel) == 1 else Kind.DENSE
    else:
        kind = Kind.DEPTHWISE if groups == x[1] else Kind.GROUPED
    words = [format_sides(kernel)]
    for name, values in (("stride", stride), ("dilation", dilation)):
        if max(values) > 1:
            words.append(f"{name} {format_sides(values if len(set(values)) > 1 else values[:1])}")
    words += [f"{groups} groups"] if kind is Kind.GROUPED else []
    return Cost(
        f"conv_transpose{len(kernel)}d" if transposed else f"conv{len(kernel)}d",
        kind,
        macs=positions * weight[1] * math.prod(kernel),
        other_ops=math.prod(out) if has_bias else 0,
        detail=", ".join(words),
        window=None if transposed else Window(kernel, stride, dilation),
        padding=() if transposed else padding,
        groups=groups,
    )


def pooling_cost(
    name: str,
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...] = (),
) -> Cost:
    """The cost of a pooling with a sliding window."""
    detail = format_sides(kernel) + (f", stride {stride[0]}" if max(stride) > 1 else "")
    work, window = math.prod(kernel) * math.prod(out), Window(kernel, stride, dilation)
    return Cost(name, Kind.POOL, 0, work, detail, window, padding)


def reduction_cost(name: str, x: tuple[int, ...], axes: set[int]) -> Cost:
    """The cost of a reduction over these axes; over those of an image it is a global pooling."""
    sides = tuple(x[i] if i in axes else 1 for i in range(2, len(x)))
    window = Window(sides, sides, (1,) * len(sides)) if 0 not in axes and 1 not in axes and sides else None
    name = "global_avg_pool" if window and name == "mean" else name
    return Cost(name, Kind.POOL, 0, math.prod(x), window=window)
