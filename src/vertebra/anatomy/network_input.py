"""Builds a network and its inputs on the meta device from the arguments of `inspect`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from vertebra.errors import UsageError, require_positive_int
from vertebra.model_argument import ModelArgument, ModelKind, resolve_model
from vertebra.models import ConvNet, create_model, get_model, get_model_weights
from vertebra.models.meta_copy import META, meta_like, to_meta
from vertebra.models.state_dict import meta_build
from vertebra.models.weight_reader import read_card

DEFAULT_SIZE = 224
# As its published weights are loaded: without auxiliary heads, which run in training alone. With these there would be
# 13.0 M parameters instead of the published 6.6 M.
AS_PUBLISHED = {"googlenet": {"aux_logits": False, "transform_input": True}}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Subject:
    """A network and its inputs on the meta device."""

    name: str
    network: nn.Module  # in eval mode
    training_modes: dict[str, bool] | None  # of each module, if the given network was in training mode
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch_size: int
    dtype: torch.dtype

    def batch(self, size: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs with this batch size."""

        def resized(value: Tensor) -> Tensor:
            return value.new_empty((size, *value.shape[1:])) if value.shape[:1] == (self.batch_size,) else value

        args, kwargs = tree_map_only(Tensor, resized, (self.args, self.kwargs))
        return args, kwargs


def prepare(
    model: nn.Module | str | os.PathLike[str],
    input_size: int | Sequence[int] | None,
    batch_size: int,
    dtype: torch.dtype | str | None,
    inputs: Any,
) -> Subject:
    """Build or copy the network on the meta device, and create its inputs."""
    require_positive_int("batch_size", batch_size)
    dtype = _check_dtype(dtype)
    modes = None
    if isinstance(model, str | os.PathLike):
        name, network, default_size = _build_on_meta(resolve_model(model, "inspect"), dtype)
    elif isinstance(model, nn.Module):
        network = to_meta(model, dtype)
        name, default_size = type(network).__name__, DEFAULT_SIZE
        if model.training:
            modes = {path: module.training for path, module in model.named_modules()}
    else:
        raise UsageError(f"model is a {type(model).__name__}; it must be a torch.nn.Module or a name, as 'resnet50'.")
    own = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    if inputs is None:
        shape = _image_shape(network, input_size, default_size)
        args: tuple[Any, ...] = (torch.empty((batch_size, *shape), dtype=dtype or own, device=META),)
        return Subject(name, network, modes, args, {}, batch_size, dtype or own)
    if input_size is not None:
        raise UsageError("input_size and inputs are both given. Leave input_size out: inputs have a size.")
    args, kwargs = _inputs_on_meta(inputs, dtype)
    first = next((value for value in [*args, *kwargs.values()] if isinstance(value, Tensor) and value.ndim), None)
    return Subject(name, network, modes, args, kwargs, 1 if first is None else first.shape[0], dtype or own)


def _build_on_meta(model: ModelArgument, dtype: torch.dtype | None) -> tuple[str, nn.Module, int]:
    """The name of a MODEL argument, its network on the meta device, and the side of its images."""
    if model.kind is ModelKind.NETWORK:
        weights = get_model_weights(model.network)["DEFAULT"]
        with meta_build():
            built: nn.Module = get_model(model.network, **AS_PUBLISHED.get(model.network, {})).eval()
        return model.name, built.to(dtype) if dtype is not None else built, weights.preprocessing.crop_size
    if model.kind is ModelKind.FUNCTION:
        return model.name, to_meta(model.call(), dtype), DEFAULT_SIZE
    if model.kind is ModelKind.EXPORTED:
        raise UsageError(
            f"{model.path} is an ONNX file, not a network. `vertebra inspect FILE.onnx` counts its operations, and in "
            "Python vertebra.graph.file_profile.profile_file."
        )
    path = model.weight_file
    card = read_card(path)
    if card is None:
        raise UsageError(
            f"{path} does not name its network, so it cannot be built. Inspect the network by its name: "
            "vertebra inspect NAME (`vertebra models` lists all)."
        )
    network = create_model(card.architecture, weights=path)
    return f"{model.name} ({card.architecture})", to_meta(network, dtype), card.preprocessing.crop_size


def _check_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise UsageError(f"dtype is {dtype!r}; it must be one of {', '.join(_DTYPES)}.")
        return _DTYPES[dtype]
    if dtype is not None and not dtype.is_floating_point:
        raise UsageError(f"dtype is {dtype!r}; it must be a floating-point type, such as torch.float16.")
    return dtype


def _image_shape(network: nn.Module, size: int | Sequence[int] | None, default: int) -> tuple[int, ...]:
    """(C, H, W) from an int, (H, W) or (C, H, W)."""
    first = (module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    channels = network.in_channels if isinstance(network, ConvNet) else next(first, 3)
    size = default if size is None else size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) not in (2, 3) or any(type(side) is not int or side < 1 for side in sides):
        raise UsageError(
            f"input_size is {size!r}; it must be one side in pixels (224), (height, width), or "
            "(channels, height, width). For other inputs use inputs=."
        )
    return sides if len(sides) == 3 else (channels, *sides)


def _inputs_on_meta(inputs: Any, dtype: torch.dtype | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def on_meta(value: Any) -> Any:
        return tree_map_only(Tensor, lambda tensor: meta_like(tensor, dtype), value)

    if isinstance(inputs, Mapping):
        return (), {name: on_meta(value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(map(on_meta, inputs)), {}
    if isinstance(inputs, Tensor):
        return (on_meta(inputs),), {}
    raise UsageError(
        f"inputs is a {type(inputs).__name__}; it must be a tensor, a tuple of tensors or a dict by name. "
        "Values are not used, so tensors on device='meta' will do."
    )
