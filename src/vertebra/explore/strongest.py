"""The channels and cells that count most, by their scores: see `Observation.scores`."""

from __future__ import annotations

import torch
from torch import Tensor

STRONGEST = 32  # channels of a part that are shown, unless asked for otherwise


def strongest_channels(scores: Tensor, count: int = STRONGEST) -> list[int]:
    """The channels with the largest sums of scores, (C, …), the first the largest; NaN counts as the least."""
    flat = scores.reshape(len(scores), -1)
    sums = flat.sum(1)
    if not sums.isfinite().all():  # sums of large values leave float32
        sums = flat.double().sum(1).nan_to_num(nan=-torch.inf)
    return sums.argsort(descending=True, stable=True)[:count].tolist()


def strongest_cell(scores: Tensor) -> tuple[int, ...]:
    """The strongest channel of scores, (C, …), and where in it they are largest."""
    (channel,) = strongest_channels(scores, 1)
    place = torch.unravel_index(scores[channel].nan_to_num(nan=-torch.inf).argmax(), scores.shape[1:])
    return (channel, *map(int, place))
