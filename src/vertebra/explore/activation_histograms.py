"""What an activation does to the values: histograms before and after, and the shares that it cuts, caps or keeps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vertebra.graph.cost import Kind
from vertebra.introspect.activations import FUNCTIONS
from vertebra.introspect.joins import find_gates

from .encoding import rounded
from .observation import Observation

BINS = 64


def activation_histograms(observation: Observation, _options: object) -> dict[str, Any]:
    """For the activation's layer: counts in common bins, of which 0 is an edge, and the shares of values."""
    rows, values = observation.structure.rows, observation.values
    gates = {gate.factor.index for gate in find_gates(rows)}
    found: dict[str, Any] = {}
    for row in rows:
        if row.op not in FUNCTIONS or row.index in gates or not values.operands[row.index]:
            continue
        before, after = values.operands[row.index][0].detach(), values.outputs[row.index].detach()
        low, high = (float(edge) for edge in torch.stack([*before.aminmax(), *after.aminmax()]).aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            continue
        low, width, zero = _bins(min(low, 0.0), max(high, 0.0))
        below = int(torch.count_nonzero(before < 0))
        limits = values.arguments[row.index]  # of ReLU6 and hardtanh
        cap = limits.get("max_val")
        moments = _moments(before)
        source = rows[row.inputs[0]] if row.inputs and row.inputs[0] >= 0 else None
        norm = source if source is not None and source.kind is Kind.NORM and values.operands[source.index] else None
        found.setdefault(observation.structure.layer_of_row[row.index], []).append(
            {
                "row": row.index,
                "name": row.name,
                "source": "input" if source is None else source.name,
                "function": row.op,
                "low": rounded(low),
                "width": rounded(width),
                "zero": zero,
                "before": _counts(before, low, width, zero, below),
                "after": _counts(after, low, width, zero),
                "values": before.numel(),
                "negative": rounded(below / before.numel()),
                "cut": row.op == "relu" or limits.get("min_val") == 0,
                "cap": cap,
                "capped": None if cap is None else rounded(int(torch.count_nonzero(before > cap)) / before.numel()),
                "lowest": rounded(float(after.min())),
                "moments": [moments, _moments(after)],
                "norm": [_moments(values.operands[norm.index][0].detach()), moments] if norm is not None else None,
            }
        )
    return found


def _moments(values: Tensor) -> list[float]:
    """Mean and standard deviation."""
    dims = tuple(range(values.ndim))  # without them it is 5 times as slow
    found = torch.stack([values.mean(), values.std(dims, correction=0)])
    if not found.isfinite().all():  # squares of large values leave float32
        found = torch.stack([values.double().mean(), values.double().std(dims, correction=0)])
    return [rounded(value) for value in found.tolist()]


def _bins(low: float, high: float) -> tuple[float, float, int]:
    """Lower edge of the first bin, width of the bins, and how many are below 0, so that 0 is between two bins."""
    if low == high:
        return 0.0, 1 / BINS, 0
    zero = 0 if low == 0 else min(max(round(BINS * -low / (high - low)), 1), BINS if high == 0 else BINS - 1)
    width = max(-low / zero if zero else 0.0, high / (BINS - zero) if zero < BINS else 0.0)
    return -zero * width, width, zero


def _counts(values: Tensor, low: float, width: float, zero: int, below: int | None = None) -> list[int]:
    """Values in each bin; 0 itself is in the bin above it."""
    slack = width * 1e-5  # rounding may put the extremes outside
    counts = [int(c) for c in torch.histc(values, BINS, low - slack, low + BINS * width + slack).tolist()]
    if 0 < zero < BINS:  # rounding may also put values next to 0 on the wrong side
        moved = (int(torch.count_nonzero(values < 0)) if below is None else below) - sum(counts[:zero])
        counts[zero - 1] += moved
        counts[zero] -= moved
    return counts
