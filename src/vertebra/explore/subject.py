"""The network to look into: from a MODEL argument or a module, with its classes, preprocessing and weights."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vertebra.anatomy.network_input import AS_PUBLISHED
from vertebra.card import Card, Preprocessing
from vertebra.errors import UsageError, VertebraError, first_line, warn
from vertebra.introspect import set_initial_statistics
from vertebra.model_argument import ModelArgument, ModelKind, resolve_model
from vertebra.models import ConvNet, create_model, get_model_weights
from vertebra.models.weight_reader import read_card

from .notes import Note
from .own_module import find_initial_norms, known_of_module, to_classifier

RANDOM = "none"  # as weights: random ones, of seed 0


@dataclass(frozen=True)
class Subject:
    """A network in eval mode, on the CPU, in float32."""

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]  # names; empty where they are not known
    weights: str  # where they are from, in words; "" where they are random
    is_untrained: bool
    temperature: float = 1.0  # probabilities are softmax(logits / temperature), as an exported file has it
    channels: int = 3  # of the network's input
    notes: tuple[Note, ...] = ()  # what is assumed
    has_random_weights: bool = False  # which were drawn here; its batch norms get the statistics of the photo


def load_subject(
    model: nn.Module | str | os.PathLike[str],
    preprocessing: Preprocessing | None = None,
    weights: Any = "DEFAULT",
) -> Subject:
    """The network of a MODEL, or of a module, which is copied.

    Args:
        model: as `vertebra explore --model` takes it, or a module.
        preprocessing: another than that of the weights.
        weights: for a network's name: "DEFAULT", "none" (random, of seed 0), a member's name, or a file.

    Raises:
        UsageError: there is no such model, it has no values, or it cannot run on images.
        VertebraError: its weights cannot be had.
    """
    if isinstance(model, nn.Module):
        _reject_weights(type(model).__name__, weights)
        return _of_module(type(model).__name__, model, preprocessing, "given")
    found = resolve_model(model, "explore")
    if found.kind is ModelKind.NETWORK:
        return _named(found, weights, preprocessing)
    _reject_weights(found.given, weights)
    if found.kind is ModelKind.FUNCTION:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = found.call()
        return _of_module(found.name, network, preprocessing, found.given)
    path = found.weight_file
    card = read_card(path)
    if card is None:
        raise UsageError(f"{path} does not name its network. Write a function that loads it: FILE.py:NAME")
    network = create_model(card.architecture, weights=path)
    return _of_card(found.name, network, card, preprocessing, str(path))


def _reject_weights(given: str, weights: Any) -> None:
    if weights != "DEFAULT":
        raise UsageError(
            f"{given} already has weights, so weights={str(weights)!r} cannot be used. Leave weights out; "
            "compare='untrained' shows it beside random ones.",
            f"{given} already has weights, so --weights {weights} cannot be used. Leave it out; "
            "--compare untrained shows it beside random ones.",
        )


def _named(found: ModelArgument, weights: Any, preprocessing: Preprocessing | None) -> Subject:
    """A network by name; with random weights, which is told, where its default ones cannot be had."""
    default = get_model_weights(found.network)["DEFAULT"]
    if weights == RANDOM:
        return _random(found, default, preprocessing)
    asked = found.weights(weights)
    path = Path(asked) if isinstance(asked, str | os.PathLike) else None
    try:
        network = create_model(found.network, weights=asked)
    except VertebraError as error:
        if weights != "DEFAULT":
            raise
        warn(f"{found.name} is shown untrained, with random weights: {first_line(error)}")
        return _random(found, default, preprocessing)
    origin = network.origin
    if origin is not None and origin.weights is not None:
        member = origin.weights
        classes = tuple(member.meta.get("categories") or ())
        return _subject(found.name, network, preprocessing or member.preprocessing, classes, str(member), False)
    if origin is not None and origin.card is not None:
        return _of_card(found.name, network, origin.card, preprocessing, str(path))
    classes = tuple(default.meta["categories"]) if network.num_classes == len(default.meta["categories"]) else ()
    assumed = () if preprocessing else (Note("note.assumed.published", {"weights": str(default)}),)
    return _subject(
        found.name, network, preprocessing or default.preprocessing, classes, str(path), False, notes=assumed
    )


def _random(found: ModelArgument, default: Any, preprocessing: Preprocessing | None) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = create_model(found.network, **AS_PUBLISHED.get(found.network, {}))
    classes = tuple(default.meta["categories"])
    subject = _subject(found.name, network, preprocessing or default.preprocessing, classes, "", True)
    return replace(subject, has_random_weights=True)


def _of_card(name: str, network: ConvNet, card: Card, preprocessing: Preprocessing | None, weights: str) -> Subject:
    classes = tuple(card.classes or ())
    return _subject(
        name, network, preprocessing or card.preprocessing, classes, weights, False, temperature=card.temperature
    )


def _subject(
    name: str,
    network: ConvNet,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    weights: str,
    is_untrained: bool,
    temperature: float = 1.0,
    notes: tuple[Note, ...] = (),
) -> Subject:
    """One of our networks."""
    channels = network.in_channels
    notes = (*notes, *input_notes(channels))
    return Subject(name, network.eval(), preprocessing, classes, weights, is_untrained, temperature, channels, notes)


def _of_module(name: str, module: nn.Module, preprocessing: Preprocessing | None, weights: str) -> Subject:
    """A module of the user's."""
    classifier = to_classifier(name, module)
    known = known_of_module(classifier.network, classifier.shape[1])
    notes = [*classifier.notes]
    if preprocessing is None and known.assumed is not None:
        notes.append(known.assumed)
    classes = known.classes if len(known.classes) == classifier.outputs else ()
    if not classes:
        notes.append(Note("note.assumed.classes", {"classes": classifier.outputs}))
    return Subject(
        name,
        classifier.network,
        preprocessing or known.preprocessing,
        classes,
        "" if known.is_untrained else weights,
        known.is_untrained,
        known.temperature,
        classifier.shape[0],
        (*notes, *input_notes(classifier.shape[0])),
    )


