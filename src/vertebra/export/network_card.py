"""A network with the card of its file, each value checked."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from torch import nn

import vertebra
from vertebra.card import Card, WeightSource
from vertebra.errors import UsageError
from vertebra.models import ConvNet
from vertebra.preprocessing import BITS, Decoding, Preprocessing
from vertebra.units import counted

from .observed_network import ObservedNetwork

# Names on the command line → fields of `Preprocessing`.
PREPROCESSING_OPTIONS = {
    "size": "crop_size",
    "resize": "resize_size",
    "interpolation": "interpolation",
    "mean": "mean",
    "std": "std",
}


@dataclass(frozen=True)
class Prepared:
    """A network and the card of its file."""

    network: ConvNet | ObservedNetwork
    card: Card


@dataclass(frozen=True)
class PartialCard:
    """Fields of a card, given by the caller or known from the weights. None: unknown."""

    classes: Sequence[str] | None = None
    weights: WeightSource | None = None
    metrics: Mapping[str, Any] | None = None
    licence: str | None = None
    temperature: float | None = None
    threshold: float | None = None
    preprocessing: Preprocessing | None = None  # of the weights; the metrics were measured with it

    @classmethod
    def of(cls, card: Card) -> PartialCard:
        """Return the fields of a card."""
        return cls(**{field.name: getattr(card, field.name) for field in fields(cls)})


def fill_card(
    network: ConvNet | ObservedNetwork,
    architecture: str,
    preprocessing: Preprocessing,
    given: PartialCard,
    known: PartialCard,
) -> Prepared:
    """Build the card of a network from the given fields, and from those known of the weights where none is given.

    Known metrics are kept only with the preprocessing that they were measured with.
    """
    classes = known.classes if given.classes is None else given.classes
    metrics = known.metrics if given.metrics is None and preprocessing == known.preprocessing else given.metrics
    temperature = known.temperature if given.temperature is None else given.temperature
    threshold = known.threshold if given.threshold is None else given.threshold
    _check_preprocessing(preprocessing)
    _check_classes(classes, network.num_classes)
    card = Card(
        architecture=architecture,
        preprocessing=preprocessing,
        classes=None if classes is None else tuple(classes),
        weights=given.weights or known.weights,
        metrics=metrics or {},
        versions=_versions(),
        licence=given.licence or known.licence,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        temperature=1.0 if temperature is None else temperature,
        threshold=threshold or None,
    )
    # Parsed again, because the rules for cards are checked where cards are read.
    return Prepared(network, Card.from_json(card.to_json(), "the card to write"))


def merge_preprocessing(asked: Preprocessing | Mapping[str, Any] | None, base: Preprocessing) -> Preprocessing:
    """Return the requested preprocessing, with missing fields from `base`."""
    if isinstance(asked, Preprocessing):
        return asked
    changes = dict(asked or {})
    if unknown := [name for name in changes if name not in vars(base)]:
        raise UsageError(f"preprocessing has no {unknown[0]!r}; it has {', '.join(vars(base))}.")
    if "crop_size" in changes:
        changes.setdefault("resize_size", round(changes["crop_size"] * base.resize_size / base.crop_size))
    return replace(base, **changes)


def _check_preprocessing(preprocessing: Preprocessing) -> None:
    """Require means and deviations of values from 0 to 1; those of bytes would turn every photo grey."""
    if preprocessing.resize_size < preprocessing.crop_size:
        raise UsageError(
            f"resize is {preprocessing.resize_size} and size {preprocessing.crop_size} pixels; what is cut out can be "
            "no larger than the resized photo. Give a resize of at least the size."
        )
    for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        wrong = [value for value in values if not 0 <= value <= 1]
        if wrong:
            hint = f" Of bytes it would be {wrong[0] / 255:.4g}, divided by 255." if wrong[0] > 1 else ""
            raise UsageError(
                f"{name} has the value {wrong[0]:g}; pixels are scaled to 0–1 first, so it must be from 0 to 1.{hint}"
            )


def list_assumptions(
    asked: Preprocessing | Mapping[str, Any] | None, preprocessing: Preprocessing, network: nn.Module
) -> list[str]:
    """List what is assumed about the input, and about the body, of a file without a card."""
    assumed = []
    if not isinstance(asked, Preprocessing):
        assumed = [
            f"{option} {format_value(getattr(preprocessing, name))}"
            for option, name in PREPROCESSING_OPTIONS.items()
            if name not in (asked or {})
        ]
    if getattr(network, "resolution_assumed", False):
        assumed.append("resolution as published (else --low-resolution)")
    return assumed


def format_value(value: Any) -> str:
    """Format a value of a card: `"of 12 bits"`, `"0.5/0.5/0.5"`."""
    if isinstance(value, Decoding):
        return f"of {value.bits or BITS[1]} bits"
    return "/".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _check_classes(classes: Sequence[str] | None, count: int) -> None:
    if classes is not None and len(classes) != count:
        raise UsageError(
            f"classes gives {counted(len(classes), 'class name')}, and the network has {counted(count, 'class')}. Give "
            "one for each."
        )
    if count == 1:
        raise UsageError(
            "the network has one class, and the softmax of an exported file gives a single class the probability 1.0 "
            "for every photo. Train a network with two classes, the second of photos that are not of the first: "
            "num_classes=2."
        )


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
    return {"vertebra": vertebra.__version__, "python": platform.python_version()} | packages
