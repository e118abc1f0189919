"""What the backends run: an exported file and, for torch, the weights that it was made from."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from vertebra.card import Preprocessing, read_card
from vertebra.errors import needing
from vertebra.loading import exported_file
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.model_checksum import checked_card


@dataclasses.dataclass(frozen=True)
class Files:
    """A network in the forms that backends take."""

    name: str
    exported: str  # what `vertebra export` writes
    weights: str | None = None  # the state dict; None: only the file is there

    @property
    def preprocessing(self) -> Preprocessing:
        """From a picture to the network's input."""
        return read_card(self.exported).preprocessing

    def as_json(self) -> dict[str, Any]:
        """For another process."""
        return dataclasses.asdict(self)


def files_of(model: str, folder: Path) -> Files:
    """An exported file as it is; a named network with weights drawn at random, exported into a folder.

    Raises:
        MissingExtraError: a name, and torch is not installed.
        UsageError, VertebraError: there is no such network, or no such file.
    """
    argument = resolve_model(model, "bench")
    if argument.kind is not ModelKind.NETWORK:
        path = exported_file(argument, scratch=folder)
        checked_card(path)
        return Files(argument.name if argument.kind is not ModelKind.EXPORTED else path.name, os.fspath(path.resolve()))
    model = argument.name
    with needing("torch", f"timing a network by its name ({model!r})"):
        import torch

        from vertebra.export import export, prepare
    torch.manual_seed(0)
    prepared = prepare(argument.network, weights=None)
    exported, weights = (os.fspath(folder / f"{model}{suffix}") for suffix in (".onnx", ".pth"))
    torch.save(prepared.network.state_dict(), weights)
    export(prepared, exported)
    return Files(model, exported, weights)
