"""Outputs of one value a channel, as behind the global pooling."""

from __future__ import annotations

from math import prod
from typing import Any

from .observation import Observation
from .strongest import strongest_channels


def vectors(observation: Observation, _options: object) -> dict[str, Any]:
    """The values of the strongest channels, and what each contributes; not of the logits, which are listed anyway."""
    last = max(part.row for part in observation.structure.parts.values())
    found = {}
    for part in observation.structure.parts.values():
        values = observation.output(part)
        if part.row == last or not values.is_floating_point() or part.shape[:1] != (prod(part.shape),):
            continue
        contributions = observation.contributions[part.row]
        channels = strongest_channels(observation.scores(part.row)[0])
        found[part.id] = {
            "channels": channels,
            "of": values.shape[1],
            "values": values.flatten()[channels].tolist(),
            "contributions": None if contributions is None else contributions.flatten()[channels].tolist(),
        }
    return found
