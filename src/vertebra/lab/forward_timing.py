"""Forward passes of networks, timed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn

from vertebra.introspect import Timings, time_interleaved

from .experiment import Figure, Setup


def time_forward(
    setup: Setup, networks: Mapping[str, nn.Module], shapes: Mapping[str, Sequence[int]] | Sequence[int], seconds: float
) -> Timings:
    """Time networks in evaluation mode, without gradients, on random inputs of (N, C, H, W), by name or one for all."""
    inputs = {
        name: torch.randn(*(shapes[name] if isinstance(shapes, Mapping) else shapes), device=setup.device)
        for name in networks
    }
    arms = {name: partial(network.to(setup.device).eval(), inputs[name]) for name, network in networks.items()}
    with torch.inference_mode():
        return time_interleaved(arms, seconds=seconds, device=setup.device)


def ratio_figure(timings: Timings, arm: str, reference: str) -> Figure:
    """How often one arm takes as long as the other, with its interval."""
    ratio = timings.ratio(arm, reference)
    return Figure(ratio.median, "×", ratio.n, (ratio.low, ratio.high))
