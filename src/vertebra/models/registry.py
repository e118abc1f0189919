"""Names → networks: register a builder, find it, its family and its published weights, and list what there is."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from types import ModuleType
from typing import Any, TypeVar, cast

from vertebra.model_table import FAMILIES as FAMILIES
from vertebra.model_table import check_family, read_network_name, unknown_weights
from vertebra.timm_names import ALIASES, TAGS, read_name

from .convnet import ConvNet
from .published_weights import WeightsEnum
from .timm_arguments import translate_arguments

Builder = Callable[..., ConvNet]
B = TypeVar("B", bound=Builder)
N = TypeVar("N", bound=ConvNet)


@dataclass(frozen=True)
class Registered:
    """A network that can be built by its name."""

    builder: Builder
    weights: type[WeightsEnum]
    family: str


MODELS: dict[str, Registered] = {}


def register_model(weights: type[WeightsEnum]) -> Callable[[B], B]:
    """List the decorated builder under its own name, with its published weights: `ResNet18_Weights` for `resnet18`."""

    def register(builder: B) -> B:
        name, cls = builder.__name__, network_class(builder)

        @functools.wraps(builder)
        def build_model(*args: Any, **kwargs: Any) -> ConvNet:
            options = _modern_arguments(name, weights, args, kwargs)
            options, change_head = translate_arguments(name, cls, options)
            network = builder(**options)
            network._default = (name, weights["DEFAULT"])
            change_head(network)
            return network

        MODELS[name] = Registered(build_model, weights, family=builder.__module__.rpartition(".")[2])
        return cast(B, build_model)

    return register


def _modern_arguments(
    name: str, weights: type[WeightsEnum], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Accept calls for torchvision before 0.13: resnet50(True), resnet50(pretrained=True) mean the first weights."""
    if len(args) > 2:
        raise TypeError(f"{name}() takes weights and progress by position, got {len(args)} arguments")
    for key, value in zip(("weights", "progress"), args, strict=False):
        if key in kwargs:
            raise TypeError(f"{name}() got two values for {key!r}")
        kwargs[key] = value
    pretrained = kwargs.pop("pretrained", None)
    if isinstance(kwargs.get("weights"), bool):
        pretrained = kwargs.pop("weights")
    if pretrained is None:
        return kwargs
    member = next(iter(weights)) if pretrained else None
    warnings.warn(f"pretrained={pretrained} is deprecated; write {name}(weights={member!r})", stacklevel=3)
    return {"weights": member} | kwargs


def find_registered(name: Any) -> Registered:
    """Find the network of a name, ours or timm's; raises as `read_network_name`."""
    return MODELS[read_network_name(name).alias.name]


def name_of(weights_enum: type[WeightsEnum]) -> str:
    """The name of the network with these weights: "resnet18" for `ResNet18_Weights`."""
    return weights_enum.__name__.removesuffix("_Weights").lower()


def network_class(network: Callable[..., N]) -> type[N]:
    """The class that a constructor, or a function with an annotated result, builds; either may be partial."""
    while isinstance(network, functools.partial):
        network = network.func
    cls = network if isinstance(network, type) else inspect.signature(network, eval_str=True).return_annotation
    return cast(type[N], cls)


def is_model(name: str) -> bool:
    """Whether `create_model` accepts this name, ours or timm's, with any tag."""
    return read_name(str(name), MODELS) is not None


def get_family(name: str) -> str:
    """The family of a network, which is also the name of its module."""
    return find_registered(name).family


def get_model_weights(name: Builder | str) -> type[WeightsEnum]:
    """The weights enum of a network, given by name or builder."""
    return find_registered(name if isinstance(name, str) else getattr(name, "__name__", str(name))).weights


def get_weight(name: str) -> WeightsEnum:
    """The member of a weights enum by its full name: "ResNet50_Weights.IMAGENET1K_V2"."""
    enums = {registered.weights.__name__: registered.weights for registered in MODELS.values()}
    name = str(name)  # so that another type gets the same message
    enum_name, _, member = name.partition(".")
    if enum_name not in enums or not member:
        known = [f"{enum}.{member}" for enum, members in enums.items() for member in members.__members__]
        raise unknown_weights(name, known)
    return enums[enum_name].named(member)


