"""Small pictures of maps, their norms and sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .encoding import deflated, quantised, rounded

MOST = 56  # cells of a picture's side; maps that are larger are averaged


def picture(values: Tensor) -> Tensor | None:
    """Mean absolute value over the channels of (1, C, H, W): (H, W), averaged to at most `MOST` cells a side."""
    return shrunk(torch.linalg.vector_norm(values[0], 1, 0) / values.shape[1]) if values.ndim == 4 else None


def shrunk(cells: Tensor) -> Tensor:
    """(H, W) averaged to at most `MOST` cells a side."""
    height, width = (min(size, MOST) for size in cells.shape)
    return adaptive_avg_pool2d(cells[None], (height, width))[0]


def encode_pictures(pictures: dict[str, Tensor | None]) -> dict[str, Any] | None:
    """Pictures of the same size with one scale from 0 to their largest value, as bytes.

    `data` is base64 of deflated bytes, one picture after the other; value = byte / 255 × high.
    NaN becomes 0, infinity the largest number, as in maps.
    """
    found = [cells for cells in pictures.values() if cells is not None]
    if len(found) < len(pictures) or not found:
        return None
    stacked = torch.stack(found).nan_to_num()
    high = float(stacked.max())
    return {
        "names": list(pictures),
        "height": stacked.shape[1],
        "width": stacked.shape[2],
        "high": high,
        "data": deflated(quantised(stacked, 0.0, high)),
    }


def norm(values: Tensor) -> float:
    """The L2 norm of all values."""
    return rounded(float(torch.linalg.vector_norm(values)))


def total(values: Tensor | None) -> float | None:
    """The sum of all values."""
    return None if values is None else rounded(float(values.sum(dtype=torch.float64)))
