"""What the weights of a module say of its use: preprocessing, classes, provenance, licence and metrics.

Our networks remember the weights that they were created with, timm's have a `pretrained_cfg`, and for others the caller
names the weights. A module may have been trained further since, or have another head: its values are compared with the
file's before anything that holds for the file alone is said of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from torch import nn

from vertebra.card import Card, Preprocessing, WeightSource
from vertebra.errors import UsageError
from vertebra.files import WEIGHT_SUFFIXES
from vertebra.models import ConvNet, get_model_weights, get_weight
from vertebra.models.build import Origin
from vertebra.preprocessing import timm_config

from .network_card import LICENCES
from .weight_comparison import cached_file, sha256_of, stored_values, weights_state


@dataclass(frozen=True)
class WeightsInfo:
    """What is known of a module from its weights."""

    name: str  # of the network
    preprocessing: Preprocessing | None = None
    classes: Sequence[str] | None = None
    class_count: int | None = None  # how many classes the weights have, whether or not they are the network's
    provenance: WeightSource | None = None
    licence: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    card: Card | None = None  # what the file of its weights says, where they are as they were
    source: str = ""  # where the preprocessing is from
    doubt: str = ""  # why it may not hold for this module; "": it holds
    unnamed: str = ""  # why the classes have no names, where the weights have some
    outputs: int | None = None  # how many logits the weights give, where it is recorded


def weights_info(network: nn.Module, weights: Any, architecture: str | None) -> WeightsInfo:
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
    return WeightsInfo(name, provenance=None if isinstance(network, ConvNet) else WeightSource("not recorded"))


# --- published weights -----------------------------------------------------------------------------------------------


def _member(weights: Any, network: nn.Module, architecture: str | None) -> Any:
    """The member of a weights enum; torchvision's become ours where they are of our families."""
    if isinstance(weights, str | Path) and _is_weight_file(weights):
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


def _is_weight_file(weights: str | Path) -> bool:
    """Whether it is a path and not the name of published weights, which has neither a suffix nor a folder."""
    path = Path(weights)
    return isinstance(weights, Path) or path.suffix.lower() in WEIGHT_SUFFIXES or len(path.parts) > 1 or path.is_file()


def _published(
    network: nn.Module, member: Any, name: str, file: Path | None = None, *, said: bool = False
) -> WeightsInfo:
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
    path = file if file is not None and file.is_file() else cached_file(member)
    state = weights_state(network, stored_values(member, path), categories)
    unnamed = {
        "unknown": f"whether its classifier is that of {label} cannot be told, whose file is not in the cache",
        "head": f"its classifier is not that of {label}",
    }.get(state, "")
    whole = state == "same" and path is not None
    licence = member.meta.get("license") or LICENCES[member.url.partition(":")[0]]
    return WeightsInfo(
        name,
        Preprocessing.from_weights(member),
        classes=categories if state in ("same", "body") else None,
        class_count=None if categories is None else len(categories),
        provenance=WeightSource(label, sha256_of(path), member.url)
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


def _of_file(network: nn.Module, origin: Origin, name: str) -> WeightsInfo:
    """A network that was created with a weight file of one's own."""
    card, label = origin.card, f"'{origin.file}'"
    categories = card.classes if card is not None else get_model_weights(origin.name)["DEFAULT"].meta["categories"]
    state = weights_state(network, stored_values(origin.name, origin.file), categories)
    base = card.preprocessing if card is not None else get_model_weights(origin.name)["DEFAULT"].preprocessing
    doubts = {
        "same": "" if card is not None else f"{label} does not say how its network is used",
        "unknown": f"whether its values are those of {label} cannot be told, which cannot be read any more",
    }
    file = origin.file
    return WeightsInfo(
        name,
        base,
        classes=categories if state in ("same", "body") else None,
        class_count=None if categories is None else len(categories),
        provenance=WeightSource(file.name, sha256_of(file) if state == "same" else None) if file is not None else None,
        licence=card.licence if card is not None else None,
        metrics=card.metrics if card is not None and state == "same" else {},
        card=card if state == "same" else None,
        source=label,
        doubt=doubts.get(state, f"its values are no longer those of {label}"),
        unnamed="" if state in ("same", "body") else f"its classifier is not known to be that of {label}",
    )


# --- timm ------------------------------------------------------------------------------------------------------------


def _of_timm(network: nn.Module, config: Mapping[str, Any], architecture: str | None) -> WeightsInfo:
    """A network of timm's."""
    published = str(config.get("architecture") or type(network).__name__.lower())
    label = f"{published}.{config['tag']}" if config.get("tag") else published
    count, names = config.get("num_classes"), config.get("label_names")
    return WeightsInfo(
        architecture or published,
        Preprocessing.from_timm(config),
        classes=[str(name) for name in names] if names is not None else None,
        provenance=WeightSource(f"{label} of timm, not verified"),
        licence=config.get("license"),
        source=f"the pretrained_cfg of {label}",
        unnamed="" if names is not None else f"the pretrained_cfg of {label} names none",
        outputs=count if isinstance(count, int) else None,
    )
