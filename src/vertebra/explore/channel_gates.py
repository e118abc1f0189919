"""The gates of squeeze-excitation (Hu et al. 2018) on a photo: the number that each channel is multiplied by."""

from __future__ import annotations

from typing import Any

from vertebra.introspect.joins import find_gates

from .encoding import rounded
from .observation import Observation


def channel_gates(observation: Observation, _options: object) -> dict[str, Any]:
    """For the product's layer: the gate of each channel, in the order of the channels."""
    structure = observation.structure
    found: dict[str, Any] = {}
    for gate in find_gates(structure.rows):
        values = observation.values.outputs[gate.factor.index].detach()[0].flatten()
        found.setdefault(structure.layer_of_row[gate.product.index], []).append(
            {
                "row": gate.product.index,
                "name": gate.product.name,
                "function": gate.factor.op,
                "values": [round(value, 4) for value in values.tolist()],
                "mean": rounded(float(values.double().mean())),
                "low": rounded(float(values.min())),
                "high": rounded(float(values.max())),
            }
        )
    return found
