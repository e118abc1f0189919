"""From a weight file to a network: safe reading, exact fitting, no wasted work.

Building on the meta device (`meta_build`) draws no random numbers that the file would overwrite, and the file is
mapped, not read: the operating system brings in each page when the first forward pass touches it. The mapping is
private, so training writes to memory and never to the file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import pickletools
import re
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from vertebra.errors import WeightsError, first_line, nearest

from . import _torchfile

SUFFIXES = (".pth", ".pt", ".safetensors")

# Where training scripts keep the weights among optimizer and epoch; the averaged copy is the one they evaluate.
_NESTED_KEYS = ("model_ema", "state_dict", "model")
# What DistributedDataParallel / AveragedModel and torch.compile put before every name.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# AveragedModel's counter stands beside the weights and is none.
_WRAPPER_ENTRIES = ("n_averaged",)
_LISTED = 5  # names per kind in an error; a wrong file easily differs in hundreds


# --- reading ---------------------------------------------------------------------------------------------------------


def read_state_dict(path: str | os.PathLike[str], *, mapped: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a `.pth`, `.pt` or `.safetensors` file, on the CPU, without running any code of the file.

    `mapped` maps torch's files copy-on-write: changing a tensor changes neither the file nor another reading of it.
    But whoever writes into the file itself, as `torch.save` to the same path does, takes the pages away from under the
    tensors; so it is for files that are only ever replaced as a whole. Files older than torch 1.6 and safetensors are
    copied. A dict that keeps the weights under `model_ema`, `state_dict` or `model` is unwrapped, and a `module.`
    before every name is taken off.

    Raises:
        WeightsError: the path is missing or a folder, has another suffix, is empty, damaged, not a weight file, holds
            something else than named tensors, or would have to run code to be opened.
    """
    path = Path(path).expanduser()
    kind = _kind_of(path)
    content = _read_safetensors(path) if kind == "safetensors" else _read_torch(path, mapped and kind == "zip")
    return _named_tensors(content, path)


def _kind_of(path: Path) -> str:
    """Judge by the first bytes: "zip", "legacy" or "safetensors". An error where name and content do not agree."""
    head, size = _beginning(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        allowed = ", ".join(SUFFIXES)
        raise WeightsError(
            f"'{path}' ends in '{path.suffix}'; weight files end in one of {allowed}. Rename or convert it."
        )
    if not size:
        raise WeightsError(f"'{path}' is empty. Delete it and fetch it again.")
    kind = _kind_of_content(head, size)
    if kind is None:
        text = head.lstrip().lower()
        if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
            raise WeightsError(f"'{path}' is a web page, not weights: the download gave an error page. Fetch it again.")
        if text.startswith(b"version https://git-lfs"):
            raise WeightsError(f"'{path}' is a Git LFS pointer, not the weights. Run: git lfs pull")
        raise WeightsError(
            f"'{path}' is neither a torch checkpoint nor a safetensors file: it begins with {head[:12]!r}. "
            "Fetch or save it again."
        )
    if (kind == "safetensors") != (suffix == ".safetensors"):
        is_one, right = (
            ("a safetensors file", ".safetensors") if kind == "safetensors" else ("a torch checkpoint", ".pth")
        )
        raise WeightsError(f"'{path}' is {is_one} with the wrong ending. Rename it to '{path.stem}{right}'.")
    return kind


def _beginning(path: Path) -> tuple[bytes, int]:
    """The first bytes of a regular file, and its size in bytes."""
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            found = f" It holds {_some(inside)}." if inside else ""
            raise WeightsError(f"'{path}' is a folder, not a weight file. Name the file.{found}")
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe could wait for ever
            raise WeightsError(f"'{path}' is a pipe or device, not a weight file. Name a file.")
        with path.open("rb") as file:
            return file.read(64), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = [sibling.name for sibling in path.parent.iterdir()]
        hint = nearest(path.name, names) or f"Looked from {Path.cwd()}."
        raise WeightsError(f"There is no weight file '{path}'. {hint}") from None
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def _kind_of_content(head: bytes, size: int) -> str | None:
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    # safetensors: the length of a JSON header as 8 bytes, then the header.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= max(size, 100_000_000):
        return "safetensors"
    if head.startswith(b"\x80"):  # the pickle opcode PROTO
        return "legacy"
    return None


def _read_torch(path: Path, mapped: bool) -> Any:
    content = _torchfile.read(path, mapped)
    if content is not None:
        return content
    try:
        with warnings.catch_warnings(), _private_mapping() if mapped else contextlib.nullcontext():
            warnings.simplefilter("ignore")  # what torch would say of the file comes in the error
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise _refused(path, error) or WeightsError(
            f"'{path}' is damaged or cut short ({_cause(error)}). Delete it and fetch or save it again."
        ) from error


def _private_mapping() -> contextlib.AbstractContextManager[Any]:
    """Copy-on-write also where the program asked torch for shared mappings: those would train into the file."""
    if sys.platform == "win32" or torch.serialization.get_default_mmap_options() == mmap.MAP_PRIVATE:
        return contextlib.nullcontext()
    return torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE)


