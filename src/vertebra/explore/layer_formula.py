"""The factors of the multiplications (MACs) of convolutions and linear layers."""

from __future__ import annotations

from math import prod
from typing import Any

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

from .observation import Observation


def layer_formulas(observation: Observation, _options: object) -> dict[str, Any]:
    """Of each layer, and of the operation in it that multiplies; none where the product is not the row's MACs."""
    rows = observation.structure.rows
    found = {}
    for part in observation.structure.parts.values():
        if part.level in ("layer", "operation"):
            formulas = [formula for formula in map(_formula, (rows[index] for index in part.rows)) if formula]
            if len(formulas) == 1:
                found[part.id] = formulas[0]
    return found


def _formula(row: Row) -> dict[str, Any] | None:
    """Output positions × output channels × input channels of a group × kernel."""
    if not row.macs:
        return None
    if row.kind in CONVOLUTIONS and len(row.weight_shape) == len(row.output_shape):
        outputs, of_group, *kernel = row.weight_shape
        spatial = list(row.output_shape[2:])
    elif row.kind is Kind.MATMUL and len(row.output_shape) == 2 and row.input_shapes:
        outputs, of_group, kernel, spatial = row.output_shape[-1], row.input_shapes[0][-1], [], []
    else:
        return None
    if prod(spatial) * outputs * of_group * prod(kernel) != row.macs:
        return None
    return {
        "spatial": spatial,
        "outputs": outputs,
        "inputs": of_group * row.groups,
        "groups": row.groups,
        "kernel": kernel,
        "macs": row.macs,
    }
