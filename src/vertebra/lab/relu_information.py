"""What a ReLU in few channels loses of a flat pattern (the toy example of MobileNetV2, Sandler et al. 2018, Fig. 1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
POINTS = 400


def relu(x: Array) -> Array:
    """Zero for what is negative."""
    return np.maximum(x, 0)


def spiral(points: int = POINTS) -> Array:
    """A spiral of two turns around 0 in the plane: (points, 2), centred, of unit variance."""
    angle = np.linspace(0, 4 * np.pi, points)
    curve = (angle / angle[-1])[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    curve -= curve.mean(axis=0)
    scaled: Array = curve / curve.std()
    return scaled


def lost_share(channels: int, seed: int, activation: Callable[[Array], Array] = relu) -> float:
    """Map the spiral to so many channels at random, apply the activation, and go back as well as any linear map can.

    Returns:
        The share of the spiral's variance that the best linear decoder (least squares, with a constant) does not
        recover: 0 to 1.
    """
    curve = spiral()
    random = np.random.default_rng([channels, seed]).standard_normal((2, channels))
    features = np.column_stack([activation(curve @ random), np.ones(len(curve))])
    decoder, *_ = np.linalg.lstsq(features, curve, rcond=None)
    return float(np.square(features @ decoder - curve).sum() / np.square(curve).sum())
