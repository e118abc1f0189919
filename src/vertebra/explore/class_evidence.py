"""Evidence for the best classes: by channel of the last map, and by position as a heat-map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vertebra.graph.cost import Kind
from vertebra.graph.rows import Row

from .dependencies import through_views
from .encoding import rounded
from .observation import Observation
from .pictures import shrunk

CLASSES = 5
CHANNELS = 8  # listed for, and as many against


def class_evidence(observation: Observation) -> dict[str, Any] | None:
    """Of the best classes: the contribution of each channel and of each position of the last map; None without a map.

    Behind the last map may be global average pooling and one linear layer. Then channel c contributes w[k, c] × its
    mean, position (y, x) contributes Σ_c w[k, c] × map[c, y, x] / (H × W), and either kind adds up, with the bias, to
    the logit: the class activation map (Zhou et al. 2016, https://arxiv.org/abs/1512.04150) in units of the logit.
    Otherwise ("gradient") both are sums of gradient × value of the map (HiResCAM, Draelos et al. 2020,
    https://arxiv.org/abs/2011.08891), which need not add up.
    """
    running = [row for row in observation.structure.rows if row.kind is not Kind.UNUSED]
    pooled = _pooled_map(observation, running)
    row = _last_map(running) if pooled is None else pooled[0]
    if row is None:
        return None
    logits, maps = observation.logits, observation.values.outputs[row.index]
    shown = []
    for index in logits.argsort(descending=True, stable=True)[:CLASSES].tolist():
        score = observation.ending.logits[0, index]
        # Behind global average pooling and a linear layer it is w[k, c] / (H × W).
        gradient: Tensor | None = torch.autograd.grad(score, maps, retain_graph=True, allow_unused=True)[0]
        if gradient is None:  # the logits do not depend on the map
            return None
        evidence = (gradient.double() * maps.detach().double())[0]  # (C, H, W)
        shown.append(_class(evidence, index, float(logits[index]), None if pooled is None else float(pooled[1][index])))
    return {
        "formula": "gradient" if pooled is None else "linear",
        "part": observation.structure.layer_of_row[row.index],
        "row": row.index,
        "name": row.name,
        "channels": maps.shape[1],
        "map": list(maps.shape[2:]),
        "height": len(shown[0]["cells"]),
        "width": len(shown[0]["cells"][0]),
        "classes": shown,
    }


def _class(evidence: Tensor, index: int, logit: float, bias: float | None) -> dict[str, Any]:
    channels = evidence.sum((1, 2))
    order = channels.argsort(descending=True, stable=True).tolist()
    supporting = [channel for channel in order[:CHANNELS] if channels[channel] > 0]
    opposing = [channel for channel in order[::-1][:CHANNELS] if channels[channel] < 0]
    cells = evidence.sum(0)
    small = shrunk(cells) * (cells.numel() / shrunk(cells).numel())  # the sum stays
    return {
        "index": index,
        "logit": rounded(logit),
        "bias": None if bias is None else rounded(bias),
        "sum": rounded(float(channels.sum())),
        "for": [[channel, rounded(float(channels[channel]))] for channel in supporting],
        "against": [[channel, rounded(float(channels[channel]))] for channel in opposing],
        "positive": rounded(float(channels.clamp_min(0).sum())),
        "negative": rounded(float(channels.clamp_max(0).sum())),
        "cells": [[rounded(value) for value in line] for line in small.tolist()],
    }


def _pooled_map(observation: Observation, rows: Sequence[Row]) -> tuple[Row, Tensor] | None:
    """The last map, and the biases (classes,), where all behind it is global average pooling and one linear layer."""
    values = observation.values
    at = observation.ending.row
    if at is None:
        return None
    last = rows[at]
    if last.op != "linear" or len(last.inputs) != 1:
        return None
    pooling = through_views(rows, last.inputs[0])
    if pooling < 0 or rows[pooling].kind is not Kind.POOL or len(rows[pooling].inputs) != 1:
        return None
    source = rows[pooling].inputs[0]
    if source < 0 or values.outputs[source].ndim != 4:
        return None
    means, pooled = values.outputs[source].detach().mean((2, 3)), values.operands[last.index][0].detach()
    if pooled.shape != means.shape or not torch.allclose(pooled, means, rtol=1e-4, atol=1e-5):
        return None  # another pooling
    biases = [tensor for tensor in values.weights[last.index] if tensor.ndim == 1]
    return rows[source], biases[0] if biases else torch.zeros_like(observation.logits)


def _last_map(rows: Sequence[Row]) -> Row | None:
    """The last output with positions. An adaptive pooling's is that of its input, at another size."""
    for row in reversed(rows):
        if len(row.output_shape) == 4 and max(row.output_shape[2:]) > 1 and row.op != "adaptive_avg_pool2d":
            return row
    return None
