"""What an activation does to the values: histograms before and after, and the shares that it cuts, caps or keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vertebra.graph.cost import Kind
from vertebra.introspect.activations import FUNCTIONS
from vertebra.introspect.joins import find_gates

from .lineage import parts_by_row
from .observation import Observation
from .pictures import rounded

BINS = 64
CAPS = {"relu6": 6.0, "hardtanh": 1.0}
CUTS = frozenset({"relu", "relu6"})  # negative values become 0


def activation_histograms(observation: Observation, _options: object) -> dict[str, Any]:
    """For the activation's layer: counts in common bins, of which 0 is an edge, and the shares of values."""
    rows, values = observation.structure.anatomy.rows, observation.values
    parts = parts_by_row(observation.structure)
    gates = {gate.factor.index for gate in find_gates(rows)}
    found: dict[str, Any] = {}
    for row in rows:
        if row.op not in FUNCTIONS or row.index in gates or not values.operands[row.index]:
            continue
        before, after = values.operands[row.index][0].detach(), values.outputs[row.index].detach()
        if not (before.isfinite().all() and after.isfinite().all()):
            continue
        low, width, zero = _bins(before, after)
        source = rows[row.inputs[0]] if row.inputs and row.inputs[0] >= 0 else None
        norm = source if source is not None and source.kind is Kind.NORM and values.operands[source.index] else None
        found.setdefault(parts[row.index], []).append(
            {
                "row": row.index,
                "name": row.name,
                "source": "input" if source is None else source.name,
                "function": row.op,
                "low": rounded(low),
                "width": rounded(width),
                "zero": zero,
                "before": _counts(before, width, zero),
                "after": _counts(after, width, zero),
                "values": before.numel(),
                "negative": rounded(int((before < 0).sum()) / before.numel()),
                "zeros": rounded(int((after == 0).sum()) / after.numel()),
                "cut": row.op in CUTS,
                "cap": CAPS.get(row.op),
                "capped": rounded(int((before > CAPS[row.op]).sum()) / before.numel()) if row.op in CAPS else None,
                "lowest": rounded(float(after.min())),
                "moments": [_moments(before), _moments(after)],
                "norm": [_moments(values.operands[norm.index][0].detach()), _moments(before)]
                if norm is not None
                else None,
            }
        )
    return found


def _moments(values: Tensor) -> list[float]:
    """Mean and standard deviation."""
    found = torch.var_mean(values, correction=0)
    return [rounded(float(found[1])), rounded(float(found[0].sqrt()))]


def _bins(before: Tensor, after: Tensor) -> tuple[float, float, int]:
    """Lower edge of the first bin, width of the bins, and how many are below 0, so that 0 is between two bins."""
    low = min(float(before.min()), float(after.min()), 0.0)
    high = max(float(before.max()), float(after.max()), 0.0)
    if low == high:
        return 0.0, 1 / BINS, 0
    zero = 0 if low == 0 else min(max(round(BINS * -low / (high - low)), 1), BINS if high == 0 else BINS - 1)
    width = max(-low / zero if zero else 0.0, high / (BINS - zero) if zero < BINS else 0.0)
    return -zero * width, width, zero


def _counts(values: Tensor, width: float, zero: int) -> list[int]:
    """Values in each bin; 0 itself is in the bin above it."""
    flat = values.flatten()
    below: list[int] = []
    if zero:
        # Its last bin has both edges, so 0 has to be taken out; the outer edges are a little wider than the extremes,
        # which rounding may put outside.
        counts = torch.histc(flat[flat < 0], zero, -zero * width * (1 + 1e-6), 0.0) if bool((flat < 0).any()) else None
        below = [0] * zero if counts is None else [int(count) for count in counts.tolist()]
    if zero == BINS:
        below[-1] += int((flat == 0).sum())
        return below
    upper = flat[flat >= 0]
    above = torch.histc(upper, BINS - zero, 0.0, (BINS - zero) * width * (1 + 1e-6)) if len(upper) else None
    return below + ([0] * (BINS - zero) if above is None else [int(count) for count in above.tolist()])
