"""The files that the backends run: an exported file and, for torch, its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.card import Preprocessing, read_card
from vertebra.errors import UsageError, require_extra
from vertebra.loading import exported_file
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.model_checksum import read_verified_card


@dataclass(frozen=True)
class NetworkFiles:
    """The files of one network."""

    name: str
    exported: str  # an exported file
    weights: str | None = None  # a state dict; None if an exported file was given

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing in the card of the exported file."""
        return read_card(self.exported).preprocessing

    def network(self) -> Any:
        """The network in torch, in eval mode."""
        from vertebra import create_model

        if self.weights is None:
            raise UsageError("needs the name of a network, and this is a file")
        return create_model(self.name, weights=self.weights).eval()


def network_files(model: str, folder: Path) -> NetworkFiles:
    """The files of a MODEL argument. A network by name gets random weights and is exported to `folder`."""
    argument = resolve_model(model, "bench")
    if argument.kind is not ModelKind.NETWORK:
        path = exported_file(argument, scratch=folder)
        read_verified_card(path)
        name = path.name if argument.kind is ModelKind.EXPORTED else argument.name
        return NetworkFiles(name, os.fspath(path.resolve()))
    with require_extra("torch", f"timing a network by its name ({argument.name!r})"):
        import torch

        from vertebra.export import export, prepare
    torch.manual_seed(0)
    prepared = prepare(argument.network, weights=None)
    exported, weights = (os.fspath(folder / f"{argument.name}{suffix}") for suffix in (".onnx", ".pth"))
    torch.save(prepared.network.state_dict(), weights)
    export(prepared, exported)
    return NetworkFiles(argument.name, exported, weights)
