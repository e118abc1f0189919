"""What each branch gives to a concatenation along the channels (Szegedy et al. 2015), on a photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row
from vertebra.introspect.joins import find_concatenations

from .dense_block_sources import dense_concatenations
from .dependencies import ancestors
from .observation import Observation
from .pictures import encode_pictures, norm, picture, total
from .roles import label

MOST_PICTURES = 8  # of one concatenation


def concatenated_branches(observation: Observation, _options: object) -> dict[str, Any]:
    """For the concatenation's layer: of each branch its layers, channels, norm, contribution and picture.

    Those of dense blocks are shown by `dense_block_sources`.
    """
    rows = observation.structure.rows
    behind, dense = ancestors(rows), dense_concatenations(observation)
    found: dict[str, Any] = {}
    for row in find_concatenations(rows):
        operands = [operand.detach() for operand in observation.values.operands[row.index]]
        if row.index in dense or len(operands) < 2:
            continue
        contributions = observation.contributions[row.index]
        shared = _shared(row, behind)
        branches, start = [], 0
        for position, values in enumerate(operands):
            stop = start + values.shape[1]
            source = row.inputs[position] if len(row.inputs) == len(operands) else -1
            branches.append(
                {
                    "name": _branch_name(rows[source].name if source >= 0 else "", row.module),
                    "steps": _steps(rows, source, shared),
                    "start": start,
                    "channels": values.shape[1],
                    "norm": norm(values),
                    "contribution": total(None if contributions is None else contributions[:, start:stop]),
                }
            )
            start = stop
        pictures = {str(i): picture(values) for i, values in enumerate(operands) if len(operands) <= MOST_PICTURES}
        found.setdefault(observation.structure.layer_of_row[row.index], []).append(
            {
                "row": row.index,
                "name": row.name,
                "channels": start,
                "contribution": total(contributions),
                "branches": branches,
                "pictures": encode_pictures(pictures),
            }
        )
    return found


def _shared(row: Row, behind: list[int]) -> int:
    """A mask of the rows that all branches depend on."""
    mask = -1
    for index in row.inputs:
        mask &= behind[index] if index >= 0 else 0
    return mask


def _branch_name(name: str, module: str) -> str:
    """inception3a.branch2.1.relu in inception3a: branch2"""
    inner = name.removeprefix(f"{module}.") if module else name
    return inner.split(".")[0]


def _steps(rows: Sequence[Row], index: int, shared: int) -> list[dict[str, Any]]:
    """The convolutions and poolings of a branch behind what all branches read, first to last."""
    steps: list[dict[str, Any]] = []
    while index >= 0 and not shared >> index & 1:
        row = rows[index]
        if row.kind in CONVOLUTIONS or row.kind is Kind.POOL:
            steps.append({"label": label(row), "detail": row.detail})
        if len(row.inputs) != 1:
            break
        index = row.inputs[0]
    return steps[::-1]
