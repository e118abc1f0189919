"""How a network is used that is given as a module: its preprocessing, its classes, and where its weights are from.

Our networks remember the weights that they were created with, timm's have a `pretrained_cfg`, and for others the caller
names the weights. A module may have been trained further since, or have another head: its values are compared with the
file's before anything that holds for the file alone is said of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from torch import nn

from vertebra.card import Card, Preprocessing, WeightSource
from vertebra.errors import UsageError, warn
from vertebra.graph.trace import unwrapped
from vertebra.models import ConvNet, get_model_weights, get_weight
from vertebra.models.origin import Origin
from vertebra.preprocessing import timm_config

from .network_card import LICENCES, OPTIONS, Prepared, assumed_input, finished, is_weight_file, same_order, view
from .observed_network import Observed, check, deployable, is_family
from .weight_comparison import content_of, digest_of, file_of, state_of


@dataclass(frozen=True)
class Known:
    """What is known of a module."""

    name: str  # of the network
    preprocessing: Preprocessing | None = None
    classes: Sequence[str] | None = None
    categories: int | None = None  # how many classes the weights have, whether or not they are the network's
    provenance: WeightSource | None = None
    licence: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    card: Card | None = None  # what the file of its weights says, where they are as they were
    source: str = ""  # what the preprocessing is of
    doubt: str = ""  # why it may not hold; "": it holds
    unnamed: str = ""  # why the classes have no names, where the weights have some
    outputs: int | None = None  # how many the weights have, where another number says that its values are others


def prepare_module(
    model: nn.Module,
    *,
    weights: Any,
    architecture: str | None,
    classes: Sequence[str] | None,
    asked: Any,
    provenance: WeightSource | None,
    metrics: Mapping[str, Any] | None,
    licence: str | None,
    temperature: float | None,
    threshold: float | None,
) -> Prepared:
    """A module and its card; the arguments are those of `prepare`.

    Raises:
        UsageError: nothing says how its photos are prepared, or a value is not allowed.
    """
    module = unwrapped(model)
    check(module)
    if asked is not None and not isinstance(asked, Preprocessing | Mapping):
        asked = Preprocessing.from_weights(asked)  # what weights.transforms() gives
    if weights is None and isinstance(own := getattr(module, "preprocessing", None), Preprocessing):
        asked = view(asked, own)  # as if it were an argument
    if isinstance(asked, Preprocessing) and classes is not None and provenance is not None and weights is None:
        known = Known(architecture or type(module).__name__.lower())  # there is nothing to look up
    else:
        known = known_of(module, weights, architecture)
    preprocessing = _view_of(module, asked, known.preprocessing)
    network = module if isinstance(module, ConvNet) and is_family(module) else deployable(module, preprocessing)
    count = network.num_classes
    known = _of_so_many(known, count)
    card = known.card
    told = []
    if known.preprocessing is None and (assumed := assumed_input(asked, preprocessing, module)):
        told.append(f"assumed: {', '.join(assumed)}")
    if classes is None and known.classes is None and isinstance(network, Observed) and network.linear is None:
        told.append(
            f"no linear layer gives its {count} outputs, which are taken for logits of {count} classes; of a network "
            "without its classifier they are features"
        )
    if known.doubt and (assumed := assumed_input(asked, preprocessing, module)):
        told.append(f"{known.doubt}; taken from {known.source} all the same: {', '.join(assumed)}")
    if classes is not None:
        if known.classes is not None and len(known.classes) == count:
            classes = same_order(classes, known.classes)
    elif known.classes is not None and len(known.classes) == count:
        classes = known.classes
    elif known.unnamed:
        imagenet = ", or imagenet" if count == IMAGENET_CLASSES else ""
        why = known.unnamed if known.categories in (None, count) else f"{known.source} has {known.categories}"
        told.append(
            f"the classes are numbers, 0 to {count - 1}, since {why}; classes= (--classes) names them: "
            f"a list, a file{imagenet}"
        )
    prepared = finished(
        network,
        known.name,
        preprocessing,
        classes=classes,
        weights=provenance or known.provenance,
        metrics=metrics if metrics is not None else known.metrics if preprocessing == known.preprocessing else {},
        licence=licence or known.licence,
        temperature=card.temperature if temperature is None and card is not None else temperature,
        threshold=card.threshold if threshold is None and card is not None else threshold,
    )
    if told:
        warn(f"the {type(module).__name__} to export: {'; '.join(told)}.")
    return prepared


IMAGENET_CLASSES = 1000


def _view_of(
    module: nn.Module, asked: Preprocessing | Mapping[str, Any] | None, base: Preprocessing | None
) -> Preprocessing:
    """The preprocessing that was asked for, the rest of it as it is known."""
    if isinstance(asked, Preprocessing):
        return asked
    if base is not None:
        return view(asked, base)
    if not asked:
        raise refusal(module)
    found = view(asked, Preprocessing(asked.get("crop_size", 224)))
    if lacking := [name for name in _NEEDED if name not in asked]:
        options = {name: f"--{option}" for option, name in OPTIONS.items()}
        raise PreprocessingError(
            f"the preprocessing of this {type(module).__name__} is incomplete:",
            f"give {_and(lacking)} too, or weights= for that of published weights.",
            f"give {_and([options[name] for name in lacking])} too, or --weights NAME for that of published weights.",
        )
    return found


_NEEDED = ("crop_size", "mean", "std")  # without which nothing can be assumed


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


class PreprocessingError(UsageError):
    """It is not known how photos are prepared for a module."""

    def __init__(self, fault: str, python: str, options: str) -> None:
        """`fault` is what is wrong; the others say what to give, in Python and on the command line."""
        super().__init__(f"{fault} {python}", f"{fault} {options}")
        self.fault = fault


def known_of(network: nn.Module, weights: Any, architecture: str | None) -> Known:
    """What a module, and the weights that the caller names, say of it.

    Args:
        network: not wrapped.
        weights: a member of a weights enum, ours or torchvision's, or its name; None: what the network remembers.
        architecture: its name, where the caller gives one.

    Raises:
        UsageError: there are no such weights.
    """
    name = architecture or type(network).__name__.lower()
    if weights is not None:
        return _published(network, _member(weights, network, architecture), name, said=True)
    origin = network.origin if isinstance(network, ConvNet) else None
    if origin is not None:
        name = architecture or origin.name
        if origin.weights is not None:
            return _published(network, origin.weights, name, origin.file)
        return _of_file(network, origin, name)
    # Ours show what their default weights have in the same words, whatever weights they are with.
    config = None if isinstance(network, ConvNet) else timm_config(network)
    if config is not None:
        return _of_timm(network, config, architecture)
    return Known(name, provenance=None if isinstance(network, ConvNet) else WeightSource("not recorded"))


def refusal(network: nn.Module) -> PreprocessingError:
    """For a module of which nothing says how its photos are prepared: what to write."""
    hint, code = "", ""
    for path, part in network.named_modules():
        if path and isinstance(part, ConvNet) and part.origin is not None:
            origin = part.origin
            where = repr(origin.weights) if origin.weights is not None else f"'{origin.file}'"
            hint = f" Its part {path} was created with {where}."
        elif path and not isinstance(part, ConvNet) and timm_config(part) is not None:
            dotted = all(name.isidentifier() for name in path.split("."))
            named = f"model.{path}" if dotted else f"model.get_submodule({path!r})"
            hint = f" Its part {path} is one of timm's."
            code = f"preprocessing=vertebra.Preprocessing.from_timm({named}), or "
        if hint:
            break
    return PreprocessingError(
        f"nothing says how the photos of this {type(network).__name__} are prepared.{hint}",
        f"Give {code}weights=torchvision.models.ResNet50_Weights.IMAGENET1K_V2 or the name of others, or preprocessing="
        "vertebra.Preprocessing(size=224, resize=256, interpolation='bilinear', mean=(0.485, 0.456, 0.406), "
        "std=(0.229, 0.224, 0.225)) with the values that it was trained with.",
        "Give --weights with the name of published ones, such as ResNet50_Weights.IMAGENET1K_V2, or --size, --mean and "
        "--std (--resize, --interpolation) with the values that it was trained with.",
    )


# --- published weights -----------------------------------------------------------------------------------------------


def _member(weights: Any, network: nn.Module, architecture: str | None) -> Any:
    """The member of a weights enum; torchvision's become ours where they are of our families."""
    if isinstance(weights, Path) or (isinstance(weights, str) and is_weight_file(weights)):
        raise UsageError(
            f"the network has its values already, so the file {str(weights)!r} is one too many. Load it with "
            "load_state_dict() or create_model(…, weights=PATH), and name the published weights whose preprocessing "
            "holds, or give preprocessing=."
        )
    if isinstance(weights, str):
        if "." in weights:
            theirs = sys.modules.get("torchvision.models")
            try:
                return get_weight(weights)
            except UsageError as error:
                # torchvision is asked where the network is one of its own, and so has been imported.
                if theirs is None or not type(network).__module__.startswith("torchvision."):
                    raise UsageError(f"{error} Those of torchvision's other networks are given as members.") from None
                try:
                    return theirs.get_weight(weights)
                except (KeyError, ValueError, AttributeError):
                    raise error from None
        if architecture is None:
            raise UsageError(
                f"weights is {weights!r}, which many networks have. Give the whole name, such as "
                f"'ResNet50_Weights.{weights}'."
            )
        return get_model_weights(architecture).verify(weights)
    if not isinstance(weights, Enum) or not hasattr(weights, "transforms"):
        raise UsageError(
            f"weights is {weights!r}; for a module it is a member of a weights enum, such as "
            "torchvision.models.ResNet50_Weights.IMAGENET1K_V2, or its name."
        )
    try:
        return get_weight(f"{type(weights).__name__}.{weights.name}")
    except UsageError:
        return weights  # of a network that is not among ours


