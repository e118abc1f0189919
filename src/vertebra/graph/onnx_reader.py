"""An ONNX file's operations, read without the onnx package and without its weights.

Only what shapes and costs depend on is read: nodes with their attributes, inputs and outputs, and where each weight
lies. A file of half a gigabyte is read as quickly as a small one.

The messages and their fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import io
import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.card import CardError
from vertebra.protobuf import Place, content, fields, varint

Array: TypeAlias = NDArray[Any]
Sides: TypeAlias = tuple[int | str | None, ...]  # of a shape; a text or None: left open, with or without a name

# TensorProto.DataType -> its name and the bytes of one element.
TYPES: dict[int, tuple[str, float]] = {
    1: ("float32", 4),
    2: ("uint8", 1),
    3: ("int8", 1),
    4: ("uint16", 2),
    5: ("int16", 2),
    6: ("int32", 4),
    7: ("int64", 8),
    8: ("string", 8),
    9: ("bool", 1),
    10: ("float16", 2),
    11: ("float64", 8),
    12: ("uint32", 4),
    13: ("uint64", 8),
    14: ("complex64", 8),
    15: ("complex128", 16),
    16: ("bfloat16", 2),
    17: ("float8_e4m3fn", 1),
    18: ("float8_e4m3fnuz", 1),
    19: ("float8_e5m2", 1),
    20: ("float8_e5m2fnuz", 1),
    21: ("uint4", 0.5),
    22: ("int4", 0.5),
    23: ("float4_e2m1", 0.5),
}
_NUMPY = ("float32", "uint8", "int8", "int32", "int64", "bool", "float16", "float64")  # those that numpy has too
_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.onnx.export notes the modules around a node
_FEW = 1024  # values of an attribute that are read at once: shapes, scales, sizes


@dataclass(frozen=True)
class OnnxWeight:
    """A tensor that the file holds: its shape and type, and where its values are."""

    name: str
    shape: tuple[int, ...]
    kind: int  # of TensorProto.DataType
    start: int
    size: int
    values: tuple[float, ...] = ()  # of small ones that are not kept as bytes
    file: str = ""  # another one that the values are in

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class OnnxNode:
    """One operation."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)  # integers, floats, lists of them, texts, small tensors
    domain: str = ""
    scopes: tuple[str, ...] = ()  # paths of the modules around it, from the outside in, where the file says them
    has_subgraphs: bool = False


@dataclass(frozen=True)
class OnnxValue:
    """What the file says of a tensor's shape and type."""

    name: str
    kind: int = 0
    shape: Sides | None = None  # None: nothing


@dataclass
class OnnxFile:
    """Operations in order, weights by name, and which operation makes each tensor."""

    path: Path
    nodes: list[OnnxNode]
    tensors: dict[str, OnnxWeight]
    inputs: list[OnnxValue] = field(default_factory=list)  # without those that are weights
    outputs: list[OnnxValue] = field(default_factory=list)
    values: dict[str, OnnxValue] = field(default_factory=dict)  # of tensors in between
    producer: str = ""
    functions: frozenset[str] = frozenset()  # names of operators that the file defines itself

    def __post_init__(self) -> None:
        self.maker = {name: node for node in self.nodes for name in node.outputs}
        self.readers = Counter(name for node in self.nodes for name in node.inputs)

    def read(self, name: str) -> Array:
        """The values of a weight.

        Raises:
            CardError: there is no such weight, or its values are not where they should be.
        """
        tensor = self.tensors.get(name)
        kind = TYPES.get(tensor.kind, ("", 0))[0] if tensor is not None else ""
        if tensor is None or kind not in _NUMPY:
            raise CardError(f"{self.path} has no weight {name!r} that can be read.")
        if tensor.values:
            return np.array(tensor.values, kind).reshape(tensor.shape)
        path = self.path.parent / tensor.file if tensor.file else self.path
        try:
            with path.open("rb") as file:
                file.seek(tensor.start)
                values = file.read(tensor.size)
            return np.frombuffer(values, np.dtype(kind).newbyteorder("<")).reshape(tensor.shape)
        except (OSError, ValueError) as error:
            raise CardError(f"{self.path}: the weight {name!r} is damaged.") from error


def read_onnx(path: Path) -> OnnxFile:
    """What a file computes.

    Raises:
        CardError: it cannot be read, or is not ONNX.
    """
    found = OnnxFile(path, [], {})
    functions = set()
    try:
        with path.open("rb") as file:
            for number, value in fields(file, 0, os.fstat(file.fileno()).st_size):
                if number == 2:
                    found.producer = content(file, value).decode("utf-8", "replace")
                elif number == 7:
                    _graph(file, value, found)
                elif number == 25:
                    names = [content(file, v) for n, v in fields(file, *value) if n == 1]
                    functions.add(b"".join(names).decode())
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, TypeError, struct.error) as error:
        raise CardError(f"{path} has a graph that cannot be read ({error}).") from error
    for node in found.nodes:
        # Constants are weights that happen to be written as operations.
        if node.kind == "Constant" and isinstance(node.attributes.get("value"), OnnxWeight):
            found.tensors[node.outputs[0]] = node.attributes["value"]
    inputs = [value for value in found.inputs if value.name not in found.tensors]
    return OnnxFile(
        path, found.nodes, found.tensors, inputs, found.outputs, found.values, found.producer, frozenset(functions)
    )


