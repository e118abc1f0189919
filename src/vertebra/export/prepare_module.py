"""An `nn.Module` → the network to export and its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from vertebra.card import Preprocessing
from vertebra.errors import UsageError, warn
from vertebra.models import ConvNet
from vertebra.models.meta_copy import unwrap_module
from vertebra.preprocessing import timm_config

from .classes_argument import require_same_order
from .export_copy import check_exportable, copy_for_export, is_family
from .network_card import PREPROCESSING_OPTIONS, PartialCard, Prepared, fill_card, list_assumptions, merge_preprocessing
from .observed_network import ObservedNetwork
from .weights_info import WeightsInfo, weights_info

_IMAGENET_CLASSES = 1000
_REQUIRED = ("crop_size", "mean", "std")  # fields of a preprocessing that cannot be assumed


class PreprocessingError(UsageError):
    """The preprocessing of a module is unknown or incomplete."""

    def __init__(self, fault: str, python: str, options: str) -> None:
        """`fault` is what is wrong; `python` and `options` say what to give there."""
        super().__init__(f"{fault} {python}", f"{fault} {options}")
        self.fault = fault


def prepare_module(
    model: nn.Module, weights: Any, architecture: str | None, asked: Any, given: PartialCard
) -> Prepared:
    """Build the card of a module; the arguments are those of `prepare`, `asked` its preprocessing."""
    module = unwrap_module(model)
    check_exportable(module)
    if asked is not None and not isinstance(asked, Preprocessing | Mapping):
        asked = Preprocessing.from_weights(asked)  # what weights.transforms() gives
    if weights is None and isinstance(own := getattr(module, "preprocessing", None), Preprocessing):
        asked = merge_preprocessing(asked, own)  # as if it were an argument
    all_given = isinstance(asked, Preprocessing) and given.classes is not None and given.weights is not None
    if all_given and weights is None:
        info = WeightsInfo(architecture or type(module).__name__.lower())
    else:
        info = weights_info(module, weights, architecture)
    preprocessing = _resolve_preprocessing(module, asked, info.fields.preprocessing)
    network = module if isinstance(module, ConvNet) and is_family(module) else copy_for_export(module, preprocessing)
    count = network.num_classes
    if info.outputs not in (None, count):  # whatever the module's num_classes says, its head may be another
        info = replace(
            info,
            fields=replace(info.fields, classes=None),
            unverified_reason=f"it has {count} outputs and {info.source} says {info.outputs}, so it was trained "
            "further, or will be",
            unnamed_reason="its classifier was replaced",
        )
    names = info.fields.classes if info.fields.classes is not None and len(info.fields.classes) == count else None
    if given.classes is not None and names is not None:
        require_same_order(given.classes, names)
    prepared = fill_card(network, info.name, preprocessing, given, replace(info.fields, classes=names))
    if notes := _notes(network, info, list_assumptions(asked, preprocessing, module), given.classes):
        warn(f"the {type(module).__name__} to export: {'; '.join(notes)}.")
    return prepared


def _notes(
    network: ConvNet | ObservedNetwork,
    info: WeightsInfo,
    assumed: Sequence[str],
    classes: Sequence[str] | None,
) -> list[str]:
    """List what is assumed about a module, and what its weights say that may not hold for it."""
    notes, count = [], network.num_classes
    if info.fields.preprocessing is None and assumed:
        notes.append(f"assumed: {', '.join(assumed)}")
    if (
        classes is None
        and info.fields.classes is None
        and isinstance(network, ObservedNetwork)
        and network.linear is None
    ):
        notes.append(
            f"no linear layer gives its {count} outputs, which are assumed to be logits of {count} classes; of a "
            "network without its classifier they are features"
        )
    if info.unverified_reason and assumed:
        notes.append(f"{info.unverified_reason}; taken from {info.source} all the same: {', '.join(assumed)}")
    if classes is None and info.unnamed_reason and (info.fields.classes is None or len(info.fields.classes) != count):
        imagenet = ", or imagenet" if count == _IMAGENET_CLASSES else ""
        why = info.unnamed_reason if info.class_count in (None, count) else f"{info.source} has {info.class_count}"
        notes.append(
            f"the classes are numbers, 0 to {count - 1}, since {why}; classes= (--classes) names them: "
            f"a list, a file{imagenet}"
        )
    return notes


def _resolve_preprocessing(
    module: nn.Module, asked: Preprocessing | Mapping[str, Any] | None, base: Preprocessing | None
) -> Preprocessing:
    """Return the requested preprocessing, with missing fields from `base`."""
    if isinstance(asked, Preprocessing):
        return asked
    if base is not None:
        return merge_preprocessing(asked, base)
    if not asked:
        raise unknown_preprocessing_error(module)
    found = merge_preprocessing(asked, Preprocessing(asked.get("crop_size", 224)))
    if missing := [name for name in _REQUIRED if name not in asked]:
        options = {name: f"--{option}" for option, name in PREPROCESSING_OPTIONS.items()}
        raise PreprocessingError(
            f"the preprocessing of this {type(module).__name__} is incomplete:",
            f"give {_join(missing)} too, or weights= for that of published weights.",
            f"give {_join([options[name] for name in missing])} too, or --weights NAME for that of published weights.",
        )
    return found


def _join(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def unknown_preprocessing_error(network: nn.Module) -> PreprocessingError:
    """Return the error for a module with unknown preprocessing, with what to write."""
    hint, code = "", ""
    for path, part in network.named_modules():
        if path and isinstance(part, ConvNet) and part.origin is not None:
            origin = part.origin
            where = repr(origin.weights) if origin.weights is not None else f"'{origin.file}'"
            hint = f" Its part {path} was created with {where}."
        elif path and not isinstance(part, ConvNet) and timm_config(part) is not None:
            dotted = all(name.isidentifier() for name in path.split("."))
            named = f"model.{path}" if dotted else f"model.get_submodule({path!r})"
            hint = f" Its part {path} is one of timm's."
            code = f"preprocessing=vertebra.Preprocessing.from_timm({named}), or "
        if hint:
            break
    return PreprocessingError(
        f"nothing says how the photos of this {type(network).__name__} are prepared.{hint}",
        f"Give {code}weights=torchvision.models.ResNet50_Weights.IMAGENET1K_V2 or the name of others, or preprocessing="
        "vertebra.Preprocessing(size=224, resize=256, interpolation='bilinear', mean=(0.485, 0.456, 0.406), "
        "std=(0.229, 0.224, 0.225)) with the values that it was trained with.",
        "Give --weights with the name of published ones, such as ResNet50_Weights.IMAGENET1K_V2, or --size, --mean and "
        "--std (--resize, --interpolation) with the values that it was trained with.",
    )
