"""The intermediate representation of a network: operations in order, their tensors, weights by reference.

`trace` builds it from a torch network, with ATen's operator names, and `onnx_graph` from an ONNX file, with ONNX's.
What an operator means is defined elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as an operation uses it: its storage, shape and type, without its values."""

    storage: int  # index into Graph.storages
    shape: tuple[int, ...]
    dtype: str  # "float32"
    itemsize: float  # bytes an element takes in memory: 0.5 for int4
    elements: int  # distinct ones: an expanded dimension (stride 0) counts once
    layout: tuple[int, ...] = ()  # offset and strides, in which views of the same shape differ
    name: str = ""  # in an ONNX file

    @property
    def nbytes(self) -> int:
        """Memory traffic of reading the whole tensor, in bytes."""
        return round(self.elements * self.itemsize)

    @property
    def is_floating_point(self) -> bool:
        """Whether the elements are real numbers, not integers, booleans or complex numbers."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(slots=True)
class Storage:
    """A block of memory that holds one or more tensors."""

    nbytes: int
    created: int  # index of the operation that allocated it
    path: str | None = None  # of the parameter or buffer in the network, or of the weight in the file
    parameters: int = 0  # number of values, if it is a parameter
    freed: int | None = None  # index of the operation before which it was freed; None: never


@dataclass(slots=True)
class Node:
    """One operation."""

    op: str  # "convolution" in ATen, "Conv" in ONNX
    arguments: dict[str, Any]  # by name, tensors as Tensor; of ONNX the attributes
    inputs: tuple[Tensor, ...]  # distinct ones: x * x reads x once
    outputs: tuple[Tensor, ...]
    module: str  # path of the innermost running module; "" is the network itself
    name: str = ""  # "aten.add.Tensor", or the node's name in the file
    in_place: bool = False  # whether it writes into one of its inputs
    is_pointwise: bool = False  # by ATen's tag
    flops: Callable[[], int | None] | None = None  # by torch's formula for the operator
    operands: tuple[Tensor | None, ...] = ()  # of ONNX: the inputs by position

    @property
    def is_view(self) -> bool:
        """Whether each output shares the memory of an input, so that no data is moved."""
        storages = {tensor.storage for tensor in self.inputs}
        return not self.in_place and bool(self.outputs) and all(out.storage in storages for out in self.outputs)


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the network that a graph was traced from."""

    type: str  # "Conv2d"
    is_list: bool  # whether it only holds other modules
    children: tuple[str, ...]  # their paths
    parameters: tuple[tuple[str, int, int], ...]  # its own: path, id (the same for shared ones), number of values


@dataclass(slots=True)
class Graph:
    """All operations of one forward pass."""

    nodes: list[Node]
    storages: list[Storage]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    modules: dict[str, Module] = field(default_factory=dict)  # by path; "" is the network itself
    stages: dict[str, str] | None = None  # module path -> stage, if the network defines stages
    is_onnx: bool = False  # whether the operators are ONNX's, whose nodes have names, not ATen's

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether the tensor is a parameter or buffer, or a view of one."""
        return self.storages[tensor.storage].path is not None
