"""timm's names of tensors → torchvision's, where the layers are the same: MobileNetV2, EfficientNet and VGG.

ResNet's and DenseNet's names are the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from vertebra.errors import warn
from vertebra.timm_names import differing_weights, read_name

from .weight_reader import Content

_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(.+)")
# The layers of timm's blocks in the order in which they run, each with the batch norm behind it.
_WIDENED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("se", ""), ("conv_pwl", "bn3"))
_DEPTHWISE = (("conv_dw", "bn1"), ("se", ""), ("conv_pw", "bn2"))  # of a block without expansion
_FUSED = (("conv_exp", "bn1"), ("se", ""), ("conv_pwl", "bn2"))
_SINGLE = (("conv", "bn1"),)
_SQUEEZE = {"conv_reduce": "fc1", "conv_expand": "fc2"}
_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}

Names = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def stem_and_head_names(cls: type) -> tuple[tuple[str, str], ...]:
    """timm's names of the first convolution and the classifier, if they differ from torchvision's."""
    found = _family(cls)
    return () if found is None else (found[0],)


def to_torchvision_names(cls: type, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rename timm's tensors to torchvision's names; tensors without timm's names are returned unchanged."""
    found = _family(cls)
    return tensors if found is None else found[1](tensors)


def warn_of_differences(content: Content, tensors: Mapping[str, Any], network: str, cls: type) -> None:
    """Warn if a file's "arch" is another network, or if timm's network computes differently with the tensors."""
    saved = content.value.get("arch") if isinstance(content.value, Mapping) else None
    arch = saved.lower().partition(".")[0] if isinstance(saved, str) else ""
    known = read_name(arch, {network: None})
    if arch and (known is None or known.alias.name != network):
        warn(
            f"'{content.path}' says arch={saved!r}; its weights are loaded into {network}. If the layers differ, "
            "its predictions differ from those of the saved network."
        )
        return
    if to_torchvision_names(cls, tensors) is not tensors and (note := differing_weights(network, arch)):
        warn(f"'{content.path}' has timm's names. {note}")


def _family(cls: type) -> tuple[tuple[str, str], Names] | None:
    return next((_FAMILIES[base.__name__] for base in cls.__mro__ if base.__name__ in _FAMILIES), None)


def _vgg(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    if "head.fc.weight" not in tensors:
        return tensors
    renamed = {}
    for name, value in tensors.items():
        module, _, kind = name.rpartition(".")
        # timm's first two linear layers are convolutions of 7 × 7 and 1 × 1.
        flat = module in _VGG and kind == "weight" and getattr(value, "ndim", 0) == 4
        renamed[f"{_VGG.get(module, module)}.{kind}"] = value.flatten(1) if flat else value
    return dict(sorted(renamed.items()))  # the last linear layer has the number of classes


def _mobile(tensors: Mapping[str, Any], *, one_stage: bool) -> Mapping[str, Any]:
    if "conv_stem.weight" not in tensors:
        return tensors
    layers: dict[tuple[int, int], set[str]] = {}
    for name in tensors:
        if found := _BLOCK.fullmatch(name):
            layers.setdefault((int(found[1]), int(found[2])), set()).add(found[3])
    last = 1 + (len(layers) if one_stage else len({stage for stage, _ in layers}))
    modules = {"conv_stem": "features.0.0", "bn1": "features.0.1", "classifier": "classifier.1"}
    modules |= {"conv_head": f"features.{last}.0", "bn2": f"features.{last}.1"}
    for number, (stage, block) in enumerate(sorted(layers), start=1):
        here = f"features.{number}.conv" if one_stage else f"features.{stage + 1}.{block}.block"
        for theirs, ours in _block_names(layers[stage, block], one_stage):
            modules[f"blocks.{stage}.{block}.{theirs}"] = f"{here}.{ours}"
    named = ((name.rpartition("."), value) for name, value in tensors.items())
    return {f"{modules.get(module, module)}.{kind}": value for (module, _, kind), value in named}


def _block_names(layers: set[str], one_stage: bool) -> Iterator[tuple[str, str]]:
    """(timm's, ours) for each module of a block. MobileNetV2's last convolution and norm are in no Sequential."""
    order = _WIDENED if "conv_pwl" in layers else _DEPTHWISE if "conv_dw" in layers else _SINGLE
    order = _FUSED if "conv_exp" in layers else order
    there = [(layer, norm) for layer, norm in order if layer in layers]
    for i, (layer, norm) in enumerate(there):
        if layer == "se":
            yield from ((f"se.{theirs}", f"{i}.{ours}") for theirs, ours in _SQUEEZE.items())
            continue
        flat = one_stage and i == len(there) - 1
        yield layer, f"{i}" if flat else f"{i}.0"
        yield norm, f"{i + 1}" if flat else f"{i}.1"


_FAMILIES: dict[str, tuple[tuple[str, str], Names]] = {
    "EfficientNet": (("conv_stem", "classifier"), partial(_mobile, one_stage=False)),
    "MobileNetV2": (("conv_stem", "classifier"), partial(_mobile, one_stage=True)),
    "VGG": (("features.0", "head"), _vgg),
}
