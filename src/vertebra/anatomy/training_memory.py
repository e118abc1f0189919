"""Memory of a training step: what the forward pass keeps for the backward pass, gradients, optimiser state.

The step is run on the meta device with autograd, and each piece of memory is followed from the operation that
allocates it to the one before which Python and autograd have released it. So checkpointing, in-place operations and
tensors that are saved twice are counted as torch counts them. The scratch memory of single kernels is not known here.
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
from vertebra.graph.trace import Recorder, call
from vertebra.models import ConvNet

from .network_input import Subject

# State of the optimiser, in values per trainable parameter.
OPTIMIZERS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step needs, apart from torch itself and the scratch memory of its kernels."""

    batch_size: int
    optimizer: str
    checkpointing: bool
    parameters: int
    buffers: int
    gradients: int
    optimizer_state: int
    saved_activations: int  # held between the forward and the backward pass, with the input
    peak_activations: int  # at the worst moment of the two passes, without gradients of parameters

    @property
    def total(self) -> int:
        """At the worst moment, when the gradients of all parameters are there from the step before or this one."""
        return self.parameters + self.buffers + self.gradients + self.optimizer_state + self.peak_activations

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self) | {"total": self.total}


def forecast_training_memory(subject: Subject, optimizer: str, checkpointing: bool, batch_size: int) -> TrainingMemory:
    """Simulate one step; see `Anatomy.training_memory`."""
    if optimizer not in OPTIMIZERS:
        raise UsageError(
            f"optimizer is {optimizer!r}; it must be one of {', '.join(OPTIMIZERS)}. {suggest(optimizer, OPTIMIZERS)}"
        )
    network = copy.deepcopy(subject.network)
    modes = subject.training_modes  # those of the modules where the network was training (with frozen norms, say)
    for path, module in network.named_modules():
        module.training = True if modes is None else modes[path]
    if checkpointing:
        if not isinstance(network, ConvNet):
            raise UsageError(
                f"checkpointing=True is a switch of Vertebra's networks, and this is a {type(network).__name__}. "
                "Put torch.utils.checkpoint into its forward(); the forecast then includes it."
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
    """Bytes held after the forward pass, and at the worst moment of forward and backward."""
    recorder = Recorder(network)
    with recorder, torch.enable_grad():
        output = call(network, args, kwargs)
        forward_ops = len(recorder.nodes)
        losses = [leaf.sum() for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not losses:
            raise UsageError("no output of the network depends on its parameters, so there is nothing to train.")
        sum(losses[1:], losses[0]).backward()  # type: ignore[no-untyped-call]
    trace = recorder.graph((args, kwargs), output)
    # Gradients of parameters are counted apart, from the beginning.
    gradients = {recorder.index_of(p.grad) for p in network.parameters() if p.grad is not None}
    mine = [s for index, s in enumerate(trace.storages) if s.path is None and index not in gradients]
    held = _held(mine, len(trace.nodes))
    return held[forward_ops], max(held)


def _held(storages: Iterable[Storage], ops: int) -> list[int]:
    """Bytes held when each operation begins, and after the last."""
    change = [0] * (ops + 2)
    for storage in storages:
        change[min(storage.created + 1, ops)] += storage.nbytes
        change[ops + 1 if storage.freed is None else storage.freed] -= storage.nbytes
    return list(accumulate(change[: ops + 1]))


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)