def _refused(path: Path, error: Exception) -> WeightsError | None:
    """The error for a file that is sound but holds more than tensors, or None."""
    message = str(error)
    advice = "Where you trust it, open it with the program that wrote it and save only model.state_dict()."
    if "TorchScript" in message:
        return WeightsError(f"'{path}' is a TorchScript program, not a state dict. {advice}")
    if not isinstance(error, pickle.UnpicklingError):
        return None
    if wanted := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message):
        return WeightsError(
            f"'{path}' was not opened: it holds more than tensors and wants to run '{wanted[1]}', "
            f"which could be any code. {advice}"
        )
    if foreign := _foreign_name(path):
        return WeightsError(
            f"'{path}' was not opened: it holds more than tensors and wants to run '{foreign}', which could be any "
            f"code. {advice}"
        )
    if re.search(r"reduce for unrecognized function|Can only (?:create|build)|must be imported to load", message):
        return WeightsError(f"'{path}' was not opened: it holds more than tensors ({_cause(error)}). {advice}")
    return None


def _foreign_name(path: Path) -> str | None:
    """The first thing that a bare pickle would call and that no state dict needs. It is only looked at, not run."""
    words: list[str] = []
    with contextlib.suppress(Exception), path.open("rb") as file:  # a damaged pickle ends the look
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                words = str(argument).split(" ")
            elif opcode.name != "STACK_GLOBAL":
                if isinstance(argument, str):
                    words = [*words[-1:], argument]
                continue
            if words and words[0].partition(".")[0] not in ("torch", "collections"):
                return ".".join(words)
    return None


def _cause(error: Exception) -> str:
    # Torch's own preface about `weights_only` says nothing of the file; the cause stands last.
    cause = next((line for line in str(error).splitlines() if "WeightsUnpickler error" in line), None)
    return first_line(error) if cause is None else cause.rpartition("WeightsUnpickler error: ")[2][:200].rstrip(". ")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise WeightsError(f"'{path}' needs the package safetensors. Run: pip install safetensors") from None
    try:
        # Copied: its tensors may be mapped, and stand at addresses at which kernels add in another order.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, ValueError, RuntimeError, KeyError, OSError) as error:
        raise WeightsError(
            f"'{path}' is damaged or cut short ({_cause(error)}). Delete it and fetch or save it again."
        ) from error


def _named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in _NESTED_KEYS:
            nested = content.get(key)
            if isinstance(nested, Mapping) and any(isinstance(value, Tensor) for value in nested.values()):
                content = nested
                break
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"'{path}' holds one object of type {type(content).__name__}, not named tensors. "
            "Save it with torch.save(model.state_dict(), path)."
        )
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"'{path}' is not a dict of tensors: its entry {name!r} is of type {type(value).__name__}. "
                "Save it with torch.save(model.state_dict(), path)."
            )
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            state = "has no values (meta device)" if value.is_meta else "is sparse or quantized"
            raise WeightsError(f"'{path}': entry {name!r} {state}. Save ordinary, dense tensors.")
        tensors[name] = value.detach()
    if not tensors:
        raise WeightsError(f"'{path}' holds no tensors. Save it with torch.save(model.state_dict(), path).")
    return _unprefixed(tensors)


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _WRAPPER_PREFIXES:
        weights = {name: value for name, value in tensors.items() if name not in _WRAPPER_ENTRIES}
        if weights and all(name.startswith(prefix) for name in weights):
            tensors = {name.removeprefix(prefix): value for name, value in weights.items()}
    return tensors


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
        listed = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names)
        raise WeightsError(
            f"The weights '{source}' do not fit {type(model).__name__} with its {len(slots)} tensors: {listed}. "
            "The network is unchanged. Are they the weights of another network, or of another number of classes?"
        )

    fitting = {name: value for name, value in values.items() if value is not None}
    aliased = _overlapping(value for name, value in fitting.items() if slots[name][2].is_meta)
    device = torch.get_default_device()
    with torch.no_grad():
        # Two loops: what may fail for want of memory comes before the first change.
        ready = {}
        for name, value in fitting.items():
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


def _some(names: Sequence[str]) -> str:
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
