"""How training steps are computed: by torch's layers, by this package's kernels, or compiled by torch.

Results differ by the rounding of float32 alone.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from vertebra.cache import cache_dir
from vertebra.cpu_kernels import KernelError, fuse
from vertebra.errors import warn

from .train_settings import Settings


def step_module(network: nn.Module, settings: Settings) -> Any:
    """Return the module that steps call for outputs; it shares the network's parameters and buffers.

    The network, or what follows its frozen stages, is in training mode; frozen stages are in evaluation mode.
    """
    if settings.speed == "compile":
        # Compiled code is kept for the next run.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))
        return torch.compile(network)
    if settings.speed == "fused":
        try:
            return fuse(network)
        except KernelError as error:
            warn(f"training steps are computed by torch's layers, which takes longer: {error}")
    return network
