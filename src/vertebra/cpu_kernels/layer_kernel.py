"""What takes the place of a layer, and leaves to it what there is no kernel for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LayerKernel(nn.Module):
    """Computes what `layer` would, on float32 on the CPU; calls the layer itself for anything else.

    It shares the layer's parameters. Subclasses have `compute`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → what the layer gives."""
        result: Tensor = self.compute(x) if has_kernel(x) else self.layer(x)
        return result

    def compute(self, x: Tensor) -> Tensor:
        """Call the kernels."""
        raise NotImplementedError


def empty_map(*shape: int) -> Tensor:
    """Allocate (N, C, H, W) in channels-last memory, which the kernels take."""
    return torch.empty(shape, memory_format=torch.channels_last)


def has_kernel(x: Tensor) -> bool:
    """Whether the kernels take values of this type, there where it is."""
    return x.dtype == torch.float32 and x.device.type == "cpu"
