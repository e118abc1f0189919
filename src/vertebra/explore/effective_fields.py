"""Effective receptive fields (Luo et al. 2016, https://arxiv.org/abs/1701.04128): a gradient on one photo."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vertebra.graph.receptive_field import ReceptiveField

from .encoding import deflated, quantised
from .observation import Observation

SHARE = 0.95  # of the gradient, which a square is to hold
MOST_SIDE = 224  # values along a side of the picture


def effective_fields(observation: Observation, _options: object) -> dict[str, Any]:
    """The effective field of the central cell of each stage with maps, where it has a gradient."""
    fields = observation.structure.receptive_fields
    found = {}
    for part in observation.structure.parts.values():
        field = fields[part.row] if part.level == "stage" and len(part.shape) == 3 else None
        if field is None or len(field.size) != 2:
            continue
        cell = (part.shape[1] // 2, part.shape[2] // 2)
        gradient = input_gradient(observation.values.outputs[part.row], observation.values.image, cell)
        if gradient.sum() > 0 and gradient.isfinite().all():
            found[part.id] = {"cell": list(cell), "share": SHARE, "side": side_holding(gradient, field, cell)}
            found[part.id] |= encode_gradient(gradient)
    return found


def input_gradient(maps: Tensor, image: Tensor, cell: tuple[int, int]) -> Tensor:
    """|∂ sum over channels of maps at a cell / ∂ image|, summed over the image's channels: (H, W).

    maps: (1, C, h, w), computed from image: (1, channels, H, W). All zero where nothing of the image reaches the cell.
    """
    if not maps.requires_grad:
        return torch.zeros(image.shape[2:])
    score = maps[0, :, cell[0], cell[1]].sum()
    (gradient,) = torch.autograd.grad(score, image, retain_graph=True, materialize_grads=True)
    return gradient[0].abs().sum(0)


def side_holding(gradient: Tensor, field: ReceptiveField, cell: tuple[int, int], share: float = SHARE) -> int:
    """Side in pixels of the smallest square, centred where the cell's theoretical field is, with that share.

    It may reach beyond the image, where there is no gradient.
    """
    halves = []  # twice the distance of each row and column to the centre, which may lie between two pixels
    for length, start, jump, size, index in zip(gradient.shape, field.start, field.jump, field.size, cell, strict=True):
        halves.append((2 * torch.arange(length) - (2 * (start + index * jump) + size - 1)).abs())
    distance = torch.maximum(halves[0][:, None], halves[1][None, :]).flatten()
    held = torch.bincount(distance, gradient.double().flatten()).cumsum(0)
    return int((held < share * held[-1]).sum()) + 1


def encode_gradient(gradient: Tensor, most: int = MOST_SIDE) -> dict[str, Any]:
    """The gradient as bytes, 255 for its greatest value: only the box of those above 0.

    A larger one than `most` × `most` is averaged over step × step pixels, fewer at the border.
    """
    step = math.ceil(max(gradient.shape) / most)
    means = F.avg_pool2d(gradient[None, None].double(), step, ceil_mode=True)[0, 0]
    steps = quantised(means, 0, means.max())
    rows, columns = (steps.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    held = steps[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return {
        "top": rows[0] * step,
        "left": columns[0] * step,
        "height": held.shape[0],
        "width": held.shape[1],
        "step": step,
        "data": deflated(held),
    }
