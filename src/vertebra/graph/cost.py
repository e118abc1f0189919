"""What an operation costs: its kind, its multiply-accumulates, its other arithmetic, its window.

MACs are counted for convolutions and matrix products, without the bias: what papers print, and half of the FLOPs.
All other arithmetic is counted apart, as one for each addition, multiplication, comparison or transcendental function
of one element. `aten_cost` and `onnx_cost` say which formula an operation has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from .ir import Node


class Kind(StrEnum):
    """Operations that use a processor in the same way."""

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
    """One operation, counted."""

    name: str  # "conv2d"
    kind: Kind
    macs: int = 0
    other_ops: int = 0
    detail: str = ""  # "3×3, stride 2"
    window: Window | None = None
    groups: int = 1
    rows: int | None = None  # of the left matrix, in a product with weights
    lookup: bool = False  # it reads of its table only what it returns


Counter: TypeAlias = Callable[[Node], Cost]
NORM = 7  # operations an element: mean 1, variance 2, normalise 2, scale and shift 2


def elements(node: Node) -> int:
    """Of the result."""
    return math.prod(node.outputs[0].shape)


def each(name: str, kind: Kind, operations: int) -> Counter:
    """So many operations for each element of the result."""
    return lambda node: Cost(name, kind, other_ops=operations * elements(node))


def times(values: tuple[int, ...]) -> str:
    """`"3×3"`."""
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
) -> Cost:
    """Of a convolution, from the shapes of input, weight and result."""
    kernel = weight[2:]
    # A transposed convolution spreads each input over the kernel; a plain one gathers it for each output.
    positions = math.prod(x) if transposed else math.prod(out)
    if groups == 1:
        kind = Kind.POINTWISE if math.prod(kernel) == 1 else Kind.DENSE
    else:
        kind = Kind.DEPTHWISE if groups == x[1] else Kind.GROUPED
    words = [times(kernel)]
    words += [f"stride {times(stride) if len(set(stride)) > 1 else stride[0]}"] if max(stride) > 1 else []
    words += [f"dilation {times(dilation) if len(set(dilation)) > 1 else dilation[0]}"] if max(dilation) > 1 else []
    words += [f"{groups} groups"] if kind is Kind.GROUPED else []
    return Cost(
        f"conv_transpose{len(kernel)}d" if transposed else f"conv{len(kernel)}d",
        kind,
        macs=positions * weight[1] * math.prod(kernel),
        other_ops=math.prod(out) if has_bias else 0,
        detail=", ".join(words),
        window=None if transposed else Window(kernel, stride, dilation),
        groups=groups,
    )


def pooling_cost(
    name: str, out: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Cost:
    """Of a pooling with a sliding window."""
    detail = times(kernel) + (f", stride {stride[0]}" if max(stride) > 1 else "")
    return Cost(name, Kind.POOL, 0, math.prod(kernel) * math.prod(out), detail, Window(kernel, stride, dilation))


def reduction_cost(name: str, x: tuple[int, ...], gone: set[int], each: int = 1) -> Cost:
    """Of a reduction over these axes. Over the sides of an image it is a pooling with one window for all of it."""
    sides = tuple(x[i] if i in gone else 1 for i in range(2, len(x)))
    window = Window(sides, sides, (1,) * len(sides)) if 0 not in gone and 1 not in gone and sides else None
    return Cost(
        "global_avg_pool" if window and name == "mean" else name, Kind.POOL, 0, each * math.prod(x), window=window
    )
