"""What is published of a network: its best weights, what they reach on ImageNet, and how large their file is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vertebra.models import best_top1, get_model_weights
from vertebra.units import MEGA


@dataclass(frozen=True, slots=True)
class Published:
    """A network with the weights that do best; another recipe of the same network costs the same."""

    name: str
    weights: str  # "ResNet50_Weights.IMAGENET1K_V2"
    top1: float  # % on ImageNet, at `size`
    size: int  # side of the image in pixels that the accuracy was measured at
    mb: float  # of the weight file, 10⁶ bytes
    parameters: int
    gmacs: float

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def published(name: str) -> Published:
    """What is published of that network.

    Raises:
        UsageError: there is no such network; the message has the nearest names.
    """
    enum = get_model_weights(name)
    top1 = best_top1(enum)
    best = next(member for member in enum if member.meta["_metrics"]["ImageNet-1K"]["acc@1"] == top1)
    return Published(
        name=name.lower(),
        weights=repr(best),
        top1=top1,
        size=best.preprocessing.crop_size,
        mb=round(float(best.meta["_file_size"]) * 2**20 / MEGA, 2),  # published in units of 2²⁰ bytes
        parameters=best.meta["num_params"],
        gmacs=best.meta["_ops"],
    )
