"""Collects the nodes, weights and constants of an ONNX graph, under unique names."""

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
    """A network has an operation that Vertebra cannot write as ONNX."""


class OnnxBuilder:
    """Collects nodes and weights while the operations of a graph are written, one by one.

    Args:
        graph: a traced network, with ATen's operators.
        tensors: its parameters and buffers by path, as torch tensors.
        prefix: of these paths and of module paths, left out of the names of nodes and weights.
        dynamic: whether the batch size is dynamic. Sides that are a multiple of the graph's batch size are assumed to
            grow with it, so trace with a large prime number of images.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Any], *, prefix: str = "", dynamic: bool = False) -> None:
        self.graph = graph
        self.tensors = tensors
        self.prefix = prefix
        self.dynamic = dynamic
        self.batch_size = graph.inputs[0].shape[0] if dynamic else 0
        self.input = ""  # name of the first input
        self.op = graph.nodes[0]  # the operation that is being written
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        self.values: dict[Tensor, str] = {}  # names of the inputs and of all results so far
        self._counts: Counter[str] = Counter()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._changed: set[int] = set()  # storages that were changed in place
        self._views: dict[str, Tensor] = {}  # the first view of each weight, by name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = self.unique_name(kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def unique_name(self, kind: str) -> str:
        """`features.0.0` for the layer at that path, `Relu_3` for a node without weights."""
        name = self._strip_prefix(self.op.module) if kind in ("Conv", "Gemm", "BatchNormalization") else ""
        if not name or self._counts[name]:
            self._counts[kind] += 1
            name = f"{kind}_{self._counts[kind]}"
        self._counts[name] += 1
        return name

    def constant(self, values: Any) -> str:
        """Return the name of a constant with these values; equal constants are shared."""
        array = np.asarray(values)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants) + 1}"
            self.weights[self._constants[key]] = array
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """Return the name of a one-dimensional constant."""
        return self.constant(np.array(values, np.int64))

    def name_of(self, operand: Tensor | float) -> str:
        """Return the name of an activation, a weight, or a number in the network's code."""
        if not isinstance(operand, Tensor):
            return self.constant(np.float32(operand))
        if operand in self.values:
            return self.values[operand]
        path = self.graph.storages[operand.storage].path
        if path is None:
            return self.handle_unknown(operand)
        name = self._strip_prefix(path)
        if self._views.setdefault(name, operand) != operand:
            return self.constant(self.weight_values(operand))  # a second view of the weight
        self.weights[name] = self.weight_values(operand)
        return name

    def is_weight(self, operand: Tensor) -> bool:
        """Whether the operand does not depend on the input."""
        return operand not in self.values and self.graph.is_weight(operand)

    def weight_values(self, ref: Tensor) -> Array:
        """The values of a parameter or buffer, or of a view of one."""
        # The trace ran on contiguous copies: its layouts are not those of a weight that is channels-last, transposed,
        # expanded or part of a larger tensor.
        tensor = self.tensors[self.graph.storages[ref.storage].path or ""].detach().contiguous()
        offset, *strides = ref.layout
        found: Array = tensor.as_strided(ref.shape, strides, tensor.storage_offset() + offset).numpy()
        return found

    def handle_unknown(self, ref: Tensor) -> str:
        """Refuse a tensor that is neither a weight nor a result."""
        if ref.storage in self._changed:
            raise UnwritableError(
                f"{self.where} reads a tensor that was changed in place through another view, which cannot be written "
                "as ONNX. Compute a new tensor instead."
            )
        raise UnwritableError(
            f"{self.where} uses a tensor of shape {ref.shape} that is neither a parameter nor a buffer. Register it "
            "with register_buffer."
        )

    @property
    def where(self) -> str:
        """The layer that is being written, for error messages."""
        path = self._strip_prefix(self.op.module)
        return f"the layer {path}" if path else "the network's forward()"

    def reshape_target(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The shape for a Reshape: 0 keeps the input's side, -1 is inferred from the others."""
        if not self.dynamic or not after:
            return list(after)
        found = [-1 if side % self.batch_size == 0 else side for side in after]
        if before[0] == after[0] and -1 not in found[1:]:
            return [0, *after[1:]]
        if found.count(-1) != 1:
            raise UnwritableError(f"{self.where} mixes the images of a batch, so the batch size cannot be dynamic.")
        return found

    def _repeats_weight(self, op: Node) -> bool:
        """Whether a weight is repeated for each image, such as a class token."""
        return self.dynamic and op.op == "expand" and self.batch_size in op.outputs[0].shape

    def _strip_prefix(self, path: str) -> str:
        return path.removeprefix(self.prefix) if path != self.prefix.rstrip(".") else ""


Arguments: TypeAlias = Mapping[str, Any]  # of a node, by name
WriteNode: TypeAlias = Callable[[OnnxBuilder, Node, Arguments], str]
