"""What a setting means at a moment of training: rates, strengths, parameter groups. All of it follows from the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from vertebra.card import Preprocessing
from vertebra.errors import UsageError
from vertebra.models import ConvNet
from vertebra.preprocessing import training_preprocessing

from .train_settings import Settings

# Tan & Le 2021, Table 6: of the size, the magnitude and the dropout that are reached at the end.
_FIRST_SIZE, _FIRST_MAGNITUDE, _FIRST_DROPOUT = 128 / 300, 5 / 15, 0.1 / 0.3


def view_of(settings: Settings, published: Preprocessing, size: int | None = None) -> Preprocessing:
    """What a run's network sees of a photo: `training_preprocessing` by the run's settings."""
    return training_preprocessing(published, size, settings.crop_pct, settings.decoding)


@dataclass(frozen=True)
class Strength:
    """How large the images are and how strongly they are changed."""

    size: int
    magnitude: int
    mixup: float
    dropout: float  # share of the network's own


def strength(settings: Settings, size: int, progress: float) -> Strength:
    """At `progress` (0 to 1) of training, for a network that is to see `size` pixels at the end."""
    steps = settings.progressive
    if steps < 2:
        return Strength(size, settings.magnitude, settings.mixup, 1.0)
    part = min(int(progress * steps), steps - 1) / (steps - 1)

    def grown(first: float, last: float) -> float:
        return first + (last - first) * part

    # Multiples of 16: other sizes leave a ragged edge at each stage that halves them.
    pixels = size if part == 1 else max(32, 16 * round(grown(_FIRST_SIZE * size, size) / 16))
    magnitude = round(grown(_FIRST_MAGNITUDE * settings.magnitude, settings.magnitude))
    return Strength(min(pixels, size), magnitude, grown(0.0, settings.mixup), grown(_FIRST_DROPOUT, 1.0))


def rate(settings: Settings, progress: float, epochs: float) -> float:
    """The share of the learning rate at `progress` (0 to 1) of `epochs` epochs."""
    epoch = progress * epochs
    warmup = min(settings.warmup, epochs / 2)  # of a short training not all is warming up
    if epoch < warmup:
        return (epoch + 1e-3) / warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        return float(settings.gamma ** int(epoch / settings.step_epochs))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - warmup) / max(epochs - warmup, 1e-9))))


def freeze(network: ConvNet, stages: int) -> None:
    """Leave the first stages as they are: no gradients, and `set_training` leaves their statistics alone.

    Raises:
        UsageError: the network has fewer stages.
    """
    if stages > len(network.stages):
        raise UsageError(
            f"freeze is {stages}, and the network has {len(network.stages)} stages: "
            f"{', '.join(stage.name for stage in network.stages)}."
        )
    for module in _modules(network, stages):
        module.requires_grad_(False)


def set_training(network: ConvNet, settings: Settings) -> None:
    """As `network.train()`, but for what is frozen."""
    network.train()
    for module in _modules(network, settings.freeze):
        module.eval()


def avoid_copies(network: nn.Module) -> None:
    """Activations whose gradient needs their input work out of place: in place autograd keeps a copy of it first.

    The numbers stay the same, and a pass over the memory of every activation is saved. ReLU's gradient needs no input.
    """
    for module in network.modules():
        if isinstance(module, nn.ReLU6 | nn.SiLU | nn.Hardtanh | nn.Hardswish):
            module.inplace = False


def set_dropout(network: nn.Module, shares: dict[str, float], share: float) -> None:
    """Each dropout layer at `share` of its own probability, which `shares` has by its name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = shares[name] * share


def dropouts(network: nn.Module, settings: Settings) -> dict[str, float]:
    """The probability of each dropout layer by its name."""
    found = {name: module.p for name, module in network.named_modules() if isinstance(module, nn.Dropout)}
    return found if settings.dropout is None else dict.fromkeys(found, settings.dropout)


def make_optimizer(network: ConvNet, settings: Settings) -> torch.optim.Optimizer:
    """Its groups carry `scale`, which their rate is multiplied by."""
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
    first = settings.lr if isinstance(settings.lr, float) else 1.0  # set anew before each step
    # Fused: one pass over the memory for all parameters of a group.
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            listed, first, settings.momentum, nesterov=settings.nesterov and settings.momentum > 0, fused=True
        )
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(listed, first, fused=True)
    # alpha and eps are those of the papers' own code: TensorFlow's defaults, as in torchvision's reference.
    return torch.optim.RMSprop(listed, first, alpha=0.9, eps=0.0316, momentum=settings.momentum)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def _stage_of(network: ConvNet) -> dict[str, int]:
    """Name of a parameter -> number of its stage."""
    found = {}
    for number, stage in enumerate(network.stages):
        for path in stage.modules:
            for name, _ in network.get_submodule(path).named_parameters():
                found[f"{path}.{name}"] = number
    return found


def _modules(network: ConvNet, stages: int) -> Iterator[nn.Module]:
    for stage in network.stages[:stages]:
        for path in stage.modules:
            yield network.get_submodule(path)
