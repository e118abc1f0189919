"""Whether a network still has the values of a weight file: what is said of the file holds for it then alone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError
from vertebra.models import ConvNet, create_model, get_model_weights, list_models
from vertebra.models.weight_reader import read_state_dict
from vertebra.weight_files import cached_path


def cached_file(member: Any) -> Path | None:
    """Where published weights lie on this machine, if they do."""
    try:
        path = cached_path(member.url)
    except VertebraError:
        return None
    return path if path.is_file() else None


def sha256_of(path: Path | None) -> str | None:
    """The SHA-256 of a file, 64 hexadecimal digits; None of no file."""
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_values(source: Any, path: Path | None) -> nn.Module | Mapping[str, Tensor] | None:
    """What is in the file of a named network, or of a member's; None: it cannot be read."""
    if path is None:
        return None
    name: Any = source
    if not isinstance(source, str):
        name = next((name for name in list_models() if get_model_weights(name) is type(source)), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read_state_dict(path) if name is None else create_model(name, weights=path)
        except VertebraError:
            return None


def weights_state(
    network: nn.Module, reference: nn.Module | Mapping[str, Tensor] | None, categories: Sequence[str] | None
) -> str:
    """Whether it is the "same"; "body" where only that was changed; "head" where the classifier was; "unknown"."""
    if reference is None:
        return "unknown"
    mine = network.state_dict()
    wanted = reference.state_dict() if isinstance(reference, nn.Module) else reference
    count = None if categories is None else len(categories)
    heads = [name.rpartition(".")[0] for name, value in wanted.items() if value.ndim >= 2 and len(value) == count]
    classifier = [name for name in wanted if heads and name.rpartition(".")[0] == heads[-1]]
    if not all(_equal(mine.get(name), wanted[name]) for name in classifier):
        return "head"
    # Auxiliary heads run in training alone.
    own = [name for name in mine if not name.startswith(("aux", "AuxLogits")) and not name.endswith(_COUNTER)]
    same = all(name in wanted and _equal(mine[name], wanted[name]) for name in own)
    if isinstance(network, ConvNet) and isinstance(reference, ConvNet):
        same = same and network.hidden_settings == reference.hidden_settings
    return "same" if same else "body"


_COUNTER = "num_batches_tracked"  # which nothing depends on


def _equal(mine: Tensor | None, wanted: Tensor) -> bool:
    """Whether a value is the file's, in whatever precision the network holds it."""
    if mine is None or mine.shape != wanted.shape or mine.is_meta:
        return False
    return torch.equal(mine.detach().cpu(), wanted.detach().to(mine.dtype))
