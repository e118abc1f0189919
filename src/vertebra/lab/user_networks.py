"""The user's own networks, for the experiments that can be asked of any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.anatomy import Anatomy, inspect
from vertebra.errors import UsageError, shortened
from vertebra.introspect.image_shapes import SIZES as SIZES
from vertebra.introspect.image_shapes import image_shape as image_shape
from vertebra.introspect.image_shapes import (
    missing_values,
    noise,
    problem_of_images,
    require_classifier,
    stated_channels,
)
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.models import ConvNet, create_model
from vertebra.models.weight_reader import read_card

Models = str | nn.Module | Sequence[str | nn.Module] | Mapping[str, str | nn.Module] | None


def load_networks(models: Models) -> dict[str, nn.Module]:
    """Each network by its name, with the weights of its file, or random ones (seed 0) where it has none.

    Args:
        models: a module or several, or texts: one MODEL or several, separated by commas; a mapping gives them names.

    Raises:
        UsageError: that is none of these, there is no such network, the function returns none, it has no values in
            float32, or it does not classify images.
    """
    found: dict[str, nn.Module] = {}
    if isinstance(models, Mapping):
        named: Mapping[Any, Any] = models
        for name, model in named.items():
            if not isinstance(name, str) or not name.strip() or ":" in name:
                raise UsageError(f"{shortened(repr(name))} names a model; give a text without a colon.")
            found[name] = _load(model.strip())[1] if isinstance(model, str) else _network(model)
    else:
        one = isinstance(models, str | nn.Module | type) or not isinstance(models, Iterable)
        given: Any = () if models is None else [models] if one else models
        for model in given:
            if not isinstance(model, str):
                network = _network(model)
                found[_unused_name(type(network).__name__, found)] = network
                continue
            for text in [model] if os.path.exists(model) else model.split(","):  # noqa: PTH110 - `Path`'s may raise
                name, network = _load(text.strip())
                found[_unused_name(name, found)] = network
    for name, network in found.items():
        if (refusal := _refusal(network)) is not None:
            raise UsageError(f"{name} {refusal}")
        check_runs(name, network)
        if next(network.parameters(), None) is None:
            raise UsageError(f"{name} has no parameters, so there is nothing to measure.")
    return found


def _network(model: Any) -> nn.Module:
    """The model, if it is a network."""
    if isinstance(model, nn.Module):
        return model
    shown = shortened(repr(model))
    what = f"{shown}, which makes a network when it is called: give what it returns" if callable(model) else shown
    raise UsageError(f"a model is {what}. Models are of class nn.Module, or texts as --model takes them.")


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

    Without a size, the one that the network is for (`image_shape`).
    """
    channels = stated_channels(network)
    if size is None or channels is None:
        shape = image_shape(network)
        channels, size = shape[0], shape[1] if size is None else size
    return noise(network, (count, channels, size, size), seed)


def image_size(network: nn.Module) -> int:
    """The side of the images that a network is for."""
    return image_shape(network)[1]


def small_images(network: nn.Module, count: int, side: int = 64, seed: int = 0) -> Tensor:
    """`random_images` of this side where the network runs on such, to save time; else of the one that it is for."""
    images = random_images(network, count, side, seed)
    return images if problem_of_images(network, images[:1]) is None else random_images(network, count, None, seed)


def inspect_own(network: nn.Module) -> Anatomy:
    """Analyse a network at the size that it is for: that of its published weights, or `image_shape`."""
    return inspect(network, None if isinstance(network, ConvNet) else image_shape(network))


def check_runs(name: str, network: nn.Module) -> None:
    """Raise a `UsageError` if the network can classify no images."""
    require_classifier(name, network, random_images(network, 1))


def _refusal(network: nn.Module) -> str | None:
    """Why nothing can be measured of a network, whatever its images are."""
    if (found := missing_values(network)) is not None:
        return found
    for value in [*network.parameters(), *network.buffers()]:
        if value.is_floating_point() and value.dtype is not torch.float32:
            return f"is in {str(value.dtype).removeprefix('torch.')}: return it as float32 (.float())."
    return None
