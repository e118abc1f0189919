"""Named tensors into a network, all or none; and networks built without values, for them.

Building on the meta device (`meta_build`) draws no random numbers that a file would overwrite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from vertebra.errors import WeightsError

_LISTED = 5  # names per kind in an error; a wrong file easily differs in hundreds


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Put named tensors into a network, all or none.

    A network on the meta device takes the given tensors as they are, on torch's default device; a real one is filled in
    place, so an optimizer that holds its parameters stays right. Values are cast to the network's floating type, and
    `requires_grad` stays as the network has it. A missing `num_batches_tracked` (files older than torch 0.4.1) counts
    from 0.

    Args:
        model: the network.
        state_dict: its tensors by name, on any device.
        source: what the error calls them, e.g. the path.

    Raises:
        WeightsError: names are missing or unexpected, or shapes differ: lists them; the network is left as it was.
    """
    load_matched(model, match_state_dict(model, state_dict, source))


def load_matched(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """As `load_state_dict`, of what `match_state_dict` returned."""
    slots = dict(model.state_dict(keep_vars=True))
    aliased = _overlapping(values.values())
    device = torch.get_default_device()
    ready = {}
    for name, value in values.items():
        moved = value.reshape(slots[name].shape).to(device=device, dtype=slots[name].dtype)
        ready[name] = moved.clone() if id(value) in aliased else moved.contiguous()
    on_meta = any(slot.is_meta for slot in slots.values())
    nn.Module.load_state_dict(model, ready, assign=on_meta)  # a network's own renames and checks first


def match_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensor for each name of the network's state dict, in its order; raises as `load_state_dict` does."""
    slots = _slots(model)
    values = {name: state_dict.get(name) for name in slots}
    for name, value in values.items():
        if value is None and name.endswith("num_batches_tracked"):
            # Not zeros_like: on the meta device its first call imports sympy, half a second.
            values[name] = torch.zeros(slots[name].shape, dtype=slots[name].dtype, device="cpu")
    missing = [name for name, value in values.items() if value is None]
    unexpected = [name for name in state_dict if name not in slots]
    differing = [
        f"{name} ({_kind(value)} in the file, {_kind(slots[name])} in the network)"
        for name, value in values.items()
        if value is not None and not _fits(value, slots[name])
    ]
    if missing or unexpected or differing:
        kinds = {"missing in the file": missing, "unknown to the network": unexpected, "of another shape": differing}
        listed = "; ".join(f"{len(names)} {kind}: {abbreviate(names)}" for kind, names in kinds.items() if names)
        raise WeightsError(
            f"The weights '{source}' do not fit {type(model).__name__} with its {len(slots)} tensors: {listed}. "
            "The network is unchanged. Are they the weights of another network (then add --model NAME), or of another "
            "number of classes?"
        )
    return {name: value for name, value in values.items() if value is not None}


def _slots(model: nn.Module) -> dict[str, Tensor]:
    """The network's own tensors by name, in the order of its state dict."""
    slots = dict(model.state_dict(keep_vars=True))
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in slots:
            raise WeightsError(
                f"{type(model).__name__}.{name} is not kept in weight files, so a network built on the meta device "
                "cannot get its values. Build the network off the meta device."
            )
    return slots


def _fits(value: Tensor, slot: Tensor) -> bool:
    # torch < 0.4 had no tensors without dimensions and kept one number as shape (1,).
    same_shape = value.shape == slot.shape or (not slot.dim() and value.shape == (1,))
    # A counter that was cast with all the rest (`{k: v.half()}`) is one number still.
    return same_shape and (value.is_floating_point() == slot.is_floating_point() or not slot.dim())


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _overlapping(tensors: Iterable[Tensor]) -> set[int]:
    """The ids of tensors that share memory with another: taken as they are, training one would change the other."""
    spans = sorted((t.data_ptr(), t.data_ptr() + _extent(t), id(t)) for t in tensors if t.numel())
    shared, end = set(), 0
    for start, stop, key in spans:
        if start < end:
            shared.add(key)
        end = max(end, stop)
    return shared


def _extent(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()


def abbreviate(names: Sequence[str]) -> str:
    """`"a, b and 3 more"`."""
    listed = ", ".join(names[:_LISTED])
    return f"{listed} and {len(names) - _LISTED} more" if len(names) > _LISTED else listed


@contextlib.contextmanager
def meta_build() -> Iterator[None]:
    """Networks built inside are on the meta device and draw no initial weights: for `load_state_dict`, right after.

    `torch.device("meta")` alone still walks through every initialisation: EfficientNetV2-S takes three times as long.
    Only the thread that enters is affected, so another may build a network with values meanwhile.
    """
    with _MetaBuild():
        yield


class _MetaBuild(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        elif func in _CREATING and kwargs.get("device") is None:
            kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)


# What torch.device("meta") turns to the meta device.
_CREATING = frozenset(_device_constructors())
# What initialisation ends in. Functions of nn.init that torch does not hand to a mode call these methods.
_FILLING = frozenset(
    {
        nn.init.constant_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        Tensor.fill_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.zero_,
    }
)
