"""Published figures of a network: its best weights, their accuracy on ImageNet and the size of their file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vertebra.model_table import find_network


@dataclass(frozen=True, slots=True)
class Published:
    """A network with its most accurate weights."""

    name: str
    weights: str  # "ResNet50_Weights.IMAGENET1K_V2"
    top1: float  # % on ImageNet, at `size`
    size: int  # side of the image in pixels of that accuracy
    mb: float  # of the weight file, 10⁶ bytes
    parameters: int
    gmacs: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


def find_published(name: str) -> Published:
    """The published figures of a network."""
    network = find_network(name)
    best = network.best
    return Published(
        name=network.name,
        weights=best.name,
        top1=best.top1 or 0.0,
        size=best.crop_size,
        mb=best.mb,
        parameters=best.parameters,
        gmacs=best.gmacs,
    )
