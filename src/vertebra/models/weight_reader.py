"""From a weight file to named tensors: safe reading, and the weights among all else that training scripts save.

The file is mapped, not read: the operating system brings in each page when the first forward pass touches it. The
mapping is private, so training writes to memory and never to the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.card import METADATA_KEY, Card
from vertebra.errors import WeightsError, first_line, require_extra, suggest
from vertebra.files import WEIGHT_SUFFIXES, utf8_name

from . import torch_file
from .pickle_reader import InertObject, UnreadableError
from .state_dict import abbreviate

# In the metadata of a safetensors file, beside the card: what `ConvNet.hidden_settings` says, as JSON; and `checksum`.
NETWORK_KEY, CHECKSUM_KEY = "vertebra.network", "vertebra.sha256"
_ADVICE = "Where you trust it, open it with the program that wrote it and save only model.state_dict()."
# What compressed files begin with. They are not unpacked here: a small one can be of any size then.
_COMPRESSED_STARTS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
}
_STATE_DICT = "Save it with torch.save(model.state_dict(), path)."


@dataclass(frozen=True)
class Content:
    """What a weight file holds."""

    path: Path
    value: Any  # mostly a dict; objects that only code could make are `InertObject`
    card: Card | None = None  # what is known of the network, where Vertebra wrote the file
    hidden_settings: Mapping[str, Any] = field(default_factory=dict)  # as `ConvNet.hidden_settings`


def read(path: str | os.PathLike[str], *, mapped: bool = True) -> Content:
    """Read a torch checkpoint or a safetensors file to the CPU, without running any code of the file.

    The first bytes decide the format, not the name. `mapped` maps torch's files copy-on-write: a changed tensor changes
    neither the file nor another reading of it. Overwriting the file in place, as `torch.save` does, would change the
    tensors, so `mapped` is only for files that are replaced as a whole. Safetensors and files older than torch 1.6 are
    copied.

    Raises:
        WeightsError: the path is missing or a folder, is empty, damaged, or not a weight file.
        CardError: its card cannot be read.
    """
    path = Path(path).expanduser()
    if _detect_format(path) == "torch":
        return Content(path, _read_torch(path, mapped))
    return _read_safetensors(path)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file that holds only named tensors, as published files do; else a `WeightsError`."""
    content = read(path)
    return named_tensors(content.value, content.path)


def read_card(path: str | os.PathLike[str]) -> Card | None:
    """Read the card of a weight file without its tensors; None if Vertebra did not write it. Raises as `read`."""
    path = Path(path).expanduser()
    return _card_of(_metadata(path), path) if _detect_format(path) == "safetensors" else None