def input_notes(channels: int) -> tuple[Note, ...]:
    """How a photo becomes the input of a network that takes no RGB."""
    if channels == 3:
        return ()
    return (Note("note.input.grey"),) if channels == 1 else (Note("note.input.repeated", {"channels": channels}),)


def untrained_twin(subject: Subject) -> Subject:
    """The same network with random weights of seed 0.

    Raises:
        UsageError: it is untrained already, or a layer of it cannot be initialised again.
    """
    if subject.is_untrained:
        raise UsageError(f"{subject.name} is untrained already. Compare it with another MODEL, or with plain.")
    network = copy.deepcopy(subject.network)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for path, layer in network.named_modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(layer.parameters(recurse=False), None) is not None and not isinstance(network, ConvNet):
                raise UsageError(
                    f"{subject.name} has no untrained twin: {path or 'the network itself'} ({type(layer).__name__}) "
                    "has parameters and no reset_parameters(). Compare with FILE.py:NAME, a function that makes one."
                )
        if isinstance(network, ConvNet):
            network.initialise(network)
    return replace(
        subject, network=network.eval(), weights="", is_untrained=True, temperature=1.0, has_random_weights=True
    )


def plain_twin(subject: Subject) -> Subject:
    """The same network without its shortcuts; the branches keep their weights.

    Raises:
        UsageError: it has none.
    """
    from vertebra.introspect import remove_shortcuts

    try:
        network = remove_shortcuts(copy.deepcopy(subject.network))
    except UsageError as error:
        raise UsageError(
            f"{subject.name} has no plain twin: {first_line(error)}. ResNets, MobileNetV2 and EfficientNets have "
            "shortcuts that can be removed."
        ) from error
    return replace(subject, name=f"{subject.name} (plain)", network=network.eval())


def use_statistics_of(subject: Subject, image: torch.Tensor) -> None:
    """Give the batch norms of a network with random weights the statistics of an image, if they have initial ones.

    As in the first step of training: with the initial ones (mean 0, variance 1) the values of a deep network vanish or
    grow from layer to layer. Where a map is a single value they stay; `has_statistics_of_photo` tells.
    """
    if not subject.has_random_weights:
        return
    before = copy.deepcopy(subject.network.state_dict())
    try:
        set_initial_statistics(subject.network, image)
    except ValueError:  # a variance of one value
        subject.network.load_state_dict(before)


def has_statistics_of_photo(subject: Subject) -> bool:
    """Whether the batch norms of a network with random weights have the statistics of a photo."""
    return subject.has_random_weights and find_initial_norms(subject.network) is False


def network_input(subject: Subject, pixels: Any) -> torch.Tensor:
    """uint8 (H, W, 3) → (1, C, H, W) in float32, normalised.

    One channel is the luma of ITU-R 601; more than three are R, G, B, R, …
    """
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    mean, std = (
        torch.tensor(values).reshape(-1, 1, 1).expand(3, 1, 1)
        for values in (subject.preprocessing.mean, subject.preprocessing.std)
    )
    if subject.channels == 1:
        grey = (x * torch.tensor((0.299, 0.587, 0.114)).reshape(3, 1, 1)).sum(0, keepdim=True)
        return ((grey - mean.mean()) / std.mean())[None]
    order = [channel % 3 for channel in range(subject.channels)]
    return ((x - mean) / std)[order][None]
