"""The user's own networks, for the experiments that can be asked of any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vertebra.errors import UsageError, first_line
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.models import create_model
from vertebra.models.weight_reader import read_card

SIZES = (224, 32, 64, 28, 96, 128, 299, 384)  # of images: the first at which a network runs is its own


def load_networks(models: Sequence[str | nn.Module]) -> dict[str, nn.Module]:
    """Each network by its name, with the weights of its file, or random ones (seed 0) where it has none.

    Args:
        models: modules, or texts: one MODEL or several, separated by commas.

    Raises:
        UsageError: there is no such network, or the function returns none.
    """
    found: dict[str, nn.Module] = {}
    for model in models:
        if isinstance(model, nn.Module):
            found[_unused_name(type(model).__name__, found)] = model
            continue
        for text in [model] if Path(model).exists() else model.split(","):
            name, network = _load(text.strip())
            found[_unused_name(name, found)] = network
    return found


def _load(text: str) -> tuple[str, nn.Module]:
    model = resolve_model(text, "lab")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if model.kind is ModelKind.NETWORK:
            return model.name, create_model(model.network)
        if model.kind is ModelKind.FUNCTION:
            return model.name, model.call()
    path = model.weight_file
    card = read_card(path)
    if card is None:
        raise UsageError(f"{path} does not name its network. Write a function that loads it: FILE.py:NAME")
    return model.name, create_model(card.architecture, weights=path)


def _unused_name(name: str, taken: dict[str, nn.Module]) -> str:
    number = 2
    unused = name
    while unused in taken:
        unused, number = f"{name} ({number})", number + 1
    return unused


def random_images(network: nn.Module, count: int, size: int = DEFAULT_SIZE, seed: int = 0) -> Tensor:
    """Standard-normal images (count, C, size, size) on the network's device, with the channels that it takes."""
    first = (module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, next(first, 3), size, size, generator=generator).to(device)


def check_runs(name: str, network: nn.Module, images: Tensor) -> None:
    """Raise a `UsageError` if the network cannot classify such images."""
    shape = " × ".join(map(str, images.shape[1:]))
    try:
        with torch.no_grad():
            logits = network(images)
    except Exception as error:
        raise UsageError(f"{name} does not run on images of {shape}: {first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UsageError(f"{name} does not return logits (N, classes) for images of {shape}, so it is no classifier.")
