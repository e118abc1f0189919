"""Which rows the rows of a network depend on."""

from __future__ import annotations

from collections.abc import Sequence

from vertebra.graph.cost import Kind
from vertebra.graph.rows import Row


def ancestors(rows: Sequence[Row]) -> list[int]:
    """For each row, a mask of bits of itself and all rows that it depends on."""
    found: list[int] = []
    for row in rows:
        mask = 1 << row.index
        for index in row.inputs:
            mask |= found[index] if index >= 0 else 0
        found.append(mask)
    return found


def through_views(rows: Sequence[Row], index: int) -> int:
    """The row behind views such as a flattening; -1 is the input."""
    while index >= 0 and rows[index].kind is Kind.VIEW and len(rows[index].inputs) == 1:
        index = rows[index].inputs[0]
    return index
