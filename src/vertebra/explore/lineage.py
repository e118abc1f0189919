"""Where a row lies: in which part of the network, and which rows are behind it."""

from __future__ import annotations

from collections.abc import Sequence

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

from .observation import Structure


def parts_by_row(structure: Structure) -> dict[int, str]:
    """Id of the layer that a row belongs to, or of the innermost part above single operations."""
    return {row: part.id for part in structure.parts.values() if part.level != "operation" for row in part.rows}


def ancestors(rows: Sequence[Row]) -> list[int]:
    """For each row, a mask of bits of itself and all rows that it depends on."""
    found: list[int] = []
    for row in rows:
        mask = 1 << row.index
        for index in row.inputs:
            mask |= found[index] if index >= 0 else 0
        found.append(mask)
    return found


def weighted(rows: Sequence[Row]) -> int:
    """A mask of bits of the convolutions and linear layers."""
    return sum(1 << row.index for row in rows if row.kind in CONVOLUTIONS or row.kind is Kind.MATMUL)


def through_views(rows: Sequence[Row], index: int) -> int:
    """The row behind views such as a flattening; -1 is the input."""
    while index >= 0 and rows[index].kind is Kind.VIEW and len(rows[index].inputs) == 1:
        index = rows[index].inputs[0]
    return index
