"""Forecasts the memory of a training step: saved activations, gradients and optimiser state.

The step runs on the meta device with autograd, and each storage is tracked from the operation that allocates it to the
one before which Python and autograd have freed it. So checkpointing, in-place operations and tensors that are saved
twice count as in torch. The workspace memory of kernels is not included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vertebra.errors import UsageError, suggest
from vertebra.graph.ir import Storage
from vertebra.graph.trace import Recorder, call_network
from vertebra.models import ConvNet

from .network_input import Subject

# Values of optimiser state per trainable parameter.
OPTIMIZERS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step needs, without torch itself and the workspace of kernels."""

    batch_size: int
    optimizer: str
    checkpointing: bool
    parameters: int
    buffers: int
    gradients: int
    optimizer_state: int
    saved_activations: int  # between the forward and the backward pass, with the input
    peak_activations: int  # peak over both passes, without gradients of parameters

    @property
    def total(self) -> int:
        """Peak memory, with the gradients of all parameters."""
        return self.parameters + self.buffers + self.gradients + self.optimizer_state + self.peak_activations

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self) | {"total": self.total}


def forecast_training_memory(subject: Subject, optimizer: str, checkpointing: bool, batch_size: int) -> TrainingMemory:
    """Simulate one step; see `Anatomy.training_memory`."""
    if optimizer not in OPTIMIZERS:
        raise UsageError(
            f"optimizer is {optimizer!r}; it must be one of {', '.join(OPTIMIZERS)}. {suggest(optimizer, OPTIMIZERS)}"
        )
    network = copy.deepcopy(subject.network)
    modes = subject.training_modes  # of each module, if the network was training (norms may be frozen)
    for path, module in network.named_modules():
        module.training = True if modes is None else modes[path]
    if checkpointing:
        if not isinstance(network, ConvNet):
            raise UsageError(
                f"checkpointing=True needs one of Vertebra's networks, and this is a {type(network).__name__}. "
                "Use torch.utils.checkpoint in its forward(); the forecast then includes it."
            )
        network.set_activation_checkpointing(True)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trainable:
        raise UsageError("no parameter of the network requires a gradient, so there is nothing to train.")
    args, kwargs = subject.batch(batch_size)
    saved, peak = _simulate(network, args, kwargs)
    gradients = _nbytes(trainable)
    return TrainingMemory(
        batch_size=batch_size,
        optimizer=optimizer,
        checkpointing=checkpointing,
        parameters=_nbytes(network.parameters()),
        buffers=_nbytes(network.buffers()),
        gradients=gradients,
        optimizer_state=gradients * OPTIMIZERS[optimizer],
        saved_activations=saved,
        peak_activations=peak,
    )


def _simulate(network: nn.Module, args: Any, kwargs: Any) -> tuple[int, int]:
    """Bytes of activations after the forward pass, and their peak over forward and backward."""
    recorder = Recorder(network, with_modules=False)
    with recorder, torch.enable_grad():
        output = call_network(network, args, kwargs)
        forward_ops = len(recorder.nodes)
        losses = [leaf.sum() for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not losses:
            raise UsageError("no output of the network depends on its parameters, so there is nothing to train.")
        sum(losses[1:], losses[0]).backward()  # type: ignore[no-untyped-call]
    trace = recorder.graph((args, kwargs), output)
    # Gradients of parameters are counted separately, for the whole step.
    gradients = {recorder.storage_index(p.grad) for p in network.parameters() if p.grad is not None}
    activations = [s for index, s in enumerate(trace.storages) if s.path is None and index not in gradients]
    live = _bytes_over_time(activations, len(trace.nodes))
    return live[forward_ops], max(live)


def _bytes_over_time(storages: Iterable[Storage], ops: int) -> list[int]:
    """Bytes in memory before each operation, and after the last."""
    change = [0] * (ops + 2)
    for storage in storages:
        change[min(storage.created + 1, ops)] += storage.nbytes
        change[ops + 1 if storage.freed is None else storage.freed] -= storage.nbytes
    return list(accumulate(change[: ops + 1]))


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)
