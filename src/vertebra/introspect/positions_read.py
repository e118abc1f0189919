"""Which positions of a strided convolution's input reach the network's output, by gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vertebra.errors import UsageError

from .preserve import device_of
from .receptive_field_by_gradient import WithoutSelection, averaging_copy, input_channels


def positions_read(network: nn.Module, input_size: int = 224) -> dict[str, Tensor]:
    """For each convolution of a stride above 1, the positions of its input that have a gradient: booleans (H, W).

    All that reads the same map counts: a block's branch and its shortcut. A copy of the network runs on one image, with
    positive weights and averages in place of maxima, so that no gradient cancels or is lost.

    Args:
        network: any module of one image; it is left as it was, and may be on the meta device.
        input_size: height and width in pixels.

    Raises:
        UsageError: no convolution with a stride runs.
    """
    linear = averaging_copy(network)
    read: dict[str, Tensor] = {}

    def add(path: str, gradient: Tensor) -> None:
        read[path] |= gradient.ne(0).any(1).any(0)

    def watch(path: str, module: nn.Module, args: Any) -> None:
        read.setdefault(path, torch.zeros(args[0].shape[-2:], dtype=torch.bool, device=args[0].device))
        args[0].register_hook(partial(add, path))

    for path, module in linear.named_modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            module.register_forward_pre_hook(partial(watch, path))
    shape = (1, input_channels(linear), input_size, input_size)
    x = torch.ones(shape, dtype=torch.float64, device=device_of(linear), requires_grad=True)
    with torch.inference_mode(False), torch.enable_grad(), WithoutSelection():
        outputs = [leaf for leaf in tree_leaves(linear(x)) if isinstance(leaf, Tensor)]
    if not read:
        raise UsageError(f"no convolution of this {type(network).__name__} has a stride, so none leaves positions out.")
    torch.stack([leaf.sum() for leaf in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    return read
