"""How much more accuracy SiLU gains over ReLU6 with depthwise than with dense convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from vertebra.models.layers import Layer

from .experiment import Figure
from .fit_all import Arm
from .seed_statistics import over_seeds, paired_difference
from .small_networks import SmallMBConvNet

GAIN = "gain by SiLU over ReLU6"
INTERACTION = f"{GAIN}: depthwise less dense"


def arms_of(activations: Mapping[str, Layer]) -> dict[str, Arm]:
    """A network with depthwise and one with dense 3×3 convolutions for each; ReLU6 stands for ReLU with dense ones."""
    depthwise: dict[str, Arm] = {
        f"{name}, depthwise": partial(SmallMBConvNet, activation_layer=layer) for name, layer in activations.items()
    }
    return depthwise | {
        f"{name}, dense": partial(SmallMBConvNet, activation_layer=layer, spatial="dense")
        for name, layer in activations.items() if name != "ReLU"
    }  # fmt: skip


def gain_figures(accuracy: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """Accuracies over seeds, the gain with each kind of convolution, and the difference of the two, paired by seed.

    Args:
        accuracy: in %, by arm: "SiLU, depthwise", "SiLU, dense", "ReLU6, depthwise", "ReLU6, dense", and others.
    """
    figures = {f"accuracy: {arm}": over_seeds(own).figure("%") for arm, own in accuracy.items()}
    gains = {
        spatial: paired_difference(accuracy[f"SiLU, {spatial}"], accuracy[f"ReLU6, {spatial}"])
        for spatial in ("depthwise", "dense")
    }
    figures |= {f"{GAIN}: {spatial}": gain.figure("points") for spatial, gain in gains.items()}
    figures[INTERACTION] = paired_difference(gains["depthwise"].values, gains["dense"].values).figure("points")
    return figures
