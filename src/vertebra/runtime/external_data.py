"""An ONNX file without its weights: the same model, which says where in the file each of them lies.

ONNX Runtime copies the weights of a model two or three times while it loads them. Those that a model keeps in another
file it maps into memory instead; that other file may be the very file that the model is read from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from vertebra.protobuf import Place, content, encoded, fields

# Shorter ones are left in place: they are no work, and the sizes and axes that the graph computes with are among them.
_WORTH_MAPPING = 4096  # bytes

# Fields of ModelProto, GraphProto and TensorProto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_GRAPH, _INITIALIZER, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 9, 13, 14
_EXTERNAL = 1


def without_weights(path: Path) -> bytes:
    """The model of a file, each large weight replaced by its place in the file of that name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an ONNX file, or it is cut short.
    """
    with path.open("rb") as file:
        return _rewritten(file, (0, os.fstat(file.fileno()).st_size), path.name, (_GRAPH, _INITIALIZER))


def _rewritten(file: IO[bytes], place: Place, location: str, way: tuple[int, ...]) -> bytes:
    """The message at a place; `way`: the fields to go through from here to the weights."""
    parts = []
    for number, value in fields(file, *place):
        if isinstance(value, tuple):
            if way and number == way[0]:
                value = _rewritten(file, value, location, way[1:])
            elif not way and number == _RAW_DATA and value[1] - value[0] > _WORTH_MAPPING:
                parts.append(_elsewhere(location, value))
                continue
            else:
                value = content(file, value)
        parts.append(encoded(number, value))
    return b"".join(parts)


def _elsewhere(location: str, place: Place) -> bytes:
    """What a tensor has instead of its values."""
    entries = {"location": location, "offset": str(place[0]), "length": str(place[1] - place[0])}
    pairs = [encoded(1, key.encode()) + encoded(2, text.encode()) for key, text in entries.items()]
    return encoded(_DATA_LOCATION, _EXTERNAL) + b"".join(encoded(_EXTERNAL_DATA, pair) for pair in pairs)
