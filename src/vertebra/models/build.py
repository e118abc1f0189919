"""Build a network with random weights, or with those of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from vertebra import weight_files
from vertebra.card import Card
from vertebra.errors import WeightsError, require_positive_int, warn

from . import timm_weights, weight_reader
from .convnet import ConvNet
from .published_weights import WeightsEnum, published, resolve
from .registry import name_of, network_class
from .state_dict import load_matched, match_state_dict, meta_build
from .unwrap import Candidate, find_matching_weights

N = TypeVar("N", bound=ConvNet)


@dataclass(frozen=True)
class LoadedWeights:
    """The weights that a network was built with; they may have been trained further since."""

    name: str  # of the network, as in `list_models`
    weights: WeightsEnum | None  # the published weights, if it was built with these
    file: Path | None = None  # absolute path of the weight file, if one was given
    card: Card | None = None  # of that file


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
    """Build `network(**options)`; with weights, skip the initialisation and map the file's tensors into the network.

    If `num_classes` differs from the file's, the classifier gets random weights; if `in_channels` differs, the first
    convolution is adapted (`ConvNet.reset_stem`). None keeps the file's values, or 1000 and 3. `options` override the
    file's `hidden_settings`, which override `assumed`. `low_resolution`, whether `ConvNet.reset_resolution` was called,
    is resolved alike; if the file leaves it open, `resolution_assumed` is set.
    """
    in_channels = None if in_channels is None else require_positive_int("in_channels", in_channels)
    num_classes = None if num_classes is None else require_positive_int("num_classes", num_classes)
    assumed = dict(assumed or {})
    source = resolve(weights_enum, weights)
    if source is None:
        random = network(num_classes=num_classes or 1000, in_channels=in_channels or 3, **options)
        if low_resolution:
            random.reset_resolution()
        return random

    path = source if isinstance(source, Path) else weight_files.fetch(source.url, progress=progress)
    # Files in the cache are only replaced as a whole. The user's file may be overwritten in place, so it is copied.
    mapped = not isinstance(source, Path) or path.parent.absolute() == weight_files.hub_dir().absolute()
    try:
        content = weight_reader.read(path, mapped=mapped)
    except WeightsError:
        if isinstance(source, Path) or not weight_files.refetch_if_damaged(source.url, progress):
            raise
        content = weight_reader.read(path, mapped=mapped)
    weight_reader.check_architecture(content.card, name_of(weights_enum), path)
    cls = network_class(network)

    def fit(candidate: Candidate) -> tuple[N, Mapping[str, Tensor]]:
        state = cls.own_names(candidate.tensors)
        settings = candidate.hidden_settings
        try:
            found = cls.options_of(state)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
        with meta_build():
            model = network(**assumed | _known(settings, cls) | options | found)
        saved = settings.get("low_resolution")
        stem = model.stem_module
        # `reset_resolution` replaces only larger kernels, which therefore show whether it was called.
        is_large = isinstance(stem, nn.Conv2d) and stem.kernel_size[0] > 3
        if saved is None and is_large and state[f"{cls.stem_path}.weight"].shape[2:] == (3, 3):
            saved = True
        model.resolution_assumed = (
            isinstance(source, Path) and low_resolution is None and saved is None and not is_large
        )
        if (saved if low_resolution is None else low_resolution) is True:
            with meta_build():
                model.reset_resolution()
        return model, match_state_dict(model, state, str(path))

    def names() -> list[str]:
        with meta_build():
            return list(network(**assumed | options).state_dict())

    candidate, (model, values) = find_matching_weights(content, cls, fit, names)
    given = options if low_resolution is None else options | {"low_resolution": low_resolution}
    saved = _known(candidate.hidden_settings, cls, "low_resolution")
    _warn_of_options(path, saved, given, assumed if isinstance(source, Path) else {})
    timm_weights.warn_of_differences(content, candidate.tensors, name_of(weights_enum), cls)
    if low_resolution is None and model.low_resolution and "low_resolution" not in candidate.hidden_settings:
        warn(f"'{path}' has first kernels of 3 × 3, so its network is assumed to have had reset_resolution() called.")
    if not mapped:  # of a mapped file, which this would read completely
        _warn_of_non_finite(path, values)
    load_matched(model, values)
    own = source.absolute() if isinstance(source, Path) else None
    model.origin = LoadedWeights(name_of(weights_enum), published(weights_enum, source), own, content.card)
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    if in_channels is not None:
        model.reset_stem(in_channels)
    return model


def _known(settings: Mapping[str, Any], cls: type[ConvNet], *others: str) -> dict[str, Any]:
    """The saved settings that are arguments of the constructor or among `others`."""
    found = {name: settings[name] for name in (*cls.hidden_options, *others) if name in settings}
    return {name: value for name, value in found.items() if isinstance(value, bool | list)}


def _warn_of_non_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        # A sum is NaN or infinite if a value is, and takes no memory; it may overflow where none is.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            warn(f"'{path}' holds NaN or infinite values in {name}, so its network's predictions are meaningless.")
            return


def _warn_of_options(
    path: Path, saved: Mapping[str, Any], options: Mapping[str, Any], assumed: Mapping[str, Any]
) -> None:
    for name, value in saved.items():
        if name in options and options[name] != value:
            warn(f"'{path}' was saved with {name}={value!r}; the given {name}={options[name]!r} is used instead.")
    for name, value in assumed.items():
        if name not in saved and name not in options and not value:
            warn(f"'{path}' does not record {name}; {name}={value!r} is assumed. Pass {name}=… if that is wrong.")