def _graph(file: IO[bytes], place: Place, found: OnnxFile) -> None:
    for part, inner in fields(file, *place):
        if part == 1:
            found.nodes.append(_node(content(file, inner), inner[0]))
        elif part == 5:
            tensor = _tensor(file, *inner)
            found.tensors[tensor.name] = tensor
        elif part == 11:
            found.inputs.append(_value(content(file, inner)))
        elif part == 12:
            found.outputs.append(_value(content(file, inner)))
        elif part == 13:
            value = _value(content(file, inner))
            found.values[value.name] = value


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


def _floats(file: IO[bytes], value: bytes | Place) -> tuple[float, ...]:
    """A repeated float, packed or not."""
    packed = value if isinstance(value, bytes) else content(file, value)
    return struct.unpack(f"<{len(packed) // 4}f", packed)


def _node(message: bytes, start: int) -> OnnxNode:
    """A node from its message, which begins there in the file."""
    file = io.BytesIO(message)
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    attributes = {}
    scopes: tuple[str, ...] = ()
    subgraphs = False
    for number, value in fields(file, 0, len(message)):
        if number in texts:
            texts[number].append(content(file, value).decode())
        elif number == 5:
            name, found = _attribute(content(file, value), start + value[0])
            attributes[name] = found
            subgraphs |= found is _SUBGRAPH
        elif number == 9:
            scopes = scopes or _scopes(content(file, value))
    one, many = ["".join(texts[number]) for number in (3, 4, 7)], [tuple(texts[number]) for number in (1, 2)]
    return OnnxNode(one[0], one[1], many[0], many[1], attributes, one[2], scopes, subgraphs)


def _scopes(message: bytes) -> tuple[str, ...]:
    """The modules around a node, from an entry of its metadata: `['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'x']`."""
    file = io.BytesIO(message)
    entry = {number: content(file, value).decode("utf-8", "replace") for number, value in fields(file, 0, len(message))}
    if entry.get(1) != _SCOPES:
        return ()
    names = [part.strip().strip("'\"") for part in entry.get(2, "").strip("[]").split(",")]
    return tuple(name for name in names[:-1] if name)


_SUBGRAPH = object()  # what stands for a graph among the attributes


def _attribute(message: bytes, start: int) -> tuple[str, Any]:
    file = io.BytesIO(message)
    name, found = "", None
    many: list[float] = []
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
            found = _embedded(content(file, value), start + value[0])
        elif number in (6, 11):
            found = _SUBGRAPH
        elif number == 7:
            many += _floats(file, value)
        elif number == 8:
            many += _integers(file, value)
    return name, many or found


def _tensor(file: IO[bytes], start: int, end: int) -> OnnxWeight:
    shape: list[int] = []
    values: list[float] = []
    name, kind, place, other = "", 0, (0, 0), {}
    for number, value in fields(file, start, end):
        if number == 1:
            shape += _integers(file, value)
        elif number == 2:
            kind = value
        elif number in (5, 7):
            values += _integers(file, value)
        elif number == 4:
            values += _floats(file, value)
        elif number == 8:
            name = content(file, value).decode()
        elif number == 9:
            place = value
        elif number == 13:
            inner = {n: content(file, v).decode() for n, v in fields(file, *value)}
            other[inner.get(1, "")] = inner.get(2, "")
    if "location" in other:
        begin, length = (int(other.get(key) or 0) for key in ("offset", "length"))
        return OnnxWeight(name, tuple(shape), kind, begin, length, (), other["location"])
    return OnnxWeight(name, tuple(shape), kind, place[0], place[1] - place[0], tuple(values))


def _embedded(message: bytes, start: int) -> OnnxWeight:
    """A tensor within an attribute, whose message begins there in the file. Small ones are read at once."""
    tensor = _tensor(io.BytesIO(message), 0, len(message))
    kind = TYPES.get(tensor.kind, ("", 0))[0]
    values = tensor.values
    if not values and kind in _NUMPY and 0 < tensor.count <= _FEW and not tensor.file:
        values = tuple(np.frombuffer(message[tensor.start : tensor.start + tensor.size], kind).tolist())
    return OnnxWeight(tensor.name, tensor.shape, tensor.kind, start + tensor.start, tensor.size, values, tensor.file)


def _value(message: bytes) -> OnnxValue:
    """A ValueInfoProto: name, and a tensor's type of element and sides."""
    file = io.BytesIO(message)
    name, kind = "", 0
    shape: Sides | None = None
    for number, value in fields(file, 0, len(message)):
        if number == 1:
            name = content(file, value).decode()
        elif number == 2:
            for _, tensor_type in [pair for pair in fields(file, *value) if pair[0] == 1]:
                for part, inner in fields(file, *tensor_type):
                    if part == 1:
                        kind = inner
                    elif part == 2:
                        shape = tuple(_side(content(file, side)) for n, side in fields(file, *inner) if n == 1)
    return OnnxValue(name, kind, shape)


def _side(message: bytes) -> int | str | None:
    file = io.BytesIO(message)
    for number, value in fields(file, 0, len(message)):
        if number == 1:
            return value if 0 < value < 1 << 62 else None  # 0 and -1 are written for a side that is left open
        if number == 2:
            return content(file, value).decode("utf-8", "replace") or None
    return None
