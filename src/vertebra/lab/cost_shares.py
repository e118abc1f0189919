"""Parameters, MACs and activations of a network by kind of layer or by stage, from counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from vertebra.anatomy import Kind, Row

COSTS = ("parameters", "MACs", "activations")
DENSE = "fully connected"
OTHERS = "others"
_OWN = tuple(kind.value for kind in (Kind.DENSE, Kind.POINTWISE, Kind.GROUPED, Kind.DEPTHWISE))
KINDS = (*_OWN, DENSE, OTHERS, Kind.UNUSED.value)


def costs(rows: Iterable[Row]) -> dict[str, int]:
    """The sums of rows. Activations are the values that convolutions and matrix products write: what follows them,
    ReLU or a norm, can work in place.
    """
    rows = list(rows)
    return {
        "parameters": sum(row.parameters for row in rows),
        "MACs": sum(row.macs for row in rows),
        "activations": sum(math.prod(row.output_shape) for row in rows if row.macs),
    }


def costs_by(part: Callable[[Row], str], rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """The sums of each part, in order of the rows."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(part(row), []).append(row)
    return {name: costs(own) for name, own in parts.items()}


def layer_kind(row: Row) -> str:
    """One of `KINDS`; "others" are norms, and what has no weights."""
    if row.op == "linear":
        return DENSE
    return row.kind.value if row.kind.value in KINDS else OTHERS


def shares(parts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Each part's share of each cost, in %; 0 where the network has nothing of it."""
    whole = {cost: sum(part[cost] for part in parts.values()) for cost in COSTS}
    return {name: {c: 100 * part[c] / whole[c] if whole[c] else 0.0 for c in COSTS} for name, part in parts.items()}
