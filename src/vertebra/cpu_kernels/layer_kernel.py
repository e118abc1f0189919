"""What takes the place of a layer, and leaves to it what there is no kernel for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LayerKernel(nn.Module):
    """Computes what `layer` would, where `takes` says so; calls the layer itself for anything else.

    It shares the layer's parameters. Subclasses have `compute`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → what the layer gives."""
        result: Tensor = self.compute(x) if self.takes(x) else self.layer(x)
        return result

    def takes(self, x: Tensor) -> bool:
        """Whether the kernels compute this; what the layer refuses is left to it, for its message."""
        return has_kernel(x, *self.layer.parameters()) and getattr(self.layer, "in_channels", x.shape[1]) == x.shape[1]

    def compute(self, x: Tensor) -> Tensor:
        """Call the kernels."""
        raise NotImplementedError


def empty_map(*shape: int) -> Tensor:
    """Allocate (N, C, H, W) in channels-last memory, which the kernels take."""
    return torch.empty(shape, memory_format=torch.channels_last)


def has_kernel(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take a map (N, C, H, W) that is not empty, and the tensors that are read with it.

    They read all as float32 where it is, so that nothing else may get there.
    """
    known = all(part.dtype == torch.float32 and part.device.type == "cpu" for part in (x, *others))
    return known and x.ndim == 4 and x.numel() > 0 and not torch.is_autocast_enabled("cpu")
