"""Receptive fields on the photo: the theoretical one of any cell, and the effective one of a stage's central cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vertebra.graph.receptive_field import ReceptiveField, ReceptiveFields
from vertebra.graph.rows import nodes_with_costs

if TYPE_CHECKING:
    from .document import Options
    from .observation import Observation, Structure


def receptive_fields(structure: Structure) -> list[ReceptiveField | None]:
    """The theoretical receptive field of each row's output, by the index of the row."""
    found = ReceptiveFields(structure.graph)
    return [found.update(node, cost) for node, cost in nodes_with_costs(structure.graph)]


def fields(observation: Observation, options: Options) -> dict[str, Any]:
    """Of each part with maps: cell i depends on the `size` rows from start + i · jump on, and likewise on columns."""
    found = receptive_fields(observation.structure)
    return {
        part.id: {
            "size": list(field.size),
            "jump": list(field.jump),
            "start": list(field.start),
            "sees_all": field.sees_all,
        }
        for part in observation.structure.parts.values()
        if len(part.shape) == 3 and (field := found[part.row]) is not None and len(field.size) == 2
    }
