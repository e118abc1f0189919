"""The images that a network of unknown origin is for: the shape at which it runs, and why it may run at none."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vertebra.errors import UsageError, first_line

from .preserve import preserved

SIZES = (224, 32, 64, 28, 96, 48, 128, 299, 384, 16)  # of images: the first at which a network runs is its own
NO_CLASSIFIER = ", so it is no classifier."
_shapes: WeakKeyDictionary[nn.Module, tuple[int, int, int]] = WeakKeyDictionary()


def image_shape(network: nn.Module) -> tuple[int, int, int]:
    """Channels and sides of the square images that a network is for: the first at which it runs.

    Tried are what it states as `input_size`, a side or (C, side, side), and `SIZES`.
    """
    if network not in _shapes:
        tried = [(c, side, side) for c in _tried_channels(network) for side in tried_sides(network)]
        fits = (shape for shape in tried if problem_of_images(network, noise(network, (1, *shape))) is None)
        _shapes[network] = next(fits, tried[0])
    return _shapes[network]


def _tried_channels(network: nn.Module) -> tuple[int, ...]:
    own = stated_channels(network)
    return (3, 1) if own is None else (own,)


def stated_channels(network: nn.Module) -> int | None:
    """The channels of images that it states, else those of its first convolution; None where it has none."""
    first = (module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    return (_stated(network) or (None,))[0] or next(first, None)


def tried_sides(network: nn.Module) -> tuple[int, ...]:
    """The sides of images that `image_shape` tries, in that order."""
    stated = _stated(network)
    return SIZES if stated is None else (stated[1], *(side for side in SIZES if side != stated[1]))


def _stated(network: nn.Module) -> tuple[int | None, int] | None:
    """Channels and side of its attribute `input_size`: a number, (side, side) or (C, side, side)."""
    size = getattr(network, "input_size", None)
    given = size if isinstance(size, tuple | list) else (size,)
    numbers = [number for number in given if type(number) is int and number > 0]
    if len(numbers) != len(given) or not 1 <= len(numbers) <= 3:
        return None
    return (numbers[0] if len(numbers) == 3 else None), numbers[-1]


def noise(network: nn.Module, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Standard-normal values of this shape, on the network's device."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def problem_of_images(network: nn.Module, images: Tensor) -> str | None:
    """Why a network cannot classify such images."""
    with preserved(network), torch.no_grad():
        network.eval()
        try:
            logits = network(images)
        except Exception as error:
            return f"does not run on images of {{}}: {first_line(error).replace('{', '{{').replace('}', '}}')}."
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return f"does not return logits (N, classes) for images of {{}}{NO_CLASSIFIER}"
    if len(logits) != len(images):  # a view(-1, features) of a larger map makes several of one image
        return f"returns {len(logits)} rows of logits for {len(images)} of {{}}."
    return None


def require_classifier(name: str, network: nn.Module, images: Tensor) -> None:
    """Raise a `UsageError` if a network cannot classify such images."""
    if (problem := problem_of_images(network, images)) is None:
        return
    problem = f"{name} {problem.format(' × '.join(map(str, images.shape[1:])))}"
    if not problem.endswith(NO_CLASSIFIER):
        sides = ", ".join(map(str, tried_sides(network)))
        problem += f" Sides tried: {sides}. If it is for others, state its own: network.input_size = 40, or (1, 40, 40)"
    raise UsageError(problem)


def missing_values(network: nn.Module) -> str | None:
    """Why a network has no values in floating point: "is on the meta device: …"; None if it has."""
    values = [*network.parameters(), *network.buffers()]
    if any(map(is_lazy, values)):
        return "has lazy layers, whose sizes are not known yet. Run it once on an image before it is returned."
    if any(value.is_meta for value in values):
        return "is on the meta device: it has no values. Return it built on the CPU."
    if any(".quantized" in type(module).__module__ for module in network.modules()):
        return "is quantised, and only networks in floating point are analysed. Return it as it was before."
    return None
