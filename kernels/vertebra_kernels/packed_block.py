"""The flat block that holds a packed network: header, steps, weights as in src/layout.h, names of the outputs."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAGIC, VERSION, BLOCK, HALF = b"VKPACKED", 2, 16, 8
HEADER = struct.Struct("<8s4I2I4Q2Q")
_MATRIX, _QUANTISED = "2q3i2fi", "q5i6fi"
STEP = struct.Struct("<" + "20i" + "2f" + "6f" + "2q" + 4 * _MATRIX + _QUANTISED)
NO_MATRIX: tuple[object, ...] = (0, 0, 0, 0, 0, 0.0, 0.0, 0)
NOT_QUANTISED: tuple[object, ...] = (0, *(5 * (0,)), *(6 * (0.0,)), 0)
FLOAT32, INT8 = 0, 1
INVERTED_RESIDUAL, HEAD, CLASSIFIER, FUSED = 1, 2, 3, 4
FROM_IMAGE, FROM_POINTWISE, FROM_COPY, FROM_DENSE = 0, 1, 2, 3


class Weights:
    """Collects arrays; each begins at a multiple of 64 bytes. Offsets and `count` are in 4 bytes."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: list[tuple[int, NDArray[np.generic]]] = []

    def add(self, values: NDArray[np.generic]) -> int:
        """Appends an array as it is; returns its offset."""
        offset = self.count
        self.parts.append((offset, np.ascontiguousarray(values)))
        self.count = rounded(offset + -(-values.nbytes // 4), BLOCK)
        return offset


def rounded(value: int, multiple: int) -> int:
    """`value` rounded up."""
    return -(-value // multiple) * multiple


def write_block(
    instruction_set: int,
    precision: int,
    image_size: tuple[int, int],
    steps: Sequence[bytes],
    weights: Weights,
    outputs: Mapping[str, str],
) -> bytes:
    """The block of these steps and weights; `outputs` are names -> kinds."""
    names = json.dumps(outputs).encode()
    steps_offset = HEADER.size
    weights_offset = rounded(steps_offset + STEP.size * len(steps), 64)
    names_offset = weights_offset + 4 * weights.count
    header = HEADER.pack(
        MAGIC, VERSION, instruction_set, len(steps), precision, *image_size,
        names_offset + len(names), steps_offset, weights_offset, weights.count, names_offset, len(names),
    )  # fmt: skip
    packed = bytearray(names_offset + len(names))
    packed[:steps_offset] = header
    packed[steps_offset : steps_offset + STEP.size * len(steps)] = b"".join(steps)
    for offset, values in weights.parts:
        start = weights_offset + 4 * offset
        packed[start : start + values.nbytes] = values.tobytes()
    packed[names_offset:] = names
    return bytes(packed)


def output_kinds(packed: NDArray[np.uint8]) -> dict[str, str]:
    """The names of the outputs -> features, embedding, logits or probabilities, from a block that is valid in C."""
    offset, size = HEADER.unpack_from(packed.data)[-2:]
    kinds: dict[str, str] = json.loads(bytes(packed[offset : offset + size]))
    return {str(name): str(kind) for name, kind in kinds.items()}
