"""What to export: a name, a checkpoint or a network of one's own → the network and its card."""

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
from vertebra.models.origin import check_architecture
from vertebra.models.published_weights import published, resolve
from vertebra.models.weight_reader import CHECKSUM_KEY, NETWORK_KEY, checksum, read_card
from vertebra.weight_files import cached_path

from .module_knowledge import prepare_module
from .network_card import LICENCES, ClassNames, Prepared, assumed_input, class_names, finished, same_order, view, words
from .weight_comparison import digest_of


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
    """Load or take a network and fill its card.

    A file that Vertebra wrote at the end of a run says what its weights were trained for, and that holds unless an
    argument says otherwise. Of another file that is assumed; warnings tell which.

    Any module can be exported that takes float images (N, 3, H, W) and gives logits (N, K). Its preprocessing is that
    of the weights that one of our networks was created with, also once its head is another, that of timm's
    `pretrained_cfg`, its own attribute `preprocessing` (a `vertebra.Preprocessing`), or what `weights` or
    `preprocessing` say; without any of these it is refused. Its classes have
    names where its classifier still is the one of weights whose classes are known. It is unwrapped (DataParallel,
    DistributedDataParallel, torch.compile, AveragedModel), exported as it is in eval mode and in float32, and left as
    it is.

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
        WeightsError: the weights cannot be had or do not fit.
    """
    classes = class_names(classes)
    if not isinstance(model, nn.Module):
        argument = resolve_model(model, "export")
        if argument.kind is ModelKind.FUNCTION:
            model = argument.call()
    if isinstance(model, nn.Module):
        if network_options:
            raise UsageError(f"the network is built already, so {' and '.join(network_options)} cannot be given.")
        return prepare_module(
            model,
            weights=None if isinstance(weights, str) and weights == "DEFAULT" else weights,
            architecture=architecture,
            classes=classes,
            asked=preprocessing,
            provenance=provenance,
            metrics=metrics,
            licence=licence,
            temperature=temperature,
            threshold=threshold,
        )
    told = ""
    name, weights = _name_and_weights(argument, weights, architecture)
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
    preprocessing = view(preprocessing, base)
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
            classes = same_order(classes, categories) if member is not None and classes else classes or categories
        if member is None:
            told = _assumptions(given, preprocessing, classes, network)
    prepared = finished(
        network,
        name,
        preprocessing,
        classes=classes,
        weights=provenance,
        metrics=metrics if metrics is not None else _published_metrics(member),
        licence=licence or (LICENCES[member.url.partition(":")[0]] if member is not None else None),
        temperature=temperature,
        threshold=threshold,
    )
    if told:
        warn(f"'{weights}' {told}")
    return prepared


def _changes(given: Mapping[str, Any], known: Card, preprocessing: Preprocessing) -> str:
    """Where an argument has taken the place of what the file says."""
    was = {
        **{name: (getattr(known.preprocessing, name), value) for name, value in vars(preprocessing).items()},
        **{name: (getattr(known, name), given[name]) for name in ("temperature", "threshold")},
    }
    told = [
        f"{name} {words(old)}, and {words(new)} was asked for"
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
    told = assumed_input(given["preprocessing"], preprocessing, network)
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
    told = ", ".join(assumed_input(None, preprocessing, network))
    return [f"'{weights}' does not say how its network was trained; assumed: {told}."]


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
            f"{model.given} has its own weights already, so weights={weights!r} is one too many. Leave one out."
        )
    return architecture, path


def _provenance(source: WeightsEnum | Path, member: WeightsEnum | None) -> WeightSource:
    path = source if isinstance(source, Path) else cached_path(source.url)
    digest = digest_of(path)
    return WeightSource(path.name if member is None else repr(member), digest, None if member is None else member.url)


def _published_metrics(member: WeightsEnum | None) -> Mapping[str, Any]:
    return {} if member is None else member.meta["_metrics"]


def metadata(prepared: Prepared) -> dict[str, str]:
    """For a safetensors file with the network's state dict: all that one must know to use it, as `prepare` reads it."""
    network = prepared.network
    untold = json.dumps(network.untold if isinstance(network, ConvNet) else {})
    known = {"format": "pt", METADATA_KEY: prepared.card.to_json(), NETWORK_KEY: untold}
    return known | {CHECKSUM_KEY: checksum(network.state_dict(), known)}


def with_precision(card: Card, precision: str, metrics: Mapping[str, Any]) -> Card:
    """The card of the same network in another precision, with what was measured of it."""
    return replace(card, precision=precision, metrics={**card.metrics, **metrics})
