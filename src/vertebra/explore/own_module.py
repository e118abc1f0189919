"""A module of the user's as a classifier that can be looked into, and what is known of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vertebra.errors import UsageError, VertebraError, first_line, shortened
from vertebra.introspect import preserved
from vertebra.introspect.image_shapes import image_shape, missing_values, noise, require_classifier
from vertebra.introspect.preserve import has_initial_statistics
from vertebra.models import ConvNet
from vertebra.models.meta_copy import unwrap_module
from vertebra.preprocessing import Preprocessing, timm_config

from .notes import Note


@dataclass(frozen=True)
class Classifier:
    """A copy of a module that gives logits (N, classes), in eval mode, on the CPU, in float32."""

    network: nn.Module
    shape: tuple[int, int, int]  # of the images: channels, side, side
    outputs: int
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Known:
    """What a module says of itself."""

    preprocessing: Preprocessing
    classes: tuple[str, ...]
    is_untrained: bool
    temperature: float = 1.0
    assumed: Note | None = None  # that the preprocessing is


def to_classifier(name: str, module: Any) -> Classifier:
    """Copy a module; the one given stays as it is.

    Raises:
        UsageError: it is none, has no values, cannot be copied, or runs on no images.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"{name} makes a {type(module).__name__}; a torch.nn.Module is needed.")
    module = unwrap_module(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError(f"{name} is a TorchScript module. Give the Python module that it was made from.")
    if (problem := missing_values(module)) is not None:
        raise UsageError(f"{name} {problem}")
    try:
        network = copy.deepcopy(module).cpu().float().eval()
    except Exception as error:
        raise UsageError(
            f"{name} cannot be copied ({first_line(error)}), and a copy is looked into. Remove the attribute that "
            "copy.deepcopy refuses."
        ) from error
    network.requires_grad_(True)
    notes: list[Note] = []
    kind: list[str] = []

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        logits, found = _logits(output)
        kind[:] = [found]
        return logits

    handle = network.register_forward_hook(hook)
    # What was published for a size says so; else it is tried out.
    config = None if isinstance(network, ConvNet) else timm_config(network)
    stated = config.get("input_size") if config is not None else None
    shape = image_shape(network)
    if isinstance(stated, tuple | list) and len(stated) == 3 and stated[1] == stated[2]:
        shape = (int(stated[0]), int(stated[1]), int(stated[2]))
    own = getattr(network, "preprocessing", None)
    if isinstance(own, Preprocessing):
        shape = (shape[0], own.crop_size, own.crop_size)
    image = noise(network, (1, *shape))
    require_classifier(name, network, image)
    with preserved(network), torch.no_grad():
        outputs = network.eval()(image).shape[1]
    if kind == [""]:
        handle.remove()
    else:
        notes.append(Note(f"note.output.{kind[0]}"))
    return Classifier(network, shape, outputs, tuple(notes))


def _logits(output: Any) -> tuple[Any, str]:
    """Logits (N, classes) of what a network returns, and what that is: "" if it is logits."""
    if isinstance(output, Tensor):
        if output.ndim == 4:
            return output.mean((2, 3)), "maps"
        if output.ndim == 1:  # one logit for each image
            return output[:, None], "flat"
        return output, ""
    tensors = list(_tensors(output))
    for dimensions in (2, 4):
        for tensor in tensors:
            if tensor.ndim == dimensions:
                return _logits(tensor)[0], "first" if dimensions == 2 else "first_maps"
    return output, ""


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in it, "logits" and "out" of a mapping first."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        first = [key for key in ("logits", "out") if key in output]
        for key in [*first, *(key for key in output if key not in first)]:
            yield from _tensors(output[key])
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
    elif hasattr(output, "__dataclass_fields__"):
        yield from _tensors({name: getattr(output, name) for name in output.__dataclass_fields__})


def known_of_module(network: nn.Module, side: int) -> Known:
    """The preprocessing and classes that a module has of its own; else those of ImageNet at this side, and a note."""
    untrained = find_initial_norms(network) is True
    own = getattr(network, "preprocessing", None)
    classes = _names(getattr(network, "classes", None))
    if isinstance(own, Preprocessing):
        return Known(own, classes, untrained)
    origin = network.origin if isinstance(network, ConvNet) else None
    if origin is not None and origin.weights is not None:
        member = origin.weights
        return Known(member.preprocessing, classes or _names(member.meta.get("categories")), untrained)
    if origin is not None and origin.card is not None:
        card = origin.card
        return Known(card.preprocessing, classes or _names(card.classes), untrained, card.temperature)
    config = None if isinstance(network, ConvNet) else timm_config(network)
    if config is not None:
        try:
            return Known(Preprocessing.from_timm(config), classes or _names(config.get("label_names")), untrained)
        except VertebraError as error:
            note = Note("note.assumed.unreadable", {"side": side, "reason": shortened(first_line(error), 160)})
            return Known(Preprocessing(side), classes, untrained, assumed=note)
    return Known(Preprocessing(side), classes, untrained, assumed=Note("note.assumed.preprocessing", {"side": side}))


def _names(classes: Any) -> tuple[str, ...]:
    is_list = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    return tuple(classes) if is_list else ()


def find_initial_norms(network: nn.Module) -> bool | None:
    """Whether all batch norms of a network have the statistics of the start; None: it has none that would tell."""
    norms = [norm for norm in network.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]
    return all(map(has_initial_statistics, norms)) if norms else None
