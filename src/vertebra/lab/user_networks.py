"""The user's own networks, for the experiments that can be asked of any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vertebra.anatomy import Anatomy, inspect
from vertebra.errors import UsageError, first_line, shortened
from vertebra.introspect import preserved
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.models import ConvNet, create_model
from vertebra.models.weight_reader import read_card

SIZES = (224, 32, 64, 28, 96, 48, 128, 299, 384, 16)  # of images: the first at which a network runs is its own
_NO_CLASSIFIER = ", so it is no classifier."
_shapes: WeakKeyDictionary[nn.Module, tuple[int, int, int]] = WeakKeyDictionary()


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
    channels = _channels(network)
    if size is None or channels is None:
        shape = image_shape(network)
        channels, size = shape[0], shape[1] if size is None else size
    return _noise(network, (count, channels, size, size), seed)


def image_shape(network: nn.Module) -> tuple[int, int, int]:
    """Channels and sides of the square images that a network is for: the first at which it runs.

    Tried are what it states as `input_size`, a side or (C, side, side), and `SIZES`.
    """
    if network not in _shapes:
        tried = [(c, side, side) for c in _tried_channels(network) for side in _tried_sides(network)]
        fits = (shape for shape in tried if _problem(network, _noise(network, (1, *shape))) is None)
        _shapes[network] = next(fits, tried[0])
    return _shapes[network]


def image_size(network: nn.Module) -> int:
    """The side of the images that a network is for."""
    return image_shape(network)[1]


def small_images(network: nn.Module, count: int, side: int = 64, seed: int = 0) -> Tensor:
    """`random_images` of this side where the network runs on such, to save time; else of the one that it is for."""
    images = random_images(network, count, side, seed)
    return images if _problem(network, images[:1]) is None else random_images(network, count, None, seed)


def inspect_own(network: nn.Module) -> Anatomy:
    """Analyse a network at the size that it is for: that of its published weights, or `image_shape`."""
    return inspect(network, None if isinstance(network, ConvNet) else image_shape(network))


def check_runs(name: str, network: nn.Module) -> None:
    """Raise a `UsageError` if the network can classify no images."""
    images = random_images(network, 1)
    if (problem := _problem(network, images)) is None:
        return
    problem = f"{name} {problem.format(' × '.join(map(str, images.shape[1:])))}"
    if not problem.endswith(_NO_CLASSIFIER):
        sides = ", ".join(map(str, _tried_sides(network)))
        problem += f" Sides tried: {sides}. If it is for others, state its own: network.input_size = 40, or (1, 40, 40)"
    raise UsageError(problem)


def _refusal(network: nn.Module) -> str | None:
    """Why nothing can be measured of a network, whatever its images are."""
    values = [*network.parameters(), *network.buffers()]
    if any(map(is_lazy, values)):
        return "has lazy layers, whose sizes are not known yet. Run it once on an image before it is returned."
    if any(value.is_meta for value in values):
        return "is on the meta device: it has no values. Return it built on the CPU."
    if any(".quantized" in type(module).__module__ for module in network.modules()):
        return "is quantised, and the lab measures networks in float32. Return it as it was before."
    for value in values:
        if value.is_floating_point() and value.dtype is not torch.float32:
            return f"is in {str(value.dtype).removeprefix('torch.')}: return it as float32 (.float())."
    return None


def _tried_channels(network: nn.Module) -> tuple[int, ...]:
    own = _channels(network)
    return (3, 1) if own is None else (own,)


def _channels(network: nn.Module) -> int | None:
    """That it states, else those of its first convolution; None where it has no module of one."""
    first = (module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    return (_stated(network) or (None,))[0] or next(first, None)


def _tried_sides(network: nn.Module) -> tuple[int, ...]:
    stated = _stated(network)
    return SIZES if stated is None else (stated[1], *SIZES)


def _stated(network: nn.Module) -> tuple[int | None, int] | None:
    """Channels and side of its attribute `input_size`: a number, (side, side) or (C, side, side)."""
    size = getattr(network, "input_size", None)
    given = size if isinstance(size, tuple | list) else (size,)
    numbers = [number for number in given if type(number) is int and number > 0]
    if len(numbers) != len(given) or not 1 <= len(numbers) <= 3:
        return None
    return (numbers[0] if len(numbers) == 3 else None), numbers[-1]


def _noise(network: nn.Module, shape: Sequence[int], seed: int = 0) -> Tensor:
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def _problem(network: nn.Module, images: Tensor) -> str | None:
    """Why a network cannot classify such images."""
    with preserved(network), torch.no_grad():
        network.eval()
        try:
            logits = network(images)
        except Exception as error:
            return f"does not run on images of {{}}: {first_line(error).replace('{', '{{').replace('}', '}}')}."
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return f"does not return logits (N, classes) for images of {{}}{_NO_CLASSIFIER}"
    if len(logits) != len(images):  # a view(-1, features) of a larger map makes several of one image
        return f"returns {len(logits)} rows of logits for {len(images)} of {{}}."
    return None
