"""The value of every operation of a network on an image, and what each channel contributes to a class score.

The network runs once and its ATen operations are written down; they are then run again, one by one, with gradients.
So every value of a `Row` can be had, also of sums, concatenations and gates, which are not modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from vertebra.errors import VertebraError
from vertebra.graph.ir import Graph
from vertebra.graph.rows import rows_by_node
from vertebra.graph.trace import OperationMode, operation_of

from .preserve import preserved


@dataclass(frozen=True)
class Contributions(Sequence[Tensor | None]):
    """Gradient × value by row, multiplied when asked for: both are as large as all maps of the network together."""

    outputs: list[Tensor]
    gradients: list[Tensor | None]

    def __len__(self) -> int:
        return len(self.gradients)

    @overload
    def __getitem__(self, row: int) -> Tensor | None: ...
    @overload
    def __getitem__(self, row: slice) -> list[Tensor | None]: ...
    def __getitem__(self, row: int | slice) -> Tensor | list[Tensor | None] | None:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        gradient = self.gradients[row]
        return None if gradient is None else gradient * self.outputs[row].detach()


@dataclass(frozen=True)
class OperationValues:
    """The values of a network's operations on one image; lists are by the index of the row."""

    image: Tensor  # (1, C, H, W), requires a gradient
    outputs: list[Tensor]  # with their graph of gradients
    operands: list[tuple[Tensor, ...]]  # what the operation reads besides weights, in the order of its arguments
    weights: list[tuple[Tensor, ...]]  # parameters and buffers that it reads
    arguments: list[dict[str, Any]]  # all that it is called with, by ATen's names, with defaults
    result: Tensor  # of the network

    def gradients(self, score: Tensor) -> list[Tensor | None]:
        """Of a score by each row's output; None where it does not depend on it."""
        wanted = [output for output in self.outputs if output.requires_grad]
        found = iter(torch.autograd.grad(score, wanted, retain_graph=True, allow_unused=True))
        return [next(found) if output.requires_grad else None for output in self.outputs]

    def contributions(self, score: Tensor) -> Contributions:
        """Gradient × value of each row's output: what it contributes to a score, to first order; None: no gradient.

        Summed over the positions of a channel it is that channel's contribution (Shrikumar et al. 2016,
        https://arxiv.org/abs/1605.01713); at the classifier's input these sums are exact.
        """
        return Contributions(self.outputs, self.gradients(score))


def operation_values(network: nn.Module, graph: Graph, image: Tensor) -> OperationValues:
    """Run a network on an image (1, C, H, W), and keep the value of each operation of its graph.

    The network is in eval mode meanwhile, on the device where it is. Needs about the memory of a training step.

    Raises:
        VertebraError: other operations run on the image than on the meta device, where the graph was recorded; the
            network returns no tensor, or writes into parts of tensors.
    """
    image = image.contiguous()  # as on the meta device: with other strides a flattening is a copy
    tape = _Tape()
    with run_as_traced(network):
        copy = tape.input(image)
        with tape:
            result = network(copy)
    if not isinstance(result, Tensor) or id(result) not in tape.slots:
        raise VertebraError(f"the network returns a {type(result).__name__}; a tensor of logits is needed.")
    slot = tape.slots[id(result)]
    tape.kept.clear()
    rows = rows_by_node(graph)
    require_operations(len(tape.steps), graph)
    values: dict[int, Tensor] = {0: image.detach().clone().requires_grad_()}
    outputs: list[Tensor] = []
    operands: list[tuple[Tensor, ...]] = []
    weights: list[tuple[Tensor, ...]] = []
    arguments: list[dict[str, Any]] = []
    for step, node in zip(tape.steps, graph.nodes, strict=True):
        reads, constants, named = step.run(values)
        if id(node) in rows:
            outputs.append(values[step.results[0]])
            operands.append(reads)
            weights.append(constants)
            arguments.append(named)
    if not torch.allclose(values[slot], result, rtol=0, atol=0, equal_nan=True):
        raise VertebraError(
            "the operations of the network give another result when they are run one by one. Does its forward() write "
            "into a part of a tensor (x[:, 0] = …) or into one that is used elsewhere?"
        )
    return OperationValues(values[0], outputs, operands, weights, arguments, values[slot])


@contextmanager
def run_as_traced(network: nn.Module) -> Iterator[None]:
    """Within the block the network runs in eval mode without gradients, by the operations that `graph.trace` records.

    Fused attention, which the meta device does not have, is switched off.
    """
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with preserved(network), torch.inference_mode(False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            network.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)


def require_operations(count: int, graph: Graph) -> None:
    """Raise a `VertebraError` if a run had another number of operations than its graph."""
    if count != len(graph.nodes):
        raise VertebraError(
            f"the network runs {count} operations on images and {len(graph.nodes)} on the meta device, so they cannot "
            "be matched. Does its forward() depend on values, on the batch or on the device, or write into parts of "
            "tensors (x[:, 0] = …)?"
        )


@dataclass(frozen=True)
class _Slot:
    """Stands for the value of an earlier operation; 0 is the image."""

    index: int


@dataclass(frozen=True)
class _Step:
    """One operation: a function, its arguments with `_Slot` for values, and where its results go."""

    function: Any  # an OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]
    writes: bool  # into its first argument

    def run(self, values: dict[int, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], dict[str, Any]]:
        """Run it with gradients; what it reads of values and of constants, and all of its arguments."""
        reads: list[Tensor] = []

        def read(slot: _Slot) -> Tensor:
            reads.append(values[slot.index])
            return values[slot.index]

        args, kwargs = tree_map_only(_Slot, read, (self.args, self.kwargs))
        constants: list[Tensor] = []
        tree_map_only(Tensor, constants.append, (self.args, self.kwargs))
        named = operation_of(self.function).named(args, kwargs)
        if self.writes:  # a copy takes it, since what was there before is still to be seen
            args = (args[0].clone(), *args[1:])
        with torch.enable_grad():
            made = self.function(*args, **kwargs)
        for slot, value in zip(self.results, _tensors(made), strict=True):
            values[slot] = value
        return tuple(reads), tuple(constants), named


class _Tape(OperationMode):  # type: ignore[no-untyped-call]
    """Writes down the operations of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self.slots: dict[int, int] = {}  # id of a tensor → its slot
        self.kept: list[Tensor] = []  # so that no id is used twice
        self._count = 0

    def input(self, image: Tensor) -> Tensor:
        """A copy of the image, whose slot is 0."""
        copy = image.detach().clone()
        self._add(copy)
        return copy

    def _add(self, tensor: Tensor) -> int:
        index, self._count = self._count, self._count + 1
        self.slots[id(tensor)] = index
        self.kept.append(tensor)
        return index

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}

        def stand_in(tensor: Tensor) -> Any:
            return _Slot(self.slots[id(tensor)]) if id(tensor) in self.slots else tensor.detach()

        written = tree_map_only(Tensor, stand_in, (args, kwargs))
        made = func(*args, **kwargs)
        writes = func._schema.is_mutable and bool(args) and made is args[0]
        results = tuple(self._add(tensor) for tensor in _tensors(made))
        self.steps.append(_Step(func, written[0], written[1], results, writes))
        return made


def _tensors(made: Any) -> Sequence[Tensor]:
    values = made if isinstance(made, tuple | list) else (made,)
    return [value for value in values if isinstance(value, Tensor)]
