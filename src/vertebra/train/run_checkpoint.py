"""Checkpoints of a training run, written atomically.

Tensors and JSON in the safetensors format, without code. Random states are not stored: they follow from the seed and
the step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vertebra.files import atomic_write, utf8_name

from .distributed import Distributed
from .run_folder import BEST, CHECKPOINT, TrainError, resumable_write


@dataclass
class TrainingState:
    """The progress of a run."""

    step: int = 0
    seconds: float = 0.0  # since the start, preparing included
    best_step: int = 0
    best_score: float = -1.0  # validation accuracy
    best_loss: float = float("inf")
    epochs_since_best: int = 0
    epoch_sums: list[float] = field(default_factory=lambda: [0.0] * 3)  # `StepMetrics.sums`
    finished: bool = False
    classes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


def save(
    folder: Path,
    state: TrainingState,
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    averaged: Mapping[str, Tensor],
    distributed: Distributed,
) -> None:
    """Write a checkpoint; every process must call it, rank 0 writes."""
    tensors = {f"network.{name}": _to_cpu(tensor) for name, tensor in network.state_dict().items()}
    tensors |= {f"averaged.{name}": _to_cpu(tensor) for name, tensor in averaged.items()}
    if optimizer is not None:
        for name, parameter in network.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{key}.{name}"] = _to_cpu(value)
    with distributed.raise_together():
        if not distributed.is_first:
            return
        _write(folder / CHECKPOINT, tensors, {"position": json.dumps(asdict(state))})
        for old in folder.glob(BEST.format("*")):
            if old != best_file(folder, state.best_step):
                with contextlib.suppress(OSError):  # removed when the run is finished
                    old.unlink()


def save_best(folder: Path, step: int, weights: Mapping[str, Tensor], distributed: Distributed) -> None:
    """Write the best weights; they are used once a checkpoint names their step."""
    tensors = {name: _to_cpu(tensor) for name, tensor in weights.items()}
    with distributed.raise_together():
        if distributed.is_first:
            _write(best_file(folder, step), tensors, {})


def best_file(folder: Path, step: int) -> Path:
    """Return the path of the best weights, of this step."""
    return folder / BEST.format(step)


def read_state(folder: Path) -> TrainingState:
    """Read the state from a checkpoint, without its tensors."""
    try:
        with utf8_name(folder / CHECKPOINT) as path, safe_open(path, "pt") as file:
            return TrainingState(**json.loads(file.metadata()["position"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged_error(folder / CHECKPOINT, error) from error


def load_best(folder: Path, step: int) -> dict[str, Tensor]:
    """Read the best weights, of this step."""
    return _read(best_file(folder, step))[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read and verify tensors and metadata."""
    try:
        with utf8_name(path) as named, safe_open(named, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged_error(path, error) from error
    # Checkpoints of earlier versions have no digest.
    if metadata.get("sha256", digest := _digest(tensors, metadata)) != digest:
        raise _damaged_error(path, "it is damaged: its SHA-256 is another than when it was written")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of tensors and state, in 64 hex digits."""
    digest = hashlib.sha256(metadata.get("position", "").encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged_error(path: Path, error: Exception | str) -> TrainError:
    return TrainError(f"{path} cannot be used ({error}). Start a new run, or put the file back.")


def load(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, averaged: dict[str, Tensor] | None
) -> TrainingState:
    """Load a checkpoint into the network, the optimiser and the averaged weights (None: there are none)."""
    state = read_state(folder)
    stored, _ = _read(folder / CHECKPOINT)
    try:
        for name, tensor in network.state_dict().items():
            tensor.copy_(stored[f"network.{name}"])
            if averaged is not None:
                averaged[name] = tensor.clone().copy_(stored.get(f"averaged.{name}", tensor))
        for name, parameter in network.named_parameters():
            keys = [k for k in stored if k.startswith("optimizer.") and k.split(".", 2)[2] == name]
            if keys and parameter.requires_grad:
                optimizer.state[parameter] = {k.split(".")[1]: _match_layout(stored[k], parameter) for k in keys}
        _add_missing_states(optimizer)
    except (KeyError, RuntimeError) as error:
        raise _damaged_error(folder / CHECKPOINT, error) from error
    return state


def _add_missing_states(optimizer: torch.optim.Optimizer) -> None:
    """Add the state of parameters that were frozen when the checkpoint was written: zeros, as before a first step.

    Fused steps want the state of all parameters of a group, or of none.
    """
    found: dict[str, Tensor] = next(iter(optimizer.state.values()), {})
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if found and parameter.requires_grad and parameter not in optimizer.state:
                optimizer.state[parameter] = {
                    name: torch.zeros_like(value if value.ndim == 0 else parameter, requires_grad=False)
                    for name, value in found.items()
                }


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _match_layout(value: Tensor, parameter: Tensor) -> Tensor:
    """Copy to the parameter's device and memory layout, as fused optimiser steps require."""
    if value.ndim == 0:  # a count of steps
        return value.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata = metadata | {"sha256": _digest(tensors, metadata)}
    with resumable_write(path, SafetensorError), atomic_write(path, durable=True) as temporary:
        save_file(tensors, temporary, metadata)
