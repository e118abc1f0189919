"""What the shortcut and the residual branch each contribute to their sum (He et al. 2016), on a photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from vertebra.graph.rows import Row
from vertebra.introspect.joins import find_additions

from .dependencies import ancestors
from .encoding import rounded
from .layer_grouping import WEIGHTED
from .observation import Observation
from .pictures import encode_pictures, norm, picture


def residual_additions(observation: Observation, _options: object) -> dict[str, Any]:
    """For the addition's layer: norms of skip, branch and sum, the cosine of the two, contributions and pictures.

    A contribution is gradient × value, and the gradient of both is that of the sum; so the two contributions add up to
    the sum's.
    """
    rows, behind = observation.structure.rows, ancestors(observation.structure.rows)
    layers = sum(1 << row.index for row in rows if row.kind in WEIGHTED)
    found: dict[str, Any] = {}
    for row in find_additions(rows):
        operands = [operand.detach() for operand in observation.values.operands[row.index]]
        if len(operands) != 2 or len(row.inputs) != 2 or operands[0].ndim < 2:
            continue
        counts = _layers_of_each(row, behind, layers)
        order = (0, 1) if counts[0] < counts[1] else (1, 0)  # PyTorch's way is branch + skip
        skip, branch = (operands[index] for index in order)
        values = {"skip": skip, "branch": branch, "sum": observation.values.outputs[row.index].detach()}
        gradient = observation.contributions.gradients[row.index]
        found.setdefault(observation.structure.layer_of_row[row.index], []).append(
            {
                "row": row.index,
                "name": row.name,
                "identity": min(counts) == 0,
                "known": counts[0] != counts[1],
                "layers": {"skip": counts[order[0]], "branch": counts[order[1]]},
                "sources": {"skip": _name(rows, row.inputs[order[0]]), "branch": _name(rows, row.inputs[order[1]])},
                "norms": {name: norm(value) for name, value in values.items()},
                "contributions": {name: _contribution(value, gradient) for name, value in values.items()},
                "cosine": _cosine(skip, branch),
                "pictures": encode_pictures({name: picture(value) for name, value in values.items()}),
            }
        )
    return found


def _layers_of_each(row: Row, behind: list[int], layers: int) -> tuple[int, int]:
    """Convolutions and linear layers that only the one or only the other operand of a sum has behind it."""
    first, second = (behind[index] if index >= 0 else 0 for index in row.inputs)
    return (first & ~second & layers).bit_count(), (second & ~first & layers).bit_count()


def _name(rows: Sequence[Row], index: int) -> str:
    return rows[index].name if index >= 0 else "input"


def _contribution(values: Tensor, gradient: Tensor | None) -> float | None:
    return None if gradient is None else rounded(float(torch.dot(values.flatten(), gradient.flatten())))


def _cosine(one: Tensor, other: Tensor) -> float:
    """0 where either is all zeros."""
    lengths = float(vector_norm(one)) * float(vector_norm(other))
    return rounded(float(torch.dot(one.flatten(), other.flatten())) / lengths) if lengths else 0.0
