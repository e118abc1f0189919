"""A name, a weight file or a module → the network to export and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vertebra.card import METADATA_KEY, Card, Preprocessing, WeightSource
from vertebra.errors import UsageError, warn
from vertebra.model_argument import ModelArgument, ModelKind, resolve_model
from vertebra.models import ConvNet, WeightsEnum, create_model, get_model_weights
from vertebra.models.published_weights import published, resolve
from vertebra.models.weight_reader import CHECKSUM_KEY, NETWORK_KEY, check_architecture, checksum, read_card
from vertebra.weight_files import cached_path

from .classes_argument import ClassNames, class_names, require_same_order
from .network_card import PartialCard, Prepared, fill_card, format_value, list_assumptions, merge_preprocessing
from .prepare_module import prepare_module
from .weights_info import file_sha256, published_card


def prepare(
    model: nn.Module | str | Path,
    *,
    weights: Any = "DEFAULT",
    architecture: str | None = None,
    classes: ClassNames | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    provenance: WeightSource | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
    temperature: float | None = None,
    threshold: float | None = None,
    network_options: Mapping[str, Any] | None = None,
) -> Prepared:
    """Load a network, or take a module, and build its card.

    A weight file written by a Vertebra run has a card, which arguments override. For other weight files the card's
    fields are assumed, with a warning that lists them.

    A module must take float images (N, 3, H, W) and return logits (N, K). Its preprocessing comes from the weights that
    one of our networks was created with (also with a new head), timm's `pretrained_cfg`, its attribute `preprocessing`
    (a `vertebra.Preprocessing`), or the arguments `weights` and `preprocessing`; without any of these it is rejected.
    Its classes have names if its classifier is unchanged and the classes of its weights are known. It is unwrapped
    (DataParallel, DistributedDataParallel, torch.compile, AveragedModel) and copied; the module is not modified.

    Args:
        model: a name as `list_models()` has it, a path to a weight file, or a network, of whatever library.
        weights: for a name: "DEFAULT", a member, a member's name, a file, or None to draw them at random. For a module:
            the published weights that it has or was trained from, a member of our or torchvision's enums or its name.
        architecture: name of the network that a file is for, or that the card is to give for a network of one's own.
            None: what the file says.
        classes: names in the order of the logits, a mapping of name to index (`ImageFolder.class_to_idx`) or of index
            to name, a text file with one a line, or "imagenet". None: those of the file or the published weights, or
            numbers.
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
        WeightsError: the weights cannot be fetched or do not fit.
    """
    given = PartialCard(class_names(classes), provenance, metrics, licence, temperature, threshold)
    if isinstance(model, nn.Module):
        module = model
    else:
        argument = resolve_model(model, "export")
        if argument.kind is not ModelKind.FUNCTION:
            return _prepare_named(argument, weights, architecture, network_options or {}, preprocessing, given)
        module = argument.call()
    if network_options:
        raise UsageError(f"the network is built already, so {' and '.join(network_options)} cannot be given.")
    weights = None if isinstance(weights, str) and weights == "DEFAULT" else weights
    return prepare_module(module, weights, architecture, preprocessing, given)


def _prepare_named(
    argument: ModelArgument,
    weights: Any,
    architecture: str | None,
    network_options: Mapping[str, Any],
    asked: Preprocessing | Mapping[str, Any] | None,
    given: PartialCard,
) -> Prepared:
    """A network's name or a weight file → the network and its card."""
    name, weights = _name_and_weights(argument, weights, architecture)
    enum = get_model_weights(name)
    source = resolve(enum, weights)
    member = published(enum, source) if isinstance(source, Path) else source
    # Before anything is fetched.
    if member is not None and member.meta["categories"] is None:
        usable = [repr(other) for other in enum if other.meta["categories"] is not None]
        raise UsageError(f"{member!r} has no classifier to predict with. Use {' or '.join(usable)}.")
    card = read_card(source) if isinstance(source, Path) else None
    try:
        network = create_model(name, weights=weights, **network_options)
    except TypeError as error:
        if not network_options:
            raise
        raise UsageError(f"{name} does not take {' and '.join(network_options)}.") from error
    base = card.preprocessing if card is not None else (member or enum["DEFAULT"]).preprocessing
    preprocessing = merge_preprocessing(asked, base)
    known = PartialCard.of(card) if card is not None else published_card(member or enum["DEFAULT"])
    if card is None:
        # A weight file with as many classes as the published weights is assumed to have theirs.
        fit = source is not None and known.classes is not None and len(known.classes) == network.num_classes
        known = replace(known, classes=known.classes if fit else None)
        if member is None:
            known = PartialCard(known.classes)
        elif given.classes is not None and known.classes is not None:
            require_same_order(given.classes, known.classes)
    if source is not None:
        given = replace(given, weights=None)
        known = replace(known, weights=known.weights if card is not None else _weight_source(source, member))
    prepared = fill_card(network, name, preprocessing, given, known)
    note = ""
    if card is not None:
        note = _describe_changes(given, card, preprocessing)
    elif source is not None and member is None:
        note = _describe_assumed(
            given, list_assumptions(asked, preprocessing, network), known.classes, network.num_classes
        )
    if note:
        warn(f"'{weights}' {note}")
    return prepared


