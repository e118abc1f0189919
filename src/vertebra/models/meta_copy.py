"""A copy of a network on torch's meta device, whose tensors have shapes and no memory. The network stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.optim.swa_utils import AveragedModel

from vertebra.errors import UsageError, first_line

META = torch.device("meta")


def to_meta(network: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """The copy, in eval mode; `dtype` is that of its floating-point tensors, None keeps each one's own.

    Raises:
        UsageError: it cannot be copied, is a TorchScript module or has layers without a shape yet.
    """
    network = unwrapped(network)
    if isinstance(network, torch.jit.ScriptModule):
        raise UsageError("the network is a TorchScript module; give the Python module that it was made from.")
    memo: dict[int, Any] = {}
    for path, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if isinstance(tensor, UninitializedTensorMixin):
            raise UsageError(f"{path} has no shape yet: it belongs to a lazy layer. Run the network once, then call.")
        memo[id(tensor)] = shape_of(tensor, dtype)
    for module in network.modules():  # tensors that are neither parameter nor buffer; copying them would cost memory
        for value in vars(module).values():
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = shape_of(value, dtype)
    try:
        twin = copy.deepcopy(network, memo)
    except Exception as error:
        raise UsageError(
            f"{type(network).__name__} cannot be copied ({first_line(error)}), and anatomy never touches the "
            "original. Remove the attribute that copy.deepcopy refuses."
        ) from error
    return twin.eval()


def shape_of(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """One like it on the meta device; `dtype` is that of floating-point ones, None keeps it."""
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    twin = torch.empty(tensor.shape, dtype=wanted, device=META)
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside torch.compile's, a data-parallel or an averaging wrapper."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner
