"""Which weights a network was created with: what they were trained on goes with it, whatever becomes of its head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vertebra.card import Card

from ._weights import WeightsEnum


@dataclass(frozen=True)
class Origin:
    """Where the values of a network came from when it was built; they may have been trained further since."""

    name: str  # of the network, as `list_models` has it
    weights: WeightsEnum | None  # published ones
    file: Path | None = None  # one's own, absolute
    card: Card | None = None  # what that file says of itself
