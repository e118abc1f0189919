"""Where branches of a network meet: additions, concatenations and gates, read off the rows of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

Rows = Sequence[Row]
# What a gate's factor comes from: functions with a bounded range.
_BOUNDED = frozenset({"sigmoid", "hardsigmoid", "softmax", "tanh", "hardtanh", "relu6"})
_SCALAR_STEPS = frozenset({"add", "sub", "mul", "div"})  # of a hard sigmoid that is written out


def find_additions(rows: Rows) -> list[Row]:
    """Sums of two activations of the same shape; a bias or another constant is none."""
    return [row for row in rows if row.op == "add" and len(row.inputs) > 1 and len(set(row.input_shapes)) == 1]


def find_concatenations(rows: Rows) -> list[Row]:
    """Feature maps (N, C, H, W) joined along the channels; DenseNet's of a single one, before a block, included.

    A class token that is put before the patches, or patches that are merged, are none.
    """
    return [row for row in rows if row.op == "concat" and row.kind is Kind.COPY and _keeps_positions(row)]


def _keeps_positions(row: Row) -> bool:
    return len(row.output_shape) == 4 and all(
        _without_channels(s) == _without_channels(row.output_shape) for s in row.input_shapes
    )


def _without_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:1], *shape[2:])


@dataclass(frozen=True)
class Gate:
    """A feature map multiplied by one bounded number for each channel (squeeze-excitation and its like)."""

    product: Row
    factor: Row  # that gives the numbers, (N, C, 1, 1) or (N, C)
    convolution: Row | None  # that made the feature map, through norms and activations


def find_gates(rows: Rows) -> list[Gate]:
    """All gates, in order."""
    found = []
    for row in rows:
        if row.op == "mul" and len(row.inputs) == 2:
            for factor, gated in (row.inputs, row.inputs[::-1]):
                if _is_factor(rows, factor, row):
                    found.append(Gate(row, rows[factor], _convolution_before(rows, gated)))
                    break
    return found


def _is_factor(rows: Rows, index: int, product: Row) -> bool:
    """Whether this row gives one number for each channel, by a function with a bounded range."""
    while index >= 0:
        row = rows[index]
        if len(row.output_shape) < 2 or max(row.output_shape[2:], default=1) > 1:
            return False
        if row.op in _BOUNDED:
            # Not x · sigmoid(x), which is SiLU where the map is a single pixel.
            return not set(row.inputs) & set(product.inputs)
        if not (row.kind is Kind.VIEW or row.op in _SCALAR_STEPS) or len(row.inputs) != 1:
            return False
        index = row.inputs[0]
    return False


def _convolution_before(rows: Rows, index: int) -> Row | None:
    while index >= 0:
        row = rows[index]
        if row.kind in CONVOLUTIONS:
            return row
        if row.kind not in (Kind.NORM, Kind.ELEMENTWISE, Kind.VIEW) or len(row.inputs) != 1:
            return None
        index = row.inputs[0]
    return None


def shapes_of(path: str, rows: Rows) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes of a module's input and output; None if nothing runs in it, or nothing that reads an activation."""
    own = [row for row in rows if f"{row.module}.".startswith(f"{path}.")]
    return (own[0].input_shapes[0], own[-1].output_shape) if own and own[0].input_shapes else None
