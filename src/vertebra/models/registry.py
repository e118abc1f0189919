"""Names → networks: register a builder, find it again, build it with or without weights."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from vertebra import weight_files
from vertebra.errors import UsageError, WeightsError, check_count, nearest, warn
from vertebra.model_table import FAMILIES as FAMILIES
from vertebra.model_table import check_family
from vertebra.timm_names import ALIASES, TAGS, TimmName, explain_unknown, read_name

from . import timm_weights, weight_reader
from ._timm import translated
from .convnet import ConvNet
from .origin import Origin, check_architecture
from .published_weights import WeightsEnum, published, resolve
from .state_dict import fitting, load_state_dict, meta_build
from .unwrap import Candidate, fitting_weights

Builder = Callable[..., ConvNet]
B = TypeVar("B", bound=Builder)
N = TypeVar("N", bound=ConvNet)


@dataclass(frozen=True)
class _Registered:
    builder: Builder
    weights: type[WeightsEnum]
    family: str


_MODELS: dict[str, _Registered] = {}


def register_model(weights: type[WeightsEnum]) -> Callable[[B], B]:
    """List the decorated builder under its own name, with its published weights."""

    def register(builder: B) -> B:
        @functools.wraps(builder)
        def build_model(*args: Any, **kwargs: Any) -> ConvNet:
            options = _modern_arguments(builder.__name__, weights, args, kwargs)
            options, head = translated(builder.__name__, family, options)
            network = builder(**options)
            network._default = (builder.__name__, weights["DEFAULT"])
            return head.applied_to(network)

        family = builder.__module__.rsplit(".", 1)[-1]
        _MODELS[builder.__name__] = _Registered(build_model, weights, family)
        return build_model  # type: ignore[return-value]

    return register


def _modern_arguments(
    name: str, weights: type[WeightsEnum], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Before torchvision 0.13 one wrote resnet50(True) or resnet50(pretrained=True) for the first weights."""
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


