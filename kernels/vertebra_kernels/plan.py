"""The steps that a network is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Activation:
    """Clamp to [low, high], or SiLU."""

    silu: bool = False
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Convolution:
    """Weights `(outputs, inputs / groups, kernel, kernel)` and how they are applied."""

    weight: Array
    bias: Array
    stride: int
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    groups: int


@dataclass(frozen=True)
class SqueezeExcitation:
    """Two dense layers on the map's means: `(squeezed, channels)` and back."""

    down: Convolution
    activation: Activation
    up: Convolution


@dataclass(frozen=True)
class InvertedResidual:
    """Expansion (the stem, a 1 x 1 convolution or none), depthwise convolution, gate, projection, sum."""

    height: int  # of the depthwise convolution's input
    width: int
    expand: Convolution | None
    expand_activation: Activation
    depthwise: Convolution
    depthwise_activation: Activation
    squeeze: SqueezeExcitation | None
    project: Convolution
    residual: bool
    from_image: bool = False

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return output_size(self.height, self.width, self.depthwise)


@dataclass(frozen=True)
class FusedBlock:
    """Dense convolution, activation, projection or none, sum; the first convolution of a network is one too."""

    height: int  # of the input, or of the image
    width: int
    convolution: Convolution
    activation: Activation
    project: Convolution | None = None
    residual: bool = False
    from_image: bool = False

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return output_size(self.height, self.width, self.convolution)


@dataclass(frozen=True)
class Head:
    """The last 1 x 1 convolution and the average over its map."""

    height: int
    width: int
    convolution: Convolution
    activation: Activation


@dataclass(frozen=True)
class Classifier:
    """Dense layer `(classes, channels)`."""

    weight: Array
    bias: Array


@dataclass
class Plan:
    """The steps of a network and what its outputs are."""

    image_size: tuple[int, int]
    scale: Array  # of the image's three channels
    shift: Array
    blocks: list[InvertedResidual | FusedBlock]
    head: Head
    classifier: Classifier
    outputs: dict[str, str] = field(default_factory=dict)  # name -> features, embedding, logits or probabilities


def output_size(height: int, width: int, convolution: Convolution) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    kernel = convolution.weight.shape[2]
    top, left, bottom, right = convolution.pads
    return (
        (height + top + bottom - kernel) // convolution.stride + 1,
        (width + left + right - kernel) // convolution.stride + 1,
    )
