"""Reads the operations of an ONNX file without the onnx package and without loading weights.

Only what shapes and costs depend on is read: nodes with their attributes, inputs and outputs, and the position of each
weight. A file of half a gigabyte is read as quickly as a small one.

Messages and field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import io
import os
import struct
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.card import CardError
from vertebra.protobuf import Span, iter_fields, read_content, read_varint, require_span

Array: TypeAlias = NDArray[Any]
Sides: TypeAlias = tuple[int | str | None, ...]  # of a shape; str or None: open, with or without a name

# TensorProto.DataType -> its name and bytes per element.
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
_NUMPY_TYPES = ("float32", "uint8", "int8", "int32", "int64", "bool", "float16", "float64")  # those of numpy
_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata in which torch.onnx.export names the modules around a node
_MAX_INLINE_VALUES = 1024  # attributes of at most this many values are read at once: shapes, scales, sizes


@dataclass(frozen=True)
class OnnxWeight:
    """A weight of the file: its shape, type, and the position of its values."""

    name: str
    shape: tuple[int, ...]
    kind: int  # of TensorProto.DataType
    start: int
    size: int
    values: tuple[float, ...] = ()  # of small ones that are not stored as bytes
    file: str = ""  # the external file with the values

    @property
    def count(self) -> int:
        """The number of values."""
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
    scopes: tuple[str, ...] = ()  # paths of the modules around it, outermost first, if the file has them
    has_subgraphs: bool = False


@dataclass(frozen=True)
class OnnxValue:
    """The shape and type that the file declares for a tensor."""

    name: str
    kind: int = 0
    shape: Sides | None = None  # None: not declared


@dataclass
class OnnxFile:
    """Operations in order, weights by name, and the operation that writes each tensor."""

    path: Path
    nodes: list[OnnxNode]
    tensors: dict[str, OnnxWeight]
    inputs: list[OnnxValue] = field(default_factory=list)  # without those that are weights
    outputs: list[OnnxValue] = field(default_factory=list)
    values: dict[str, OnnxValue] = field(default_factory=dict)  # of outputs and intermediate tensors
    producer: str = ""
    functions: frozenset[str] = frozenset()  # names of operators that the file itself defines

    def __post_init__(self) -> None:
        self.makers = {name: node for node in self.nodes for name in node.outputs}
        self.num_readers = Counter(name for node in self.nodes for name in node.inputs)

    def read(self, name: str) -> Array:
        """The values of a weight; raises a CardError if there is no such weight, or it cannot be read."""
        tensor = self.tensors.get(name)
        kind = TYPES.get(tensor.kind, ("", 0))[0] if tensor is not None else ""
        if tensor is None or kind not in _NUMPY_TYPES:
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
    """Read the graph of a file.

    Raises:
        CardError: it cannot be read, or is not ONNX.
    """
    try:
        with path.open("rb") as file:
            model = _Message(file, (0, os.fstat(file.fileno()).st_size))
            graphs = model.submessages(7)
            nodes = [_node(node) for graph in graphs for node in graph.submessages(1)]
            weights = [_tensor(tensor) for graph in graphs for tensor in graph.submessages(5)]
            inputs, outputs, values = ([_value(v) for g in graphs for v in g.submessages(n)] for n in (11, 12, 13))
            functions = frozenset(function.text(1) for function in model.submessages(25))
            producer = model.text(2, "replace")
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, TypeError, struct.error) as error:
        raise CardError(f"{path} has a graph that cannot be read ({error}).") from error
    tensors = {tensor.name: tensor for tensor in weights}
    for node in nodes:
        # Constant nodes are treated as weights.
        if node.kind == "Constant" and isinstance(node.attributes.get("value"), OnnxWeight):
            tensors[node.outputs[0]] = node.attributes["value"]
    inputs = [value for value in inputs if value.name not in tensors]
    described = {value.name: value for value in (*outputs, *values)}
    return OnnxFile(path, nodes, tensors, inputs, outputs, described, producer, functions)


class _Message:
    """The fields of a message in a file, by number; their contents are read on demand."""

    def __init__(self, file: IO[bytes], place: Span) -> None:
        self.file = file
        self.fields: dict[int, list[Any]] = {}
        for number, value in iter_fields(file, *place):
            self.fields.setdefault(number, []).append(value)

    def last(self, number: int, default: Any = 0) -> Any:
        """The value of a field that is not repeated: the last one counts."""
        return self.fields.get(number, [default])[-1]

    def submessages(self, number: int) -> list[_Message]:
        return [_Message(self.file, require_span(value)) for value in self.fields.get(number, ())]

    def texts(self, number: int, errors: str = "strict") -> tuple[str, ...]:
        return tuple(read_content(self.file, value).decode("utf-8", errors) for value in self.fields.get(number, ()))

    def text(self, number: int, errors: str = "strict") -> str:
        return "".join(self.texts(number, errors))

    def integers(self, number: int) -> list[int]:
        """The values of a repeated integer, packed or not."""
        found = []
        for value in self.fields.get(number, ()):
            if isinstance(value, int):
                found.append(_signed(value))
                continue
            packed, size = io.BytesIO(read_content(self.file, value)), value[1] - value[0]
            while packed.tell() < size:
                found.append(_signed(read_varint(packed)))
        return found

    def floats(self, number: int) -> list[float]:
        """The values of a repeated float, packed or not."""
        values = (
            value if isinstance(value, bytes) else read_content(self.file, value)
            for value in self.fields.get(number, ())
        )
        packed = b"".join(values)
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _node(node: _Message) -> OnnxNode:
    attributes = dict(map(_attribute, node.submessages(5)))
    return OnnxNode(
        node.text(3),
        node.text(4),
        node.texts(1),
        node.texts(2),
        attributes,
        node.text(7),
        next(filter(None, map(_scopes, node.submessages(9))), ()),
        has_subgraphs=any(value is _SUBGRAPH for value in attributes.values()),
    )


def _scopes(entry: _Message) -> tuple[str, ...]:
    """The modules around a node, from an entry of its metadata: `['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'x']`."""
    if entry.text(1, "replace") != _SCOPES:
        return ()
    names = [part.strip().strip("'\"") for part in entry.text(2, "replace").strip("[]").split(",")]
    return tuple(name for name in names[:-1] if name)


_SUBGRAPH = object()  # the value of an attribute that is a graph


def _attribute(attribute: _Message) -> tuple[str, Any]:
    found: Any = None
    for number in attribute.fields:
        if number == 2:
            found = struct.unpack("<f", attribute.last(2))[0]
        elif number == 3:
            found = _signed(attribute.last(3))
        elif number == 4:
            found = attribute.text(4, "replace")
        elif number == 5:
            found = _embedded(attribute.submessages(5)[-1])
        elif number in (6, 11):
            found = _SUBGRAPH
    return attribute.text(1), [*attribute.floats(7), *attribute.integers(8)] or found


def _tensor(tensor: _Message) -> OnnxWeight:
    name, shape, kind = tensor.text(8), tuple(tensor.integers(1)), tensor.last(2)
    other = {entry.text(1): entry.text(2) for entry in tensor.submessages(13)}
    if "location" in other:
        begin, length = (int(other.get(key) or 0) for key in ("offset", "length"))
        return OnnxWeight(name, shape, kind, begin, length, (), other["location"])
    begin, end = require_span(tensor.last(9, (0, 0)))
    values = (*tensor.integers(5), *tensor.integers(7), *tensor.floats(4))
    return OnnxWeight(name, shape, kind, begin, end - begin, values)


def _embedded(message: _Message) -> OnnxWeight:
    """The tensor in an attribute; the values of a small one are read at once."""
    tensor = _tensor(message)
    kind = TYPES.get(tensor.kind, ("", 0))[0]
    if tensor.values or kind not in _NUMPY_TYPES or not 0 < tensor.count <= _MAX_INLINE_VALUES or tensor.file:
        return tensor
    raw = read_content(message.file, (tensor.start, tensor.start + tensor.size))
    return replace(tensor, values=tuple(np.frombuffer(raw, kind).tolist()))


def _value(value: _Message) -> OnnxValue:
    """A ValueInfoProto: a tensor's name, element type and shape."""
    kind, shape = 0, None
    for tensor_type in [inner for outer in value.submessages(2) for inner in outer.submessages(1)]:
        kind = tensor_type.last(1)
        for sides in tensor_type.submessages(2):
            shape = tuple(map(_side, sides.submessages(1)))
    return OnnxValue(value.text(1), kind, shape)


def _side(side: _Message) -> int | str | None:
    if 1 in side.fields:  # 0 and -1 mean that it is open
        return side.last(1) if 0 < side.last(1) < 1 << 62 else None
    return side.text(2, "replace") or None
