"""Which weights a network was created with: what they were trained on goes with it, whatever becomes of its head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vertebra.card import Card
from vertebra.errors import WeightsError

from .published_weights import WeightsEnum


@dataclass(frozen=True)
class Origin:
    """Where the values of a network came from when it was built; they may have been trained further since."""

    name: str  # of the network, as `list_models` has it
    weights: WeightsEnum | None  # published ones
    file: Path | None = None  # one's own, absolute
    card: Card | None = None  # what that file says of itself


def check_architecture(card: Card | None, name: str, path: Path) -> None:
    """Refuse a file that says that its weights are another network's.

    Raises:
        WeightsError: it does.
    """
    if card is not None and card.architecture != name:
        raise WeightsError(f"'{path}' holds weights of {card.architecture}, and {name} was asked for. Name the former.")
