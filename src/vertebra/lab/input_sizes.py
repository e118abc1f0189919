"""Which square images a network runs on, found by running it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from vertebra.errors import UsageError, first_line
from vertebra.introspect import preserved
from vertebra.models import ConvNet

from .user_networks import random_images

LARGEST = 512


def error_at(network: nn.Module, size: int) -> str | None:
    """Run the network once on one image of size × size pixels, in evaluation mode; None, or the error it raises.

    A `ConvNet` is asked past its own check of the input, so that the layers answer.
    """
    with preserved(network), _unchecked(network), torch.no_grad():
        network.eval()
        try:
            network(random_images(network, 1, size))
        except Exception as error:
            return first_line(error)
    return None


def smallest_input(network: nn.Module, largest: int = LARGEST, advance: Callable[[int], None] | None = None) -> int:
    """The side of the smallest square image that runs. Each size is tried: a network may take a single one.

    Raises:
        UsageError: none up to `largest` runs.
    """
    error: str | None = None
    for size in range(1, largest + 1):
        if advance is not None:
            advance(size)
        error = error_at(network, size)
        if error is None:
            return size
    raise UsageError(
        f"{type(network).__name__} runs on no square image of 1 to {largest} pixels. At {largest} it fails with: "
        f"{error}. It must take one tensor, (N, C, H, W)."
    )


@contextlib.contextmanager
def _unchecked(network: nn.Module) -> Iterator[None]:
    own = [(module, module.min_size) for module in network.modules() if isinstance(module, ConvNet)]
    for module, _ in own:
        module.min_size = 1
    try:
        yield
    finally:
        for module, size in own:
            module.min_size = size