def _published(network: nn.Module, member: Any, name: str, file: Path | None = None, *, said: bool = False) -> Known:
    """A network with published weights, or with values that were these once.

    Args:
        network: the module.
        member: of a weights enum.
        name: of the network.
        file: where they were read from, if not from the cache.
        said: whether the caller names them, who then vouches for the preprocessing.
    """
    label = f"{type(member).__name__}.{member.name}"
    published = type(member).__name__.removesuffix("_Weights").lower()
    if name == type(network).__name__.lower() and published.startswith(name):  # torchvision's ResNet is resnet18
        name = published
    categories = member.meta.get("categories")
    path = file if file is not None and file.is_file() else file_of(member)
    state = state_of(network, content_of(member, path), categories)
    unnamed = {
        "unknown": f"whether its classifier is that of {label} cannot be told, whose file is not in the cache",
        "head": f"its classifier is not that of {label}",
    }.get(state, "")
    whole = state == "same" and path is not None
    licence = member.meta.get("license") or LICENCES[member.url.partition(":")[0]]
    return Known(
        name,
        Preprocessing.from_weights(member),
        classes=categories if state in ("same", "body") else None,
        categories=None if categories is None else len(categories),
        provenance=WeightSource(label, digest_of(path), member.url)
        if whole and path is not None
        else WeightSource(f"{label}, {'not verified' if state == 'unknown' else 'changed since'}", None, member.url),
        licence=licence,
        metrics=member.meta.get("_metrics", {}) if whole else {},
        source=label,
        doubt=""
        if said or state == "same"
        else f"its values are no longer those of {label}"
        if state != "unknown"
        else f"whether its values are those of {label} cannot be told, whose file is not in the cache",
        unnamed=unnamed,
    )


