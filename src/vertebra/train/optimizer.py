"""The optimiser and its parameter groups, frozen stages, and dropout rates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.models import ConvNet

from .train_settings import Settings


def freeze(network: ConvNet, stages: int) -> None:
    """Freeze the first stages: no gradients; `set_training` keeps them in evaluation mode."""
    if stages > len(network.stages):
        raise UsageError(
            f"freeze is {stages}, and the network has {len(network.stages)} stages: "
            f"{', '.join(stage.name for stage in network.stages)}."
        )
    for module in _frozen_modules(network, stages):
        module.requires_grad_(False)


def set_training(network: ConvNet, settings: Settings) -> None:
    """Call `network.train()`, but keep frozen stages in evaluation mode."""
    network.train()
    for module in _frozen_modules(network, settings.freeze):
        module.eval()


def disable_inplace(network: nn.Module) -> None:
    """Make activations whose gradient needs their input work out of place: in place, autograd copies it first.

    Results are the same, and a pass over memory is saved. ReLU's gradient needs no input.
    """
    for module in network.modules():
        if isinstance(module, nn.ReLU6 | nn.SiLU | nn.Hardtanh | nn.Hardswish):
            module.inplace = False


def set_dropout(network: nn.Module, rates: dict[str, float], factor: float) -> None:
    """Set each dropout layer to `factor` times its rate in `rates`, by layer name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = rates[name] * factor


def dropout_rates(network: nn.Module, settings: Settings) -> dict[str, float]:
    """Return the rate of each dropout layer by name."""
    found = {name: module.p for name, module in network.named_modules() if isinstance(module, nn.Dropout)}
    return found if settings.dropout is None else dict.fromkeys(found, settings.dropout)


def build_optimizer(network: ConvNet, settings: Settings) -> torch.optim.Optimizer:
    """Build the optimiser; the `scale` of a parameter group multiplies its learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    stages = _stage_of(network)
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = settings.norm_weight_decay is None or parameter.ndim > 1
        decay = settings.weight_decay if plain else settings.norm_weight_decay
        # The head counts as the stage behind the last one.
        scale = settings.layer_decay ** (len(network.stages) - stages.get(name, len(network.stages)))
        groups.setdefault((decay or 0.0, scale), []).append(parameter)
    listed = [{"params": found, "weight_decay": decay, "scale": scale} for (decay, scale), found in groups.items()]
    first = settings.lr if isinstance(settings.lr, float) else 1.0  # set before each step
    # Fused: one pass over the memory for all parameters of a group.
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            listed, first, settings.momentum, nesterov=settings.nesterov and settings.momentum > 0, fused=True
        )
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(listed, first, fused=True)
    # alpha and eps of the papers' own code, as in torchvision's reference training.
    return torch.optim.RMSprop(listed, first, alpha=0.9, eps=0.0316, momentum=settings.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def _stage_of(network: ConvNet) -> dict[str, int]:
    """Map each parameter name to the index of its stage."""
    found = {}
    for number, stage in enumerate(network.stages):
        for path in stage.modules:
            for name, _ in network.get_submodule(path).named_parameters():
                found[f"{path}.{name}"] = number
    return found


def _frozen_modules(network: ConvNet, stages: int) -> Iterator[nn.Module]:
    if not stages:  # finding the stages of 56 layers takes a millisecond, and is asked for in each step
        return
    for stage in network.stages[:stages]:
        for path in stage.modules:
            yield network.get_submodule(path)
