"""What the ONNX operators of a network are collected in: nodes, weights, constants and their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.errors import UsageError

from .ir import Graph, Node, Tensor

Array: TypeAlias = NDArray[Any]


class UnwritableError(UsageError):
    """A network does something that is not written as ONNX here."""


class OnnxBuilder:
    """Collects nodes and weights for the operations of a graph, one after the other.

    Args:
        graph: of the network, with ATen's operations.
        tensors: its parameters and buffers by their paths, as torch tensors.
        prefix: of these paths and those of modules, left out in the names of nodes and weights.
        dynamic: the batch may be of any size. A side that is a multiple of the graph's batch is taken to grow with it,
            so that is to be traced with a large prime number of images.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Any], *, prefix: str = "", dynamic: bool = False) -> None:
        self.graph = graph
        self.tensors = tensors
        self.prefix = prefix
        self.dynamic = dynamic
        self.batch_size = graph.inputs[0].shape[0] if dynamic else 0
        self.input = ""  # the name of the first
        self.op = graph.nodes[0]  # that is being written
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        self.values: dict[Tensor, str] = {}  # names of the results so far
        self._counts: Counter[str] = Counter()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._changed: set[int] = set()  # storages that were written to in place
        self._views: dict[str, Tensor] = {}  # how a weight of that name was used first

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; its result's name."""
        from onnx import helper

        name = self.name(kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def name(self, kind: str) -> str:
        """`features.0.0` for the layer of that path, `Relu_3` for what has no weights."""
        name = self._short(self.op.module) if kind in ("Conv", "Gemm", "BatchNormalization") else ""
        if not name or self._counts[name]:
            self._counts[kind] += 1
            name = f"{kind}_{self._counts[kind]}"
        self._counts[name] += 1
        return name

    def constant(self, values: Any) -> str:
        """A constant with these values, one for all that are equal."""
        array = np.asarray(values)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants) + 1}"
            self.weights[self._constants[key]] = array
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """A constant of one dimension."""
        return self.constant(np.array(values, np.int64))

    def value(self, operand: Tensor | float) -> str:
        """The name of an activation, of a weight, or of a number that stands in the network's code."""
        if not isinstance(operand, Tensor):
            return self.constant(np.float32(operand))
        if operand in self.values:
            return self.values[operand]
        path = self.graph.storages[operand.storage].path
        if path is None:
            return self.unknown(operand)
        name = self._short(path)
        if self._views.setdefault(name, operand) != operand:
            return self.constant(self.array(operand))  # another view of it
        self.weights[name] = self.array(operand)
        return name

    def is_weight(self, operand: Tensor) -> bool:
        """Whether it is known without any input."""
        return operand not in self.values and self.graph.is_weight(operand)

    def array(self, ref: Tensor) -> Array:
        """The values of a parameter, a buffer, or a view of one."""
        # The trace ran on contiguous twins: its layouts say nothing of a weight that is channels-last, transposed,
        # expanded or a part of a larger tensor.
        tensor = self.tensors[self.graph.storages[ref.storage].path or ""].detach().contiguous()
        offset, *strides = ref.layout
        found: Array = tensor.as_strided(ref.shape, strides, tensor.storage_offset() + offset).numpy()
        return found

    def unknown(self, ref: Tensor) -> str:
        """What to do with a tensor that is neither a weight nor a result."""
        if ref.storage in self._changed:
            raise UnwritableError(
                f"{self.where} reads what was changed in place through another view of it, which cannot be written as "
                "ONNX. Compute a new tensor instead."
            )
        raise UnwritableError(
            f"{self.where} uses a tensor of shape {ref.shape} that is no parameter or buffer of the network. Keep it "
            "with register_buffer."
        )

    @property
    def where(self) -> str:
        """The layer that is being written, for errors."""
        path = self._short(self.op.module)
        return f"the layer {path}" if path else "the network's forward()"

    def batch(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """A shape to reshape to; 0 stands for the side that is there already, -1 for one that follows from the rest."""
        if not self.dynamic or not after:
            return list(after)
        found = [-1 if side % self.batch_size == 0 else side for side in after]
        if before[0] == after[0] and -1 not in found[1:]:
            return [0, *after[1:]]
        if found.count(-1) != 1:
            raise UnwritableError(f"{self.where} takes the images of a batch together, so its size cannot be free.")
        return found

    def _repeats_weight(self, op: Node) -> bool:
        """Whether a weight is given once for each image, as a class token is."""
        return self.dynamic and op.op == "expand" and self.batch_size in op.outputs[0].shape

    def _short(self, path: str) -> str:
        return path.removeprefix(self.prefix) if path != self.prefix.rstrip(".") else ""


Arguments: TypeAlias = Mapping[str, Any]  # of a node, by name
WriteNode: TypeAlias = Callable[[OnnxBuilder, Node, Arguments], str]
