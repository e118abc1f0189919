"""The user's own networks, for the experiments that can be asked of any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vertebra.anatomy import Anatomy, inspect
from vertebra.errors import UsageError, first_line
from vertebra.introspect import preserved
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.models import ConvNet, create_model
from vertebra.models.weight_reader import read_card

SIZES = (224, 32, 64, 28, 96, 128, 299, 384)  # of images: the first at which a network runs is its own
_sizes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def load_networks(models: Sequence[str | nn.Module]) -> dict[str, nn.Module]:
    """Each network by its name, with the weights of its file, or random ones (seed 0) where it has none.

    Args:
        models: modules, or texts: one MODEL or several, separated by commas.

    Raises:
        UsageError: there is no such network, the function returns none, or it does not classify images.
    """
    found: dict[str, nn.Module] = {}
    for model in models:
        if isinstance(model, nn.Module):
            found[_unused_name(type(model).__name__, found)] = model
            continue
        for text in [model] if os.path.exists(model) else model.split(","):  # noqa: PTH110 - that of `Path` may raise
            name, network = _load(text.strip())
            found[_unused_name(name, found)] = network
    for name, network in found.items():
        check_runs(name, network)
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


def random_images(network: nn.Module, count: int, size: int | None = None, seed: int = 0) -> Tensor:
    """Standard-normal images (count, C, size, size) on the network's device, with the channels that it takes.

    Without a size, the one that the network is for (`image_size`).
    """
    first = (module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    side = image_size(network) if size is None else size
    return torch.randn(count, next(first, 3), side, side, generator=generator).to(device)


def image_size(network: nn.Module) -> int:
    """The side of the images that a network is for: the first of `SIZES` at which it runs."""
    if network not in _sizes:
        fits = (side for side in SIZES if _problem(network, random_images(network, 1, side)) is None)
        _sizes[network] = next(fits, SIZES[0])
    return _sizes[network]


def small_images(network: nn.Module, count: int, side: int = 64, seed: int = 0) -> Tensor:
    """`random_images` of this side where the network runs on such, to save time; else of the one that it is for."""
    images = random_images(network, count, side, seed)
    return images if _problem(network, images[:1]) is None else random_images(network, count, None, seed)


def inspect_own(network: nn.Module) -> Anatomy:
    """Analyse a network at the size that it is for: that of its published weights, or `image_size`."""
    return inspect(network, None if isinstance(network, ConvNet) else image_size(network))


def check_runs(name: str, network: nn.Module, images: Tensor | None = None) -> None:
    """Raise a `UsageError` if the network cannot classify such images; without any, if it can classify none."""
    images = random_images(network, 1) if images is None else images
    if (problem := _problem(network, images)) is not None:
        raise UsageError(f"{name} {problem.format(' × '.join(map(str, images.shape[1:])))}")


def _problem(network: nn.Module, images: Tensor) -> str | None:
    """Why a network cannot classify such images."""
    with preserved(network), torch.no_grad():
        network.eval()
        try:
            logits = network(images)
        except Exception as error:
            return f"does not run on images of {{}}: {first_line(error).replace('{', '{{').replace('}', '}}')}."
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return "does not return logits (N, classes) for images of {}, so it is no classifier."
    return None