def check_architecture(card: Card | None, name: str, path: Path) -> None:
    """Raise a `WeightsError` if a file's card names another network."""
    if card is not None and card.architecture != name:
        raise WeightsError(f"'{path}' holds weights of {card.architecture}, not of {name}. Use {card.architecture}.")


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256 of a safetensors file's metadata (without this) and of each tensor's name, type, shape and bytes.

    The format has no checksum, so a changed bit of a weight would go unnoticed.
    """
    import hashlib

    entries = [entry for entry in sorted(metadata.items()) if entry[0] != CHECKSUM_KEY]
    found = hashlib.sha256(json.dumps(entries).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), *tensor.shape]).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _detect_format(path: Path) -> str:
    """The format by the first bytes: "torch" or "safetensors"."""
    head, size = _read_beginning(path)
    if not size:
        raise WeightsError(f"'{path}' is empty. Delete it and fetch it again.")
    # safetensors: the length of a JSON header as 8 bytes, whose first may be that of a pickle; then the header.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= max(size, 100_000_000):
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):  # a zip, or the pickle opcode PROTO
        return "torch"
    packed = next((name for start, name in _COMPRESSED_STARTS.items() if head.startswith(start)), None)
    if packed is not None or head[257:262] == b"ustar":
        raise WeightsError(f"'{path}' is packed with {packed or 'tar'}. Unpack it, and name the weight file in it.")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise WeightsError(f"'{path}' is a web page, not weights: the download gave an error page. Fetch it again.")
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(f"'{path}' is a Git LFS pointer, not the weights. Run: git lfs pull")
    raise WeightsError(
        f"'{path}' is neither a torch checkpoint nor a safetensors file: it begins with {head[:12]!r}. "
        "Fetch or save it again."
    )


def _read_beginning(path: Path) -> tuple[bytes, int]:
    """The first bytes of a regular file, and its size in bytes."""
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in WEIGHT_SUFFIXES)
            found = f" It holds {abbreviate(inside)}." if inside else ""
            raise WeightsError(f"'{path}' is a folder, not a weight file. Name the file.{found}")
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe could wait for ever
            raise WeightsError(f"'{path}' is a pipe or device, not a weight file. Name a file.")
        with path.open("rb") as file:
            return file.read(512), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = [sibling.name for sibling in path.parent.iterdir()]
        hint = suggest(path.name, names) or f"Looked from {Path.cwd()}."
        raise WeightsError(f"There is no weight file '{path}'. {hint}") from None
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def _read_torch(path: Path, mapped: bool) -> Any:
    try:
        return torch_file.read(path, mapped)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        if isinstance(error, UnreadableError) and error.args:
            what, advice = (*error.args, _ADVICE)[:2]
            raise WeightsError(f"'{path}' {what}. {advice}") from error
        foreign, whole = torch_file.bare_pickle(path)
        if foreign:
            raise _unsafe_error(path, foreign) from error
        if whole:
            raise WeightsError(f"'{path}' is a pickle that torch.save did not write. {_STATE_DICT}") from error
        raise _damaged_error(path, error) from error


def _unsafe_error(path: Path, foreign: str) -> WeightsError:
    return WeightsError(
        f"'{path}' was not opened: it holds more than tensors and wants to run '{foreign}', which could be any code. "
        f"{_ADVICE}"
    )


def _damaged_error(path: Path, error: Exception) -> WeightsError:
    cause = first_line(error) if str(error) else "its parts do not fit together"
    return WeightsError(f"'{path}' is damaged or cut short ({cause}). Delete it and fetch or save it again.")


def _read_safetensors(path: Path) -> Content:
    metadata = _metadata(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        # Copied: its tensors may be mapped, and stand at addresses at which kernels add in another order.
        with utf8_name(path) as named:
            tensors = {name: tensor.clone() for name, tensor in load_file(named).items()}
    except (SafetensorError, ValueError, RuntimeError, KeyError, OSError) as error:
        raise _damaged_error(path, error) from error
    _verify_checksum(path, tensors, metadata)
    try:
        settings = json.loads(metadata.get(NETWORK_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise _damaged_error(path, error) from error
    return Content(path, tensors, _card_of(metadata, path), settings if isinstance(settings, dict) else {})


def _verify_checksum(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raise a `WeightsError` if the checksum that Vertebra wrote into the file does not match."""
    wanted = metadata.get(CHECKSUM_KEY)
    # The key itself may be damaged, so any SHA-256 among the values counts.
    lost = wanted is None and any(re.fullmatch("[0-9a-f]{64}", value) for value in metadata.values())
    if lost or (wanted is not None and checksum(tensors, metadata) != wanted):
        raise WeightsError(
            f"'{path}' is damaged, or was changed after Vertebra wrote it: its tensors and its card do not have the "
            "SHA-256 that was written with them. Copy it again from an intact source."
        )


def _metadata(path: Path) -> dict[str, str]:
    with require_extra("torch", f"reading {path.name}"):
        from safetensors import SafetensorError, safe_open
    try:
        with utf8_name(path) as named, safe_open(named, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged_error(path, error) from error


def _card_of(metadata: Mapping[str, str], path: Path) -> Card | None:
    text = metadata.get(METADATA_KEY)
    return None if text is None else Card.from_json(text, str(path))


def named_tensors(value: Any, path: Path) -> dict[str, Tensor]:
    """A mapping as a state dict; a `WeightsError` names the first entry that is not a named tensor."""
    if isinstance(value, InertObject):
        raise _unsafe_error(path, value.name)
    if not isinstance(value, Mapping):
        raise WeightsError(
            f"'{path}' holds one object of type {type(value).__name__}, not named tensors. {_STATE_DICT}"
        )
    tensors: dict[str, Tensor] = {}
    for name, entry in value.items():
        if isinstance(entry, InertObject):
            if state := _UNSUPPORTED_TENSORS.get(entry.name, _UNUSUAL if entry.name.endswith("Storage") else ""):
                raise WeightsError(f"'{path}': entry {name!r} {state}. Save ordinary, dense tensors.")
            raise _unsafe_error(path, entry.name)
        if not isinstance(name, str) or not isinstance(entry, Tensor):
            shown = repr(name) if isinstance(name, str | int | float | bytes | None) else "with a key of many parts"
            raise WeightsError(
                f"'{path}' is not a dict of tensors: its entry {shown} is of type {type(entry).__name__}. {_STATE_DICT}"
            )
        tensors[name] = entry.detach()
    if not tensors:
        raise WeightsError(f"'{path}' holds no tensors. {_STATE_DICT}")
    return tensors


_UNUSUAL = "is of an unusual type"
# Rebuild functions of tensors that no network here can load.
_UNSUPPORTED_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "is sparse or quantized",
    "torch._utils._rebuild_sparse_csr_tensor": "is sparse or quantized",
    "torch._utils._rebuild_qtensor": "is sparse or quantized",
    "torch._utils._rebuild_nested_tensor": "is nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "has no values (meta device)",
    "torch._utils._rebuild_tensor_v3": _UNUSUAL,
}
