"""Feature maps for the page: which channels, and their values as bytes."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STRONGEST = 32


def strongest_channels(values: Tensor, contributions: Tensor | None, count: int = STRONGEST) -> list[int]:
    """The channels that contribute most to the class, the strongest first; without contributions the largest values.

    values: (1, C, H, W) or (1, C); contributions: likewise.
    """
    scores = (values.abs() if contributions is None else contributions)[0].flatten(1).sum(1)
    return [int(channel) for channel in scores.argsort(descending=True, stable=True)[:count]]


def encode_maps(values: Tensor, contributions: Tensor | None, channels: Sequence[int]) -> dict[str, Any]:
    """These channels of one image's maps, (1, C, H, W), quantised to 256 steps between each one's extremes.

    `data` is base64 of deflated bytes, channel by channel; value = low + byte / 255 × (high − low), off by at most half
    a step.
    """
    maps = values[0, list(channels)]
    low, high = maps.amin((1, 2)), maps.amax((1, 2))
    spread = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    steps = ((maps - low[:, None, None]) / spread[:, None, None] * 255).round().to(torch.uint8)
    scores = None if contributions is None else contributions[0].flatten(1).sum(1)
    return {
        "channels": list(channels),
        "of": values.shape[1],
        "height": values.shape[2],
        "width": values.shape[3],
        "low": low.tolist(),
        "high": high.tolist(),
        "contributions": None if scores is None else [float(scores[channel]) for channel in channels],
        "data": base64.b64encode(zlib.compress(steps.numpy().tobytes(), 9)).decode("ascii"),
    }
