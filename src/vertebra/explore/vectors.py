"""Outputs of one value a channel, as behind the global pooling."""

from __future__ import annotations

from typing import Any

from .feature_maps import STRONGEST
from .observation import Observation


def vectors(observation: Observation, options: object) -> dict[str, Any]:
    """The values of the strongest channels, and what each contributes; not of the logits, which are listed anyway."""
    last = max(part.row for part in observation.structure.parts.values())
    found = {}
    for part in observation.structure.parts.values():
        values = observation.output(part)
        if part.row == last or not values.is_floating_point() or values[0].numel() != values.shape[1:2].numel():
            continue
        contributions = observation.contributions[part.row]
        flat = values.flatten()
        scores = flat.abs() if contributions is None else contributions.flatten()
        channels = scores.argsort(descending=True, stable=True)[:STRONGEST].tolist()
        found[part.id] = {
            "channels": channels,
            "of": values.shape[1],
            "values": flat[channels].tolist(),
            "contributions": None if contributions is None else contributions.flatten()[channels].tolist(),
        }
    return found
