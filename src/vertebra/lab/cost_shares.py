"""Parameters, MACs and activations of a network by kind of layer or by stage, from counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from vertebra.anatomy import Anatomy, Kind, Row

from .experiment import Figure, Measured

COSTS = ("parameters", "MACs", "activations")
DENSE = "fully connected"
OTHERS = "others"
_OWN = tuple(kind.value for kind in (Kind.DENSE, Kind.POINTWISE, Kind.GROUPED, Kind.DEPTHWISE))
KINDS = (*_OWN, DENSE, OTHERS)


NOT_RUN = "parameters that do not run"  # in evaluation: auxiliary heads


def running(rows: Iterable[Row]) -> list[Row]:
    """The rows that evaluation runs: shares are of these, above and below the line."""
    return [row for row in rows if row.kind is not Kind.UNUSED]


def parameters_not_run(rows: Iterable[Row]) -> Figure:
    """The parameters of layers that evaluation does not run."""
    return Figure(sum(row.parameters for row in rows if row.kind is Kind.UNUSED))


def is_fully_connected(row: Row) -> bool:
    """Whether it multiplies by a weight matrix, be it in an `nn.Linear` or by a function."""
    return row.kind is Kind.MATMUL and bool(row.weight_shape)


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
    if is_fully_connected(row):
        return DENSE
    return row.kind.value if row.kind.value in KINDS else OTHERS


def shares(parts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Each part's share of each cost, in %; 0 where the network has nothing of it."""
    whole = {cost: sum(part[cost] for part in parts.values()) for cost in COSTS}
    return {name: {c: 100 * part[c] / whole[c] if whole[c] else 0.0 for c in COSTS} for name, part in parts.items()}


def cost_shares(found: Anatomy) -> Measured:
    """Costs of a network and of its fully connected layers, without the layers that evaluation does not run.

    Series: the shares of each kind of layer, and the parameters of each stage.
    """
    rows = running(found.layers)
    kinds, whole = costs_by(layer_kind, rows), costs(rows)
    dense = kinds.get(DENSE, dict.fromkeys(COSTS, 0))
    largest = max((row.parameters for row in rows), default=0)
    of_kinds = shares(kinds)
    figures = {f"share of the {cost}": Figure(of_kinds.get(DENSE, dense)[cost], "%") for cost in COSTS}
    figures |= {cost: Figure(whole[cost]) for cost in COSTS}
    figures |= {f"{cost}: {DENSE}": Figure(dense[cost]) for cost in COSTS}
    figures["parameters: largest layer"] = Figure(largest)
    figures["share of the parameters: largest layer"] = Figure(100 * largest / max(whole["parameters"], 1), "%")
    figures[NOT_RUN] = parameters_not_run(found.layers)
    stages = {stage: own["parameters"] for stage, own in costs_by(lambda row: row.stage, rows).items()}
    return Measured(figures, {"kinds": of_kinds, "stages": stages})