def build(
    network: Callable[..., N],
    weights_enum: type[WeightsEnum],
    weights: Any,
    progress: bool,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    low_resolution: bool | None = None,
    assumed: Mapping[str, Any] | None = None,
    **options: Any,
) -> N:
    """Build `network(**options)`; with weights, build it without drawing any, and map the file's tensors into it.

    Where `num_classes` is not the file's, the body is the file's and the classifier newly drawn; where `in_channels`
    is not the file's, the first convolution is adapted (`ConvNet.reset_stem`). None is what the file has, or else 1000
    and 3. What the file says of the network that it was saved from (`ConvNet.untold`) is kept, unless `options` say
    otherwise; `assumed` are options that hold where neither says anything. So it is with `low_resolution`, whether
    `ConvNet.reset_resolution` was called; where nothing tells, `resolution_assumed` says so.
    """
    in_channels = None if in_channels is None else check_count("in_channels", in_channels)
    num_classes = None if num_classes is None else check_count("num_classes", num_classes)
    source = resolve(weights_enum, weights)
    if source is None:
        drawn = network(num_classes=num_classes or 1000, in_channels=in_channels or 3, **options)
        if low_resolution:
            drawn.reset_resolution()
        return drawn

    path = source if isinstance(source, Path) else weight_files.fetch(source.url, progress=progress)
    # The cache's files are only ever replaced whole. A file of one's own may be saved over: it is copied.
    mapped = not isinstance(source, Path) or path.parent.absolute() == weight_files.hub_dir().absolute()
    try:
        content = weight_reader.read(path, mapped=mapped)
    except WeightsError:
        if isinstance(source, Path) or not weight_files.is_sound_again(source.url, progress):
            raise
        content = weight_reader.read(path, mapped=mapped)
    check_architecture(content.card, _name_of(weights_enum), path)
    cls = _network_class(network)

    def fit(candidate: Candidate) -> tuple[N, Mapping[str, Tensor]]:
        state = cls._own_names(candidate.tensors)
        model = _shaped(network, cls, state, dict(assumed or {}) | _known(candidate.untold, cls) | options, path)
        said = candidate.untold.get("low_resolution")
        if said is None and _has_low_stem(model, state):
            said = True
        unsaid = low_resolution is None and said is None
        model.resolution_assumed = unsaid and isinstance(source, Path) and _has_small_stem(model)
        if (said if low_resolution is None else low_resolution) is True:
            with meta_build():
                model.reset_resolution()
        fitting(model, state, str(path))
        return model, state

    @functools.cache
    def names() -> list[str]:
        with meta_build():
            return list(network(**dict(assumed or {}) | options).state_dict())

    def lacking(tensors: Mapping[str, Any]) -> list[str]:
        return _lacking_head(names(), cls._own_names(tensors), cls._head)

    candidate, (model, state) = fitting_weights(
        content, ((cls._stem, cls._head), *timm_weights.marks(cls)), fit, lacking
    )
    asked = options if low_resolution is None else options | {"low_resolution": low_resolution}
    said = _known(candidate.untold, cls, "low_resolution")
    _tell_options(path, said, asked, assumed if isinstance(source, Path) else None)
    timm_weights.tell_difference(content, candidate.tensors, _name_of(weights_enum), cls)
    if low_resolution is None and model.untold["low_resolution"] and "low_resolution" not in candidate.untold:
        warn(f"'{path}' has first kernels of 3 × 3, so reset_resolution() is taken to have been called on its network.")
    if not mapped:  # of a mapped file that would read every page, most of which nobody needs yet
        _tell_not_finite(path, state)
    load_state_dict(model, state, str(path))
    own = source.absolute() if isinstance(source, Path) else None
    member = published(weights_enum, source) if isinstance(source, Path) else source
    model.origin = Origin(_name_of(weights_enum), member, own, content.card)
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    if in_channels is not None:
        model.reset_stem(in_channels)
    return model