def _describe_changes(given: PartialCard, card: Card, preprocessing: Preprocessing) -> str:
    """Describe fields of the file's card that arguments replace."""
    replaced = {
        **{name: (getattr(card.preprocessing, name), value) for name, value in vars(preprocessing).items()},
        "temperature": (card.temperature, given.temperature),
        "threshold": (card.threshold, given.threshold),
    }
    changes = [
        f"{name} {format_value(old)}, and {format_value(new)} was asked for"
        for name, (old, new) in replaced.items()
        if new is not None and (new or None) != (old or None)
    ]
    if given.classes is not None and tuple(given.classes) != card.classes:
        changes.append("other class names than those asked for")
    return f"says {'; '.join(changes)}. What was asked for is taken." if changes else ""


def _describe_assumed(given: PartialCard, assumed: list[str], classes: Sequence[str] | None, count: int) -> str:
    """Describe what is assumed for a weight file without a card; `assumed` are the parts about its input."""
    if given.classes is None:
        numbers = f"classes 0 to {count - 1}"
        assumed.append(numbers if classes is None else f"classes {classes[0]}, {classes[1]} … as published")
    assumed += [
        f"{name} {value}" for name, value in (("temperature", 1), ("threshold", 0)) if getattr(given, name) is None
    ]
    if not assumed:
        return ""
    return (
        f"does not say how its network is used; assumed: {', '.join(assumed)}. Each is an option of `vertebra export`, "
        "and an argument of vertebra.export()."
    )


def body_assumptions(name: str, weights: str, network: ConvNet, preprocessing: Preprocessing) -> list[str]:
    """List what is assumed when a weight file without a card gets a new classifier: one sentence or none."""
    enum = get_model_weights(name)
    source = resolve(enum, weights)
    if not isinstance(source, Path) or published(enum, source) is not None or read_card(source) is not None:
        return []
    assumed = ", ".join(list_assumptions(None, preprocessing, network))
    return [f"'{weights}' does not say how its network was trained; assumed: {assumed}."]


def _name_and_weights(model: ModelArgument, weights: Any, architecture: str | None) -> tuple[str, Any]:
    if model.kind is ModelKind.NETWORK:
        if architecture not in (None, model.given, model.name):
            raise UsageError(
                f"the network is {model.given!r} and its architecture {architecture!r}. An architecture is for a file: "
                "give the path of a weight file, or the name alone."
            )
        return model.network, model.weights(weights)
    path = model.weight_file
    card = read_card(path)
    if architecture is None and card is not None:
        architecture = card.architecture
    if architecture is None:
        raise UsageError(
            f"{path} does not say which network it is for. Add --model NAME (`vertebra models` lists all)."
        )
    check_architecture(card, architecture, path)
    if weights != "DEFAULT":
        raise UsageError(
            f"{model.given} already has weights, so weights={weights!r} cannot be used. Leave weights out."
        )
    return architecture, path


def _weight_source(source: WeightsEnum | Path, member: WeightsEnum | None) -> WeightSource:
    path = source if isinstance(source, Path) else cached_path(source.url)
    digest = file_sha256(path)
    return WeightSource(path.name if member is None else repr(member), digest, None if member is None else member.url)


def metadata(prepared: Prepared) -> dict[str, str]:
    """Build the metadata of a safetensors file with the network's state dict, which `prepare` reads."""
    network = prepared.network
    settings = json.dumps(network.hidden_settings if isinstance(network, ConvNet) else {})
    known = {"format": "pt", METADATA_KEY: prepared.card.to_json(), NETWORK_KEY: settings}
    return known | {CHECKSUM_KEY: checksum(network.state_dict(), known)}