def list_models(
    where: ModuleType | str | Iterable[str] | None = None,
    /,
    include: Iterable[str] | str | None = None,
    exclude: Iterable[str] | str | bool | None = None,
    *,
    module: ModuleType | str | Iterable[str] | None = None,
    family: str | None = None,
    max_params: float | None = None,
    max_gmacs: float | None = None,
    min_top1: float | None = None,
    filter: Iterable[str] | str | None = None,
    pretrained: bool = False,
    exclude_filters: Iterable[str] | str | None = None,
    include_tags: bool | None = None,
    name_matches_cfg: bool = False,
) -> list[str]:
    """List the names of the networks, sorted.

    Calls that were written for torchvision (`list_models(module=vertebra.models, include="resnet*")`) and for timm
    (`list_models("*res*")`, `list_models("*res*", "resnet")`, `list_models(module="resnet", exclude_filters="*101*")`)
    work too. If the patterns match none of the names here but timm's names of these networks ("mobilenetv2_*"), those
    are returned.

    Args:
        where: the module (`vertebra.models`), or patterns as `include`.
        include: shell patterns of names to keep, for example "resnet*"; a family if `where` has patterns.
        exclude: shell patterns of names to leave out. (A boolean in this position is timm's `pretrained`.)
        module: the module that registers the networks (`vertebra.models`), or as in timm a `family`.
        family: one of `FAMILIES`.
        max_params: maximum number of parameters.
        max_gmacs: maximum multiply-accumulates per image, in 10⁹, at the size of the default weights.
        min_top1: minimum ImageNet top-1 accuracy of the best weights, in %.
        filter: timm's name of `include`.
        pretrained: no effect, since all networks have published weights.
        exclude_filters: timm's name of `exclude`.
        include_tags: list names with timm's tags of the published weights ("resnet50.tv2_in1k").
        name_matches_cfg: no effect.

    Raises:
        UsageError: there is no such family.
    """
    if isinstance(where, ModuleType):
        module, where = where, None
    patterns, families = _as_list(include), _as_list(family)
    if where:  # timm's order: patterns, then a module of its own
        patterns, families = _as_list(where), families + patterns
    if not isinstance(module, ModuleType):
        families += _as_list(module)
    for name in families:
        check_family(name)
    patterns += _as_list(filter)
    excluded = ([] if isinstance(exclude, bool) else _as_list(exclude)) + _as_list(exclude_filters)

    def matches(name: str, tag: str, wanted: Sequence[str]) -> bool:
        names = {name, read_network_name(name).alias.name} | ({f"{name}.{tag}"} if tag else set())
        return any(fnmatch(name, pattern) for pattern in wanted for name in names)

    def wanted(name: str, tag: str) -> bool:
        registered = find_registered(name)
        meta = registered.weights["DEFAULT"].meta
        return (
            (not isinstance(module, ModuleType) or registered.builder.__module__.rpartition(".")[0] == module.__name__)
            and (not patterns or matches(name, tag, patterns))
            and not matches(name, tag, excluded)
            and (not families or registered.family in families)
            and (max_params is None or meta["num_params"] <= max_params)
            and (max_gmacs is None or meta["_ops"] <= max_gmacs)
            and (min_top1 is None or best_top1(registered.weights) >= min_top1)
        )

    if include_tags:
        return sorted(f"{name}.{tag}" for name, tags in TAGS.items() for tag in tags if wanted(name, tag))
    here = sorted(name for name in MODELS if wanted(name, ""))
    # Patterns that match none of these names may match timm's, which `create_model` accepts too.
    return here or sorted(name for name in ALIASES if patterns and wanted(name, ""))


def list_pretrained(filter: Any = "", exclude_filters: Any = "") -> list[str]:
    """List all published weights that have a tag in timm, by timm's names: "resnet50.tv2_in1k"."""
    return list_models(filter=filter, exclude_filters=exclude_filters, include_tags=True)


def list_modules() -> list[str]:
    """List the families, which are also the names of their modules."""
    return sorted(FAMILIES)


def best_top1(weights: type[WeightsEnum]) -> float:
    """Best published ImageNet top-1 accuracy, in %."""
    accuracies: list[float] = [member.meta["_metrics"]["ImageNet-1K"]["acc@1"] for member in weights]
    return max(accuracy for accuracy in accuracies if accuracy == accuracy)  # NaN: weights without a classifier


def _as_list(value: Iterable[str] | str | None) -> list[str]:
    return [] if not value else [value] if isinstance(value, str) else list(value)
