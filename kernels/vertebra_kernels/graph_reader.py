"""Follows a graph from its input, node by node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from vertebra_kernels.graph import Graph, Node, UnsupportedGraph
from vertebra_kernels.plan import Array


class GraphReader:
    """`tensor` is where it stands."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.users: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self.users.setdefault(name, []).append(node)
        self.tensor = graph.input
        self.read: set[str] = set()  # first outputs of the nodes that were taken
        self.kinds: dict[str, str] = {}  # tensors that can be outputs
        self.height, self.width = graph.image_size

    @contextmanager
    def looking_ahead(self) -> Iterator[list[bool]]:
        """Comes back to where it stood; what cannot be read ends the block, and the list stays as it is."""
        tensor, read = self.tensor, set(self.read)
        try:
            with suppress(UnsupportedGraph):
                yield []
        finally:
            self.tensor, self.read = tensor, read

    def peek(self, *ops: str) -> Node:
        """The node that follows: the one user, but for an Add further on that is the residual's."""
        users = self.users.get(self.tensor, [])
        nodes = [node for node in users if node.op != "Add"] or users
        if len(nodes) != 1:
            raise UnsupportedGraph(f"tensor {self.tensor!r} is used by {[node.op for node in users]}, not by one node")
        if ops and nodes[0].op not in ops:
            raise self.unsupported(nodes[0], f"expected {' or '.join(ops)} here")
        return nodes[0]

    def take(self, *ops: str) -> Node:
        """The node that follows; what stands before it is done with."""
        node = self.peek(*ops)
        self.step_to(node)
        return node

    def step_to(self, node: Node) -> None:
        """Goes on behind `node`."""
        if self.tensor in self.graph.outputs.values() and self.tensor not in self.kinds:
            raise self.unsupported(node, "its input is an output of the graph, which the fused step does not keep")
        self.tensor = node.outputs[0]
        self.read.add(self.tensor)

    def alone(self, tensor: str) -> None:
        """Raises if a tensor inside a step is an output."""
        if tensor in self.graph.outputs.values():
            raise UnsupportedGraph(f"tensor {tensor!r} is an output of the graph, which the fused step does not keep")

    def groups(self, node: Node) -> int:
        """The groups of a convolution."""
        return integers([node.attributes.get("group", 1)])[0]

    def channels(self, node: Node) -> Array:
        """Three values of a node with a constant `(1, 3, 1, 1)` or of one value."""
        names = [name for name in node.inputs if name in self.graph.constants]
        values = self.graph.constants[names[0]].astype(np.float32) if len(names) == 1 else np.zeros(0, np.float32)
        if values.size == 1:
            return np.full(3, values.reshape(()), np.float32)
        if values.shape not in ((1, 3, 1, 1), (3, 1, 1)):
            raise self.unsupported(node, "its constant is not one value for each channel")
        return values.reshape(3)

    def constant(self, node: Node, position: int) -> NDArray[np.generic]:
        """An input of a node that is a constant."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        if name not in self.graph.constants:
            raise self.unsupported(node, f"input {position} is not a constant")
        return self.graph.constants[name]

    def unsupported(self, node: Node, reason: str) -> UnsupportedGraph:
        """The error that names a node."""
        return UnsupportedGraph(f"node {node.outputs[0]!r} ({node.op}): {reason}")


def integers(value: object, default: Sequence[int] = ()) -> tuple[int, ...]:
    """The integers of an attribute."""
    return tuple(int(item) for item in value) if isinstance(value, Sequence | np.ndarray) else tuple(default)
