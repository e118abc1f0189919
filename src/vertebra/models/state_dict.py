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

# --- fitting ---------------------------------------------------------------------------------------------------------


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Put named tensors into a network, all or none.

    Parameters and buffers on the meta device take the given tensors as they are, on torch's default device; real ones
    are filled in place, so an optimizer that holds them stays right. Values are cast to the network's floating type,
    and `requires_grad` stays as the network has it. A missing `num_batches_tracked` (files older than torch 0.4.1)
    counts from 0. State-dict hooks of the modules are not run.

    Args:
        model: the network.
        state_dict: its tensors by name, on any device.
        source: what the error calls them, e.g. the path.

    Raises:
        WeightsError: names are missing or unexpected, or shapes differ: lists them; the network is left as it was.
    """
    values = fitting(model, state_dict, source)
    slots = _slots(model)
    aliased = _overlapping(value for name, value in values.items() if slots[name][2].is_meta)
    device = torch.get_default_device()
    with torch.no_grad():
        # Two loops: what may fail for want of memory comes before the first change.
        ready = {}
        for name, value in values.items():
            slot = slots[name][2]
            ready[name] = value.reshape(slot.shape)
            if slot.is_meta:
                moved = ready[name].to(device=device, dtype=slot.dtype)
                ready[name] = moved.clone() if id(value) in aliased else moved.contiguous()
        for name, value in ready.items():
            module, attribute, slot = slots[name]
            if not slot.is_meta:
                slot.copy_(value)
            elif isinstance(slot, nn.Parameter):
                setattr(module, attribute, nn.Parameter(value, requires_grad=slot.requires_grad))
            else:
                setattr(module, attribute, value)


def fitting(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensor for each name of the network's state dict, in its order.

    Raises:
        WeightsError: as `load_state_dict` does.
    """
    slots = _slots(model)
    # Not zeros_like: on the meta device its first call imports sympy, half a second.
    values = {
        name: state_dict.get(name, torch.zeros(slot.shape, dtype=slot.dtype, device="cpu") if _is_count(name) else None)
        for name, (_, _, slot) in slots.items()
    }
    missing = [name for name, value in values.items() if value is None]
    unexpected = [name for name in state_dict if name not in slots]
    differing = [
        f"{name} ({_kind(value)} in the file, {_kind(slots[name][2])} in the network)"
        for name, value in values.items()
        if value is not None and not _fits(value, slots[name][2])
    ]
    if missing or unexpected or differing:
        kinds = (
            ("missing in the file", missing),
            ("unknown to the network", unexpected),
            ("of another shape", differing),
        )
        listed = "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in kinds if names)
        raise WeightsError(
            f"The weights '{source}' do not fit {type(model).__name__} with its {len(slots)} tensors: {listed}. "
            "The network is unchanged. Are they the weights of another network (then add --model NAME), or of another "
            "number of classes?"
        )
    return {name: value for name, value in values.items() if value is not None}


def _slots(model: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """Every tensor of the state dict by name, in its order: the module that holds it, its name there, and itself."""
    slots: dict[str, tuple[nn.Module, str, Tensor]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                slots[prefix + name] = (module, name, parameter)
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            if name not in module._non_persistent_buffers_set:
                slots[prefix + name] = (module, name, buffer)
            elif buffer.is_meta:
                raise WeightsError(
                    f"{type(model).__name__}.{prefix}{name} is not kept in weight files, so a network built on the "
                    "meta device cannot get its values. Build the network off the meta device."
                )
    return slots


def _is_count(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


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


def some(names: Sequence[str]) -> str:
    """`"a, b and 3 more"`."""
    listed = ", ".join(names[:_LISTED])
    return f"{listed} and {len(names) - _LISTED} more" if len(names) > _LISTED else listed


# --- building --------------------------------------------------------------------------------------------------------


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
