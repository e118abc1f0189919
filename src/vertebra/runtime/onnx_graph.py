"""The nodes and constants of an ONNX file, read without the `onnx` package.

Fields of the messages: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from vertebra.protobuf import Span, iter_fields, read_content, read_varint, require_span

Attributes: TypeAlias = dict[str, Any]
_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 11: np.float64}
_FLOAT_FIELDS = {4: "<f4", 10: "<f8"}  # values that are not in `raw_data`
_INT_FIELDS = (5, 7)  # the same
_MAX_DIMENSIONS, _MAX_ELEMENTS = 8, 2**31


@dataclass(frozen=True)
class OnnxNode:
    """One operation, with ONNX's names of operators and attributes."""

    op: str
    inputs: tuple[str, ...]  # "": left out
    outputs: tuple[str, ...]
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxGraph:
    """A graph: its nodes in the order of execution, and its constants by name."""

    nodes: tuple[OnnxNode, ...]
    constants: dict[str, np.ndarray[Any, Any]]
    inputs: tuple[str, ...]  # without the constants
    outputs: tuple[str, ...]


def read_graph(path: Path) -> OnnxGraph:
    """Read an ONNX file whose weights are in it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no ONNX file, is cut short, or has what this reader does not know: says what.
    """
    with path.open("rb") as file:
        graphs = [value for number, value in iter_fields(file, 0, os.fstat(file.fileno()).st_size) if number == 7]
        if len(graphs) != 1:
            raise ValueError(f"{len(graphs)} graphs in the file")
        try:
            return _graph(file, require_span(graphs[0]))
        except (TypeError, struct.error) as error:
            raise ValueError(f"a field of another type than ONNX's ({error})") from error


def _graph(file: IO[bytes], place: Span) -> OnnxGraph:
    nodes: list[OnnxNode] = []
    constants: dict[str, np.ndarray[Any, Any]] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for number, value in list(iter_fields(file, *place)):
        if number == 1:
            nodes.append(_node(file, require_span(value)))
        elif number == 5:
            name, values = _tensor(file, require_span(value))
            constants[name] = values
        elif number in (11, 12):
            (inputs if number == 11 else outputs).append(_name(file, require_span(value)))
    known = []
    for node in nodes:
        if node.op == "Constant" and isinstance(node.attributes.get("value"), np.ndarray):
            constants[node.outputs[0]] = node.attributes["value"]
        else:
            known.append(node)
    return OnnxGraph(tuple(known), constants, tuple(name for name in inputs if name not in constants), tuple(outputs))


def _name(file: IO[bytes], place: Span) -> str:
    return next((_text(file, value) for number, value in iter_fields(file, *place) if number == 1), "")


def _text(file: IO[bytes], value: Any) -> str:
    return read_content(file, value).decode()


def _node(file: IO[bytes], place: Span) -> OnnxNode:
    names: dict[int, list[str]] = {1: [], 2: []}
    op, domain, attributes = "", "", {}
    for number, value in list(iter_fields(file, *place)):
        if number in names:
            names[number].append(_text(file, value))
        elif number == 4:
            op = _text(file, value)
        elif number == 5:
            name, content = _attribute(file, require_span(value))
            attributes[name] = content
        elif number == 7:
            domain = _text(file, value)
    return OnnxNode(op if domain in ("", "ai.onnx") else f"{domain}.{op}", tuple(names[1]), tuple(names[2]), attributes)


def _attribute(file: IO[bytes], place: Span) -> tuple[str, Any]:
    name, found = "", None
    floats: list[float] = []
    ints: list[int] = []
    for number, value in list(iter_fields(file, *place)):
        if number == 1:
            name = _text(file, value)
        elif number == 2:
            (found,) = struct.unpack("<f", value)
        elif number == 3:
            found = _signed(value)
        elif number == 4:
            found = _text(file, value)
        elif number == 5:
            _, found = _tensor(file, require_span(value))
        elif number == 7:
            floats += np.frombuffer(_packed_bytes(file, value), "<f4").tolist()
        elif number == 8:
            ints += _whole_numbers(file, value)
    return name, floats or ints or found


def _tensor(file: IO[bytes], place: Span) -> tuple[str, np.ndarray[Any, Any]]:
    name, kind = "", 0
    shape: list[int] = []
    values: np.ndarray[Any, Any] | None = None
    for number, value in list(iter_fields(file, *place)):
        if number == 1:
            shape += _whole_numbers(file, value)
        elif number == 2:
            kind = value
            if kind not in _TYPES:
                raise ValueError(f"a constant of ONNX's data type {kind}")
        elif number == 8:
            name = _text(file, value)
        elif number == 9:
            values = np.frombuffer(read_content(file, value), np.dtype(_TYPES[kind]).newbyteorder("<"))
        elif number in _FLOAT_FIELDS or number in _INT_FIELDS:
            if number in _FLOAT_FIELDS:
                more = np.frombuffer(_packed_bytes(file, value), _FLOAT_FIELDS[number])
            else:
                more = np.array(_whole_numbers(file, value), np.int64)
            values = more if values is None else np.concatenate([values, more])
        elif number in (13, 14) and value not in (0, None):
            raise ValueError("weights in a file of their own")
    if kind not in _TYPES:
        raise ValueError(f"a constant of ONNX's data type {kind}")
    if len(shape) > _MAX_DIMENSIONS or any(not 0 <= size < _MAX_ELEMENTS for size in shape):
        raise ValueError(f"a constant of shape {tuple(shape)}")
    values = np.empty(0) if values is None else values
    if len(values) != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{len(values)} values in a constant of shape {tuple(shape)}")
    return name, values.astype(_TYPES[kind], copy=False).reshape(shape)


def _packed_bytes(file: IO[bytes], value: Any) -> bytes:
    """Return one value of 4 or 8 bytes, or all that are packed into a field."""
    return value if isinstance(value, bytes) else read_content(file, value)


def _whole_numbers(file: IO[bytes], value: Any) -> list[int]:
    """Return one number, or all that are packed into a field."""
    return [_signed(value)] if isinstance(value, int) else [_signed(number) for number in _packed(file, value)]


def _packed(file: IO[bytes], value: Any) -> Iterator[int]:
    content = BytesIO(read_content(file, value))
    while content.tell() < len(content.getbuffer()):
        yield read_varint(content)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
