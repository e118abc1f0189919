"""The theoretical receptive field of any cell, on the network's input."""

from __future__ import annotations

from typing import Any

from .observation import Observation


def fields(observation: Observation, _options: object) -> dict[str, Any]:
    """Of each part with maps: cell i depends on the `size` rows from start + i · jump on, and likewise on columns."""
    found = observation.structure.receptive_fields
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
