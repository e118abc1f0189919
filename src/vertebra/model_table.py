"""The networks and the figures of their published weights, for commands that list them without torch.

`model_table.json` is generated from the registry by `python tests/test_model_table.py`; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from vertebra.errors import UsageError, suggest
from vertebra.timm_names import TimmName, explain_unknown, read_name
from vertebra.units import MEGA

_TABLE: dict[str, Any] = json.loads(files(__package__).joinpath("model_table.json").read_text(encoding="ascii"))
# The families by the names of their modules, in the order of the papers, and the classes of their networks.
FAMILIES: tuple[str, ...] = tuple(_TABLE["families"])
FAMILY_CLASSES: tuple[str, ...] = tuple(_TABLE["families"].values())


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """The figures of one published weight file."""

    name: str  # "ResNet50_Weights.IMAGENET1K_V2"
    url: str  # `package:NAME/FILE` is a file inside an installed Python package
    parameters: int
    gmacs: float  # 10⁹ multiply-accumulates an image
    mebibytes: float  # of the file, in 2²⁰ bytes, as it is published
    top1: float | None  # % on ImageNet; None: without a classifier
    min_size: int  # smallest side of an image, in pixels
    crop_size: int  # side of the images of the published accuracy, in pixels

    @property
    def mb(self) -> float:
        """Size of the file in MB (10⁶ bytes)."""
        return round(self.mebibytes * 2**20 / MEGA, 2)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """A network with all its published weights."""

    name: str
    family: str
    weights: tuple[PublishedWeights, ...]
    default: PublishedWeights

    @property
    def best(self) -> PublishedWeights:
        """The weights with the best ImageNet top-1 accuracy; the first if several are equal."""
        return max(self.weights, key=lambda weights: weights.top1 or 0.0)


@cache
def networks() -> Mapping[str, PublishedNetwork]:
    """All networks by name, sorted."""
    found = {}
    for row in _TABLE["networks"]:
        enum, default = row["enum"], row["default"]
        members = {member: PublishedWeights(f"{enum}.{member}", **values) for member, values in row["weights"].items()}
        network = PublishedNetwork(row["name"], row["family"], tuple(members.values()), members[default])
        found[network.name] = network
    return found


def find_network(name: str) -> PublishedNetwork:
    """Find a network by its name, ours or timm's; with one of timm's tags, only with the weights of that tag."""
    read = read_network_name(name)
    found = networks()[read.alias.name]
    if read.tag or read.alias.options:
        member = read.weights("")
        named = next(weights for weights in found.weights if weights.name.endswith(f".{member}"))
        found = replace(found, weights=(named,), default=named)
    return found


def read_network_name(name: object) -> TimmName:
    """Parse a network's name, ours or timm's: the network, the tag of its weights, its width.

    Raises:
        UsageError: there is no such network; the message has the nearest names.
    """
    if not isinstance(name, str):
        raise UsageError(f"the model's name is {name!r}; it must be a string such as 'resnet50'.")
    found = read_name(name, networks())
    if found is None:
        raise UsageError(explain_unknown(name.strip(), networks(), FAMILY_CLASSES))
    return found


def find_weights(name: str) -> PublishedWeights:
    """The published weights of a name: "resnet50" for its default, or "ResNet50_Weights.IMAGENET1K_V2"."""
    member = name.partition(".")[2]
    if not member:
        return find_network(name).default
    known = {weights.name: weights for network in networks().values() for weights in network.weights}
    if member == "DEFAULT":
        known |= {f"{each.default.name.partition('.')[0]}.DEFAULT": each.default for each in networks().values()}
    if name not in known:
        raise unknown_weights(name, known)
    return known[name]


def unknown_weights(name: str, known: Iterable[str]) -> UsageError:
    """The error for a name of weights that is not among those known."""
    return UsageError(
        f"there are no weights {name!r}; a name is like 'ResNet50_Weights.IMAGENET1K_V2'. {suggest(name, known)}"
    )


def families_of_any_size() -> str:
    """The families with a network that takes images of any size: "resnet, mobilenetv2 or efficientnet"."""
    free = {network.family for network in networks().values() if network.default.min_size == 1}
    *most, last = [family for family in FAMILIES if family in free]
    return f"{', '.join(most)} or {last}"


def check_family(name: str) -> None:
    """Raise a `UsageError` for an unknown family."""
    if name not in FAMILIES:
        raise UsageError(f"there is no family {name!r}; there are {', '.join(FAMILIES)}. {suggest(name, FAMILIES)}")
