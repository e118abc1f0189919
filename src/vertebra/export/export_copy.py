"""The copy of a network that is exported: on the CPU, in float32, in eval mode; and which networks are rejected."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from vertebra.card import Preprocessing
from vertebra.errors import UsageError, first_line
from vertebra.models import ConvNet
from vertebra.units import counted

from .observed_network import ObservedNetwork

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.quantization", "torchao.")


def check_exportable(network: nn.Module) -> None:
    """Raise a `UsageError` for networks that are quantised, TorchScript, without classifier or with lazy layers."""
    if isinstance(network, torch.jit.ScriptModule):
        raise UsageError("the network is a TorchScript module; give the Python module that it was made from.")
    if _num_classes(network) == 0:
        raise UsageError(
            f"this {type(network).__name__} has no classifier (num_classes=0), and a file predicts classes. Give it "
            "one with reset_classifier(N), trained or loaded, and export that."
        )
    for path, module in network.named_modules():
        if type(module).__module__.startswith(_QUANTISED):
            raise UsageError(
                f"the layer {path or type(module).__name__} is quantised ({type(module).__name__}). Export the float "
                "network; with calibration= (on the command line --precision int8) the file is int8."
            )
    for path, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if isinstance(tensor, UninitializedTensorMixin):
            raise UsageError(f"{path} has no shape yet: it belongs to a lazy layer. Run the network once, then export.")


def _num_classes(network: nn.Module) -> Any:
    """Return its attribute `num_classes`, or None."""
    try:
        return getattr(network, "num_classes", None)
    except UsageError:  # one of ours whose head has no width to read
        return None


def is_family(network: nn.Module) -> bool:
    """Whether it is one of our networks, unmodified, so that its parts compute what `forward` does."""
    return (
        isinstance(network, ConvNet)
        and type(network).__module__.startswith(ConvNet.__module__.rpartition(".")[0])
        and "forward" not in vars(network)
        and not network._forward_hooks
        and not network._forward_pre_hooks
    )


def copy_for_export(network: nn.Module, preprocessing: Preprocessing) -> ConvNet | ObservedNetwork:
    """Copy the network for export; a `UsageError` if it does not take RGB photos of the card's size."""
    if isinstance(network, ObservedNetwork):
        return network
    found = (module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    channels = network.in_channels if isinstance(network, ConvNet) else next(found, 3)
    if channels != 3 or len(preprocessing.mean) not in (1, 3) or len(preprocessing.std) not in (1, 3):
        raise UsageError(
            f"the network takes {counted(channels, 'channel')} and its preprocessing has {len(preprocessing.mean)}; "
            "an exported file takes RGB photos, so both must be for 3."
        )
    if isinstance(network, ConvNet) and preprocessing.crop_size < network.min_size:
        raise UsageError(
            f"crop_size is {preprocessing.crop_size}, and {type(network).__name__} takes images of at least "
            f"{network.min_size} pixels. Export it with a larger crop_size."
        )
    check_exportable(network)
    try:
        twin = _with_plain_normalize(copy.deepcopy(network)).to("cpu", torch.float32).eval().requires_grad_(False)
    except Exception as error:  # a module may raise whatever it likes
        hint = (
            " Where its values are computed from others, make them plain first: torch.nn.utils.prune.remove(layer, "
            "'weight'), torch.nn.utils.remove_weight_norm(layer)."
            if "graph leaves" in str(error)
            else ""
        )
        raise UsageError(
            f"the network cannot be copied to the CPU in float32 ({type(error).__name__}: {first_line(error)}).{hint}"
        ) from error
    if isinstance(twin, ConvNet) and is_family(twin):
        return twin
    return ObservedNetwork(twin, preprocessing.crop_size)


class _Normalise(nn.Module):
    """(…, C, H, W) → (values - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _with_plain_normalize(network: nn.Module) -> nn.Module:
    """Replace torchvision's `Normalize`, which reads values that a trace does not have, by plain arithmetic."""
    for path, module in list(network.named_modules()):
        if path and type(module).__name__ == "Normalize" and type(module).__module__.startswith("torchvision."):
            parent, _, name = path.rpartition(".")
            plain = _Normalise(module.mean, module.std)
            setattr(network.get_submodule(parent), name, plain)
    return network
