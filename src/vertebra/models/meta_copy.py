"""Copies a network to torch's meta device, where tensors have shapes and no memory."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.optim.swa_utils import AveragedModel

from vertebra.errors import UsageError, first_line

META = torch.device("meta")


def to_meta(network: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the network in eval mode; `dtype` replaces that of floating-point tensors.

    Raises:
        UsageError: it cannot be copied, is a TorchScript module, or has uninitialised lazy layers.
    """
    network = unwrap_module(network)
    if isinstance(network, torch.jit.ScriptModule):
        raise UsageError("the network is a TorchScript module. Pass the Python module that it was made from.")
    memo: dict[int, Any] = {}
    for path, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if isinstance(tensor, UninitializedTensorMixin):
            raise UsageError(f"{path} has no shape yet: its layer is lazy. Run the network once before this call.")
        memo[id(tensor)] = meta_like(tensor, dtype)
    for module in network.modules():  # neither parameter nor buffer; copying these would take memory
        for value in vars(module).values():
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = meta_like(value, dtype)
            elif type(value) is OrderedDict and not value:  # a dozen a module, for hooks, which deepcopy takes long for
                memo[id(value)] = OrderedDict()
    try:
        meta = copy.deepcopy(network, memo)
    except Exception as error:
        raise UsageError(
            f"{type(network).__name__} cannot be copied ({first_line(error)}), and the analysis runs on a "
            "copy. Remove the attribute that copy.deepcopy refuses."
        ) from error
    return meta.eval()


def meta_like(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A meta tensor like this one; `dtype` replaces a floating-point one."""
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    empty = torch.empty(tensor.shape, dtype=wanted, device=META)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def unwrap_module(network: nn.Module) -> nn.Module:
    """The network inside a wrapper: torch.compile, data-parallel or weight averaging."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner
