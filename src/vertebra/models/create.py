"""Create a network by name, ours or timm's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError, warn
from vertebra.model_table import read_network_name
from vertebra.timm_names import TimmName

from .convnet import ConvNet
from .published_weights import resolve
from .registry import MODELS, Builder, find_registered


def create_model(
    name: str | None = None,
    weights: Any = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    **options: Any,
) -> ConvNet:
    """Build a network by name. timm's names and arguments are understood (docs/guides/timm.md).

    Args:
        name: as `list_models()` has it, for example "efficientnet_lite0"; or timm's for the same network
            ("mobilenetv2_100"), with a tag for weights that are here ("resnet50.tv2_in1k"). `model_name` is the same.
        weights: None, "DEFAULT", a member of the network's weights enum (also torchvision's), a member's name, or a
            path to a .pth or .safetensors file.
        num_classes: width of the logits. Another number than the weights' keeps the body, with a classifier of random
            weights; 0 leaves it out, so that pooled features come out, or with `global_pool=""` the last feature map.
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
    found = read_network_name(model_name if name is None else name)
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
    if MODELS[name].family == "densenet" and (rate := options.get("drop_rate")):
        warn(
            f"{name}: drop_rate={rate!r} drops values behind each layer of a block, as in torchvision; in timm that is "
            f"proj_drop_rate. Write dropout={rate!r} for timm's drop_rate, before the classifier."
        )
    channels = None if in_channels == 3 else in_channels
    options = {**found.alias.options, **options}
    network = MODELS[name].builder(weights=weights, num_classes=num_classes, in_channels=channels, **options)
    if found.tag and not found.unknown_tag:  # what the tag names decides the preprocessing, also without its values
        network._default = (name, MODELS[name].weights[found.weights("DEFAULT")])
    return network


def _pretrained_weights(found: TimmName, weights: Any, options: Mapping[str, Any]) -> Any:
    """What `pretrained=True` loads; a file that is given beside it is loaded instead, as in timm."""
    enum = MODELS[found.alias.name].weights
    if weights is not None:
        raise UsageError(f"weights={weights!r} and pretrained=True both name weights. Leave pretrained out.")
    if options.get("checkpoint_path"):
        return None
    member = enum[found.weights(enum["DEFAULT"].name)]
    if note := found.other_default(member.name):
        warn(note)
    return member


def _named_weights(found: TimmName, weights: Any) -> Any:
    """`weights`, where they are those that the name's tag names; "DEFAULT" of a name with a tag is what it names."""
    if not (found.tag or found.alias.options) or isinstance(resolve(MODELS[found.alias.name].weights, weights), Path):
        return weights
    enum = MODELS[found.alias.name].weights
    member = enum[found.weights("DEFAULT")]
    if weights != "DEFAULT" and resolve(enum, weights) is not member:
        raise UsageError(
            f"'{found.timm}.{found.tag}' names the weights {member!r}, and weights={weights!r} others. Leave one out."
        )
    return member


def get_model(name: str, **config: Any) -> ConvNet:
    """Build the network of that name: `get_model("resnet50", weights="DEFAULT")`."""
    return get_model_builder(name)(**config)


def get_model_builder(name: str) -> Builder:
    """The builder of that name. It takes timm's arguments, too; one of timm's names stands for `create_model` with it.

    Raises:
        UsageError: there is none; the message has the nearest names.
    """
    registered = find_registered(name)
    return registered.builder if name.lower() in MODELS else functools.partial(create_model, name)


def model_entrypoint(name: str) -> Builder:
    """`create_model` of that name, as a function of all else."""
    registered = find_registered(name)
    return functools.update_wrapper(functools.partial(create_model, name), registered.builder)