def _of_file(network: nn.Module, origin: Origin, name: str) -> Known:
    """A network that was created with a weight file of one's own."""
    card, label = origin.card, f"'{origin.file}'"
    categories = card.classes if card is not None else get_model_weights(origin.name)["DEFAULT"].meta["categories"]
    state = state_of(network, content_of(origin.name, origin.file), categories)
    base = card.preprocessing if card is not None else get_model_weights(origin.name)["DEFAULT"].preprocessing
    doubts = {
        "same": "" if card is not None else f"{label} does not say how its network is used",
        "unknown": f"whether its values are those of {label} cannot be told, which cannot be read any more",
    }
    file = origin.file
    return Known(
        name,
        base,
        classes=categories if state in ("same", "body") else None,
        categories=None if categories is None else len(categories),
        provenance=WeightSource(file.name, digest_of(file) if state == "same" else None) if file is not None else None,
        licence=card.licence if card is not None else None,
        metrics=card.metrics if card is not None and state == "same" else {},
        card=card if state == "same" else None,
        source=label,
        doubt=doubts.get(state, f"its values are no longer those of {label}"),
        unnamed="" if state in ("same", "body") else f"its classifier is not known to be that of {label}",
    )


# --- timm ------------------------------------------------------------------------------------------------------------


def _of_timm(network: nn.Module, config: Mapping[str, Any], architecture: str | None) -> Known:
    """A network of timm's."""
    published = str(config.get("architecture") or type(network).__name__.lower())
    label = f"{published}.{config['tag']}" if config.get("tag") else published
    count, names = config.get("num_classes"), config.get("label_names")
    return Known(
        architecture or published,
        Preprocessing.from_timm(config),
        classes=[str(name) for name in names] if names is not None else None,
        provenance=WeightSource(f"{label} of timm, not verified"),
        licence=config.get("license"),
        source=f"the pretrained_cfg of {label}",
        unnamed="" if names is not None else f"the pretrained_cfg of {label} names none",
        outputs=count if isinstance(count, int) else None,
    )


def _of_so_many(known: Known, count: int) -> Known:
    """What is known of a network that has `count` outputs, whatever its num_classes says: its head may be another."""
    if known.outputs in (None, count):
        return known
    return replace(
        known,
        classes=None,
        doubt=f"it has {count} outputs and {known.source} says {known.outputs}, so it was trained further, or will be",
        unnamed="its classifier was replaced",
    )
