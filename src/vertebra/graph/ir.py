"""The intermediate form of a network: operations in order, the tensors that they read and write, weights by reference.

The tracer makes it from a network that runs on shapes, with ATen's names, and the reader from an ONNX file, with
ONNX's. What an operation means is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as an operation uses it: the memory that it lies in, its shape and type. The values are not in it."""

    storage: int  # index into Graph.storages
    shape: tuple[int, ...]
    dtype: str  # "float32"
    itemsize: float  # bytes an element takes in memory: 0.5 for int4
    elements: int  # distinct ones: a dimension that is only repeated (stride 0) counts once
    layout: tuple[int, ...] = ()  # offset and strides, which tell two views of the same shape apart
    name: str = ""  # in a file

    @property
    def nbytes(self) -> int:
        """Memory traffic of reading all of it, in bytes."""
        return round(self.elements * self.itemsize)

    @property
    def is_floating_point(self) -> bool:
        """Real numbers, not integers, truth values or complex numbers."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(slots=True)
class Storage:
    """A piece of memory that one or more tensors lie in."""

    nbytes: int
    created: int  # index of the operation that was running
    path: str | None = None  # where it is a parameter or buffer of the network, or a weight of the file
    parameters: int = 0  # how many values, where it is a parameter
    freed: int | None = None  # index of the operation before which Python freed it; None: still alive at the end


@dataclass(slots=True)
class Node:
    """One operation."""

    op: str  # "convolution" of ATen, "Conv" of ONNX
    arguments: dict[str, Any]  # by name, with a Tensor for each tensor; of ONNX the attributes
    inputs: tuple[Tensor, ...]  # each once: x * x reads x once
    outputs: tuple[Tensor, ...]
    module: str  # path of the innermost module that was running; "" is the network itself
    name: str = ""  # in full: "aten.add.Tensor", or the node's name in the file
    in_place: bool = False  # does it write into one of its inputs?
    is_pointwise: bool = False  # says its definition
    flops: Callable[[], int | None] | None = None  # by a formula that comes with the operation
    operands: tuple[Tensor | None, ...] = ()  # of ONNX: the inputs in their places

    @property
    def is_view(self) -> bool:
        """Are its results its input in another form, so that nothing is moved?"""
        storages = {tensor.storage for tensor in self.inputs}
        return not self.in_place and bool(self.outputs) and all(out.storage in storages for out in self.outputs)


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the network that a graph was made from."""

    type: str  # "Conv2d"
    is_list: bool  # is it there only to hold others, one after the other?
    children: tuple[str, ...]  # their paths
    parameters: tuple[tuple[str, int, int], ...]  # of its own: path, identity (one for shared ones), number of values


@dataclass(slots=True)
class Graph:
    """All operations of one run of a network."""

    nodes: list[Node]
    storages: list[Storage]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    modules: dict[str, Module] = field(default_factory=dict)  # by path; "" is the network itself
    stages: dict[str, str] | None = None  # module path -> stage, where the network says it
    is_onnx: bool = False  # are the operators ONNX's, whose nodes have names, and not ATen's?

    def is_weight(self, tensor: Tensor) -> bool:
        """Is it a parameter or buffer, or a view of one?"""
        return self.storages[tensor.storage].path is not None
