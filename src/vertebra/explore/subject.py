"""The network to look into: from a MODEL argument or a module, with its classes, preprocessing and weights."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vertebra.card import Preprocessing
from vertebra.errors import UsageError, VertebraError, first_line, warn
from vertebra.model_argument import ModelArgument, ModelKind, resolve_model
from vertebra.models import ConvNet, create_model, get_model_weights
from vertebra.models.weight_reader import read_card


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


def load_subject(model: nn.Module | str | os.PathLike[str], preprocessing: Preprocessing | None = None) -> Subject:
    """The network of a MODEL, or of a module.

    Raises:
        UsageError: there is no such model, or its preprocessing is not known.
    """
    if isinstance(model, nn.Module):
        network = copy.deepcopy(model).cpu().float().eval()
        return Subject(type(model).__name__, network, preprocessing or Preprocessing(224), (), "given", False)
    found = resolve_model(model, "explore")
    if found.kind is ModelKind.NETWORK:
        return _named(found, preprocessing)
    if found.kind is ModelKind.FUNCTION:
        network = found.call().cpu().float().eval()
        return Subject(found.name, network, preprocessing or Preprocessing(224), (), found.given, False)
    path = found.weight_file
    card = read_card(path)
    if card is None:
        raise UsageError(f"{path} does not name its network. Write a function that loads it: FILE.py:NAME")
    network = create_model(card.architecture, weights=path).eval()
    return Subject(
        found.name,
        network,
        preprocessing or card.preprocessing,
        tuple(card.classes or ()),
        str(path),
        False,
        card.temperature,
    )


def _named(found: ModelArgument, preprocessing: Preprocessing | None) -> Subject:
    """A network by name, with its default weights; random ones, which is told, where those cannot be had."""
    weights = get_model_weights(found.network)["DEFAULT"]
    classes: tuple[str, ...] = tuple(weights.meta["categories"])
    try:
        network: ConvNet = create_model(found.network, weights=weights)
        described, is_untrained = str(weights), False
    except VertebraError as error:
        warn(f"{found.name} is shown untrained, with random weights: {first_line(error)}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = create_model(found.network)
        described, is_untrained = "", True
    return Subject(found.name, network.eval(), preprocessing or weights.preprocessing, classes, described, is_untrained)


def network_input(subject: Subject, pixels: Any) -> torch.Tensor:
    """uint8 (H, W, 3) → (1, C, H, W) in float32, normalised."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    mean, std = (
        torch.tensor(values).reshape(-1, 1, 1) for values in (subject.preprocessing.mean, subject.preprocessing.std)
    )
    return ((x - mean) / std)[None]