def _shaped(
    network: Callable[..., N], cls: type[N], state: Mapping[str, Tensor], options: dict[str, Any], path: Path
) -> N:
    """The network for tensors of these shapes, without values."""
    try:
        options |= cls.options_of(state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    with meta_build():
        return network(**options)


def _known(untold: Mapping[str, Any], cls: type[ConvNet], *others: str) -> dict[str, Any]:
    """Of what a file says of its network the arguments of the constructor, and these others."""
    found = {name: untold[name] for name in (*cls._untold, *others) if name in untold}
    return {name: value for name, value in found.items() if isinstance(value, bool | list)}


def _has_low_stem(model: ConvNet, state: Mapping[str, Tensor]) -> bool:
    """Whether the first kernels are of 3 × 3 where the network's are larger, as `reset_resolution` makes them."""
    return not _has_small_stem(model) and tuple(state[f"{model._stem}.weight"].shape[2:]) == (3, 3)


def _has_small_stem(model: ConvNet) -> bool:
    """Whether `reset_resolution` leaves the first kernels as they are, so that no tensor tells that it was called."""
    stem = model.get_submodule(model._stem)
    return not isinstance(stem, nn.Conv2d) or stem.kernel_size[0] <= 3


_BODY_SHARE = 0.9  # of the names; GoogLeNet's auxiliary heads may be left out


def _lacking_head(wanted: Sequence[str], tensors: Mapping[str, Any], head: str) -> list[str]:
    """The names of the classifier's tensors, where these are a network's without them; else none."""
    body = [name for name in wanted if not name.startswith(f"{head}.") and not name.endswith("num_batches_tracked")]
    if sum(name in tensors for name in body) < _BODY_SHARE * len(body):
        return []
    return [name for name in wanted if name.startswith(f"{head}.")]


def _tell_not_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        # A sum is NaN or infinite if a value is, and takes no memory; it may overflow where none is.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            warn(f"'{path}' holds NaN or infinite values in {name}, so its network predicts nothing of use.")
            return


def _tell_options(
    path: Path, said: Mapping[str, Any], options: Mapping[str, Any], assumed: Mapping[str, Any] | None
) -> None:
    for name, value in said.items():
        if name in options and options[name] != value:
            warn(f"'{path}' says {name}={value!r}; {name}={options[name]!r} was asked for and is taken.")
    for name, value in (assumed or {}).items():
        if name not in said and name not in options and not value:
            warn(f"'{path}' does not say {name}; {name}={value!r} is assumed. Give {name}=… where it is otherwise.")


def _name_of(weights_enum: type[WeightsEnum]) -> str:
    return next(name for name, registered in _MODELS.items() if registered.weights is weights_enum)


def _network_class(network: Callable[..., N]) -> type[N]:
    """The class of what a constructor, or a function with an annotated result, makes; either may be partial."""
    while isinstance(network, functools.partial):
        network = network.func
    cls = network if isinstance(network, type) else inspect.get_annotations(network, eval_str=True)["return"]
    return cast(type[N], cls)


def get_model_builder(name: str) -> Builder:
    """The builder of that name. It takes timm's arguments, too; one of timm's names stands for `create_model` with it.

    Raises:
        UsageError: there is none; the message has the nearest names.
    """
    registered = _registered(name)
    return registered.builder if name.lower() in _MODELS else functools.partial(create_model, name)


def _registered(name: Any) -> _Registered:
    return _MODELS[_read_name(name).alias.name]


def _read_name(name: Any) -> TimmName:
    """The network that a name stands for, ours or timm's."""
    if not isinstance(name, str):
        raise UsageError(f"the model's name is {name!r}; it must be a word such as 'resnet50'.")
    found = read_name(name, _MODELS)
    if found is None:
        raise UsageError(explain_unknown(name.strip(), _MODELS))
    return found


def get_model(name: str, **config: Any) -> ConvNet:
    """Build the network of that name: `get_model("resnet50", weights="DEFAULT")`."""
    return get_model_builder(name)(**config)


def create_model(
    name: str | None = None,
    weights: Any = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    **options: Any,
) -> ConvNet:
    """Build a network by name. timm's names and arguments are understood (docs/timm.md).

    Args:
        name: as `list_models()` has it, for example "efficientnet_lite0"; or timm's for the same network
            ("mobilenetv2_100"), with a tag for weights that are here ("resnet50.tv2_in1k"). `model_name` is the same.
        weights: None, "DEFAULT", a member of the network's weights enum (also torchvision's), a member's name, or a
            path to a .pth or .safetensors file.
        num_classes: width of the logits. Another number than the weights' keeps the body and draws a new classifier; 0
            leaves it out, so that pooled features come out, or with `global_pool=""` the last feature map.
        in_channels: channels of the images. Another number than the published weights' 3 adapts the first convolution;
            with a file of one's own, 3 stands for as many as the file has.
        options: what the family takes, for example `dropout=0.3`; and timm's: `pretrained=True` (the weights of the
            name's tag, or "DEFAULT"), `features_only=True` with `out_indices` (a list of feature maps), `global_pool`,
            `in_chans`, `drop_rate`, `drop_path_rate`, `output_stride` (ResNet), `checkpoint_path`.

    Raises:
        UsageError: a name, number or argument that is not allowed.
        WeightsError: weights that cannot be had or do not fit.
    """
    model_name = options.pop("model_name", None)
    if (name is None) == (model_name is None):
        raise UsageError("give create_model one name: create_model('resnet50'); name= and model_name= are the same.")
    found = _read_name(model_name if name is None else name)
    if found.alias.differs:
        warn(f"{found.timm} is built as {found.alias.name}: {found.alias.differs}.")
    pretrained = options.pop("pretrained", None)
    if isinstance(weights, bool):
        weights, pretrained = None, weights
    if isinstance(options.get("pretrained_cfg"), str):  # as timm has it, a tag
        found = replace(found, tag=options.pop("pretrained_cfg"))
    name = found.alias.name
    if pretrained:
        weights = _pretrained_weights(found, weights, options)
    elif weights is not None:
        weights = _named_weights(found, weights)
    elif found.unknown_tag:
        warn(f"{found.unknown_tag} Without pretrained=True none are loaded; pretrained_cfg is that of 'DEFAULT'.")
    if _MODELS[name].family == "densenet" and options.get("drop_rate"):
        rate = options["drop_rate"]
        warn(
            f"{name}: drop_rate={rate!r} drops values behind each layer of a block, as in torchvision; in timm that is "
            f"proj_drop_rate. Write dropout={rate!r} for timm's drop_rate, before the classifier."
        )
    channels = None if in_channels == 3 else in_channels
    options = {**found.alias.options, **options}
    network = _MODELS[name].builder(weights=weights, num_classes=num_classes, in_channels=channels, **options)
    if found.tag and not found.unknown_tag:  # what the tag names decides the preprocessing, also without its values
        network._default = (name, _MODELS[name].weights[found.weights("DEFAULT")])
    return network


def _pretrained_weights(found: TimmName, weights: Any, options: Mapping[str, Any]) -> Any:
    """What `pretrained=True` loads; a file that is given beside it is loaded instead, as in timm."""
    enum = _MODELS[found.alias.name].weights
    if weights is not None:
        raise UsageError(f"weights={weights!r} and pretrained=True both name weights. Leave pretrained out.")
    if options.get("checkpoint_path"):
        return None
    member = enum[found.weights(enum["DEFAULT"].name)]
    if told := found.other_default(member.name):
        warn(told)
    return member


def _named_weights(found: TimmName, weights: Any) -> Any:
    """`weights`, where they are those that the name's tag names; "DEFAULT" of a name with a tag is what it names."""
    if not (found.tag or found.alias.options) or isinstance(resolve(_MODELS[found.alias.name].weights, weights), Path):
        return weights
    enum = _MODELS[found.alias.name].weights
    member = enum[found.weights("DEFAULT")]
    if weights != "DEFAULT" and resolve(enum, weights) is not member:
        raise UsageError(
            f"'{found.timm}.{found.tag}' names the weights {member!r}, and weights={weights!r} others. Leave one out."
        )
    return member


def is_model(name: str) -> bool:
    """Whether `create_model` builds a network of that name, ours or timm's, whatever its tag."""
    return read_name(str(name), _MODELS) is not None


def model_entrypoint(name: str) -> Builder:
    """`create_model` of that name, as a function of all else."""
    registered = _registered(name)
    return functools.update_wrapper(functools.partial(create_model, name), registered.builder)


def list_modules() -> list[str]:
    """The families, which are the names of the modules that hold them."""
    return sorted(FAMILIES)


def list_pretrained(filter: Any = "", exclude_filters: Any = "") -> list[str]:
    """Names with timm's tags of all weights that are here under such a name: "resnet50.tv2_in1k"."""
    return list_models(filter=filter, exclude_filters=exclude_filters, include_tags=True)


def get_model_weights(name: Builder | str) -> type[WeightsEnum]:
    """The weights enum of a network, given by name or builder."""
    return _registered(name if isinstance(name, str) else getattr(name, "__name__", str(name))).weights


def get_weight(name: str) -> WeightsEnum:
    """The member of that full name: "ResNet50_Weights.IMAGENET1K_V2"."""
    enums = {registered.weights.__name__: registered.weights for registered in _MODELS.values()}
    name = str(name)  # so that what is no name gets the message too
    enum_name, _, member = name.partition(".")
    if enum_name not in enums or not member:
        known = [f"{enum}.{member}" for enum, members in enums.items() for member in members.__members__]
        raise UsageError(
            f"there are no weights {name!r}; a name is like 'ResNet50_Weights.IMAGENET1K_V2'. {nearest(name, known)}"
        )
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
    """Names of the networks, sorted.

    Calls that were written for torchvision (`list_models(module=vertebra.models, include="resnet*")`) and for timm
    (`list_models("*res*")`, `list_models("*res*", "resnet")`, `list_models(module="resnet", exclude_filters="*101*")`)
    are understood.

    Where patterns fit none of these names but timm's for networks that are here ("mobilenetv2_*"), they are those.

    Args:
        where: in the first place, `module`, or patterns as in `include`.
        include: shell patterns of names to keep, for example "resnet*"; after patterns in the first place, a family.
        exclude: shell patterns of names to leave out. (A boolean in this place is timm's `pretrained`.)
        module: the module that registers them (`vertebra.models`), or as in timm `family`.
        family: one of vgg, googlenet, resnet, densenet, mobilenetv2, efficientnet.
        max_params: largest number of parameters.
        max_gmacs: most multiply-accumulates an image, in 10⁹, at the size of the default weights.
        min_top1: least ImageNet top-1 accuracy of the best weights, in %.
        filter: `include`, in timm.
        pretrained: whether to keep only networks with weights, which all have.
        exclude_filters: `exclude`, in timm.
        include_tags: whether to list names with timm's tags of the weights that are here ("resnet50.tv2_in1k").
        name_matches_cfg: without effect: all names do.

    Raises:
        UsageError: there is no such family.
    """
    if isinstance(where, ModuleType):
        module, where = where, None
    patterns, families = _texts(include), _texts(family)
    if where:  # timm's order: patterns, then a module of its own
        patterns, families = _texts(where), families + patterns
    if not isinstance(module, ModuleType):
        families += _texts(module)
    for name in families:
        check_family(name)
    patterns += _texts(filter)
    excluded = ([] if isinstance(exclude, bool) else _texts(exclude)) + _texts(exclude_filters)

    def matches(name: str, tag: str, wanted: Sequence[str]) -> bool:
        names = {name, _read_name(name).alias.name} | ({f"{name}.{tag}"} if tag else set())
        return any(fnmatch(name, pattern) for pattern in wanted for name in names)

    def wanted(name: str, tag: str) -> bool:
        registered = _registered(name)
        meta = registered.weights["DEFAULT"].meta
        return (
            (not isinstance(module, ModuleType) or _package_of(registered) == module.__name__)
            and (not patterns or matches(name, tag, patterns))
            and not matches(name, tag, excluded)
            and (not families or registered.family in families)
            and (max_params is None or meta["num_params"] <= max_params)
            and (max_gmacs is None or meta["_ops"] <= max_gmacs)
            and (min_top1 is None or best_top1(registered.weights) >= min_top1)
        )

    if include_tags:
        return sorted(f"{name}.{tag}" for name, tags in TAGS.items() for tag in tags if wanted(name, tag))
    here = sorted(name for name in _MODELS if wanted(name, ""))
    # Patterns that fit none of these names may be of timm's, which `create_model` takes, too.
    return here or sorted(name for name in ALIASES if patterns and wanted(name, ""))


def _texts(value: Iterable[str] | str | None) -> list[str]:
    return [] if not value else [value] if isinstance(value, str) else list(value)


def _package_of(registered: _Registered) -> str:
    return registered.builder.__module__.rsplit(".", 1)[0]


def best_top1(weights: type[WeightsEnum]) -> float:
    """Best published ImageNet top-1 accuracy, in %."""
    accuracies: list[float] = [member.meta["_metrics"]["ImageNet-1K"]["acc@1"] for member in weights]
    return max(accuracy for accuracy in accuracies if accuracy == accuracy)  # NaN: weights without a classifier


def get_family(name: str) -> str:
    """The family of a network, which is also the name of its module."""
    return _registered(name).family
