"""An ONNX file's graph, read without the onnx package and without its weights.

Only what the server asks of a file is read: nodes with the attributes that shapes depend on, and where each weight
lies. A file of half a gigabyte is read as quickly as a small one.

The messages and their fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vertebra.card import CardError
from vertebra.protobuf import Place, content, fields, varint

Array = NDArray[Any]

# TensorProto.DataType -> numpy's; others are not asked for.
_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}


@dataclass(frozen=True)
class Tensor:
    """A weight: its shape and type, and where in the file its values are."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int
    values: tuple[int, ...] = ()  # of small ones that are not kept as bytes

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Node:
    """One operation."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)  # integers, lists of them, floats and texts


@dataclass
class Graph:
    """Operations in order, weights by name, and who makes each tensor."""

    path: Path
    nodes: list[Node]
    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        self.maker = {name: node for node in self.nodes for name in node.outputs}

    def read(self, name: str) -> Array:
        """The values of a weight.

        Raises:
            CardError: there is no such weight, or its values are not where they should be.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.kind not in _TYPES:
            raise CardError(f"{self.path} has no weight {name!r} that can be read.")
        if tensor.values:
            return np.array(tensor.values, _TYPES[tensor.kind]).reshape(tensor.shape)
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            values = file.read(tensor.size)
        try:
            return np.frombuffer(values, np.dtype(_TYPES[tensor.kind]).newbyteorder("<")).reshape(tensor.shape)
        except ValueError as error:
            raise CardError(f"{self.path}: the weight {name!r} is damaged.") from error


def read_graph(path: Path) -> Graph:
    """The graph of a file.

    Raises:
        CardError: it cannot be read, or is not ONNX.
    """
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    try:
        with path.open("rb") as file:
            for number, value in fields(file, 0, os.fstat(file.fileno()).st_size):
                if number != 7:
                    continue
                for part, place in fields(file, *value):
                    if part == 1:
                        nodes.append(_node(content(file, place)))
                    elif part == 5:
                        tensor = _tensor(file, *place)
                        tensors[tensor.name] = tensor
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, TypeError, struct.error) as error:
        raise CardError(f"{path} has a graph that cannot be read ({error}).") from error
    for node in nodes:
        # Constants are weights that happen to be written as operations; none of our files has large ones.
        if node.kind == "Constant" and isinstance(node.attributes.get("value"), Tensor):
            tensors[node.outputs[0]] = node.attributes["value"]
    return Graph(path, nodes, tensors)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _integers(file: IO[bytes], value: int | Place) -> list[int]:
    """A repeated integer, packed or not."""
    if isinstance(value, int):
        return [_signed(value)]
    found = []
    inner = io.BytesIO(content(file, value))
    end = value[1] - value[0]
    while inner.tell() < end:
        found.append(_signed(varint(inner)))
    return found


def _node(message: bytes) -> Node:
    file = io.BytesIO(message)
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    attributes = {}
    for number, value in fields(file, 0, len(message)):
        if number in texts:
            texts[number].append(content(file, value).decode())
        elif number == 5:
            name, found = _attribute(content(file, value))
            attributes[name] = found
    return Node("".join(texts[3]), "".join(texts[4]), tuple(texts[1]), tuple(texts[2]), attributes)


def _attribute(message: bytes) -> tuple[str, Any]:
    file = io.BytesIO(message)
    name, found = "", None
    integers: list[int] = []
    for number, value in fields(file, 0, len(message)):
        if number == 1:
            name = content(file, value).decode()
        elif number == 2:
            found = struct.unpack("<f", value)[0]
        elif number == 3:
            found = _signed(value)
        elif number == 4:
            found = content(file, value).decode("utf-8", "replace")
        elif number == 5:
            # Its values lie within this message; they are read now, for they are few.
            found = _small(content(file, value))
        elif number == 8:
            integers += _integers(file, value)
    return name, integers or found


def _tensor(file: IO[bytes], start: int, end: int) -> Tensor:
    shape: list[int] = []
    values: list[int] = []
    name, kind, place = "", 0, (0, 0)
    for number, value in fields(file, start, end):
        if number == 1:
            shape += _integers(file, value)
        elif number == 2:
            kind = value
        elif number in (5, 7):
            values += _integers(file, value)
        elif number == 8:
            name = content(file, value).decode()
        elif number == 9:
            place = value
    return Tensor(name, tuple(shape), kind, place[0], place[1] - place[0], tuple(values))


def _small(message: bytes) -> Tensor | None:
    """A tensor within an attribute, of integers; None for others."""
    tensor = _tensor(io.BytesIO(message), 0, len(message))
    if tensor.kind not in (6, 7) or tensor.count > 64:
        return None
    if not tensor.values and tensor.size:
        raw = np.frombuffer(message[tensor.start : tensor.start + tensor.size], _TYPES[tensor.kind])
        return Tensor(tensor.name, tensor.shape, tensor.kind, 0, 0, tuple(raw.tolist()))
    return tensor
