"""Writes a plan as one flat block: header, steps, weights in the layout of src/layout.h, names of the outputs."""

from __future__ import annotations

import json
import struct
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra_kernels.graph import Graph
from vertebra_kernels.plan import Activation, InvertedResidual, Plan
from vertebra_kernels.planner import make_plan
from vertebra_kernels.shared_library import INSTRUCTION_SETS, instruction_set_number

Array: TypeAlias = NDArray[np.float32]

MAGIC, VERSION, BLOCK, HALF = b"VKPACKED", 1, 16, 8
HEADER = struct.Struct("<8s4I2I4Q2Q")
MATRIX = "2q3i2fi"
STEP = struct.Struct("<" + "20i" + "2f" + "6f" + "2q" + 4 * MATRIX)
_INVERTED_RESIDUAL, _HEAD, _CLASSIFIER = 1, 2, 3
_FROM_IMAGE, _FROM_POINTWISE, _FROM_COPY = 0, 1, 2
_LINEAR, _CLAMP, _SILU = 0, 1, 2


def pack(graph: Graph, instruction_set: str | None = None) -> bytes:
    """Plan and packed weights of `graph` in one block that can be mapped from a file.

    Raises:
        UnsupportedGraph: The graph has what the planner does not know.
        ValueError: `instruction_set` is not one of `INSTRUCTION_SETS`.
    """
    number = instruction_set_number(instruction_set)
    plan = make_plan(graph)
    weights = _Weights()
    steps = [_residual(block, plan, weights) for block in plan.blocks]
    steps += [_head(plan, weights), _classifier(plan, weights)]
    names = json.dumps(plan.outputs).encode()
    steps_offset = HEADER.size
    weights_offset = _rounded(steps_offset + STEP.size * len(steps), 64)
    names_offset = weights_offset + 4 * weights.count
    header = HEADER.pack(
        MAGIC, VERSION, number, len(steps), 0, *plan.image_size,
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


class _Weights:
    """Collects arrays; each begins at a multiple of 64 bytes, and a little apart from page multiples."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: list[tuple[int, Array]] = []

    def add(self, values: Array) -> int:
        offset = self.count
        self.parts.append((offset, np.ascontiguousarray(values, np.float32)))
        self.count = _rounded(offset + values.size, BLOCK)
        return offset

    def matrix(
        self, weight: Array, bias: Array, inputs: int, outputs: int, activation: Activation | None
    ) -> tuple[object, ...]:
        """`weight` is (outputs, inputs), padded with zeros to (`outputs`, `inputs`)."""
        padded = np.zeros((outputs, inputs), np.float32)
        padded[: weight.shape[0], : weight.shape[1]] = weight
        whole = outputs // BLOCK * BLOCK
        blocks = padded[:whole].reshape(-1, BLOCK, inputs).transpose(0, 2, 1).reshape(-1)
        values = np.concatenate([blocks, padded[whole:].T.reshape(-1)])
        padded_bias = np.zeros(outputs, np.float32)
        padded_bias[: len(bias)] = bias
        return (self.add(values), self.add(padded_bias), inputs, outputs, *_activation(activation), 0)

    def no_matrix(self) -> tuple[object, ...]:
        return (0, 0, 0, 0, 0, 0.0, 0.0, 0)


def _activation(activation: Activation | None) -> tuple[int, float, float]:
    if activation is None:
        return _LINEAR, 0.0, 0.0
    if activation.silu:
        return _SILU, 0.0, 0.0
    return _CLAMP, activation.low, activation.high


def _rounded(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _residual(block: InvertedResidual, plan: Plan, weights: _Weights) -> bytes:
    logical = block.depthwise.groups
    hidden, out_channels = _rounded(logical, BLOCK), _rounded(len(block.project.bias), HALF)
    kernel = block.depthwise.weight.shape[2]
    stem = (0, 0, 0, 0)
    if block.expand is None:
        source, channels, expand = _FROM_COPY, _rounded(logical, HALF), weights.no_matrix()
    elif block.from_image:
        source, channels = _FROM_IMAGE, hidden
        taps = block.expand.weight.transpose(0, 2, 3, 1).reshape(len(block.expand.weight), -1)  # row, column, channel
        expand = weights.matrix(taps, block.expand.bias, taps.shape[1], hidden, block.expand_activation)
        stem = (block.expand.weight.shape[2], block.expand.stride, block.expand.pads[0], block.expand.pads[1])
    else:
        source, channels = _FROM_POINTWISE, _rounded(block.expand.weight.shape[1], HALF)
        weight = block.expand.weight[:, :, 0, 0]
        expand = weights.matrix(weight, block.expand.bias, channels, hidden, block.expand_activation)
    taps = np.zeros((hidden // BLOCK, BLOCK, kernel * kernel), np.float32)
    taps.reshape(hidden, -1)[:logical] = block.depthwise.weight.reshape(logical, -1)
    depthwise_bias = np.zeros(hidden, np.float32)
    depthwise_bias[:logical] = block.depthwise.bias
    depthwise = (weights.add(taps.transpose(0, 2, 1)), weights.add(depthwise_bias))
    project = weights.matrix(block.project.weight[:, :, 0, 0], block.project.bias, hidden, out_channels, None)
    squeezed, down, up = 0, weights.no_matrix(), weights.no_matrix()
    if block.squeeze is not None:
        squeezed = _rounded(len(block.squeeze.down.bias), BLOCK)
        layers = block.squeeze
        down = weights.matrix(layers.down.weight[:, :, 0, 0], layers.down.bias, hidden, squeezed, layers.activation)
        up = weights.matrix(layers.up.weight[:, :, 0, 0], layers.up.bias, squeezed, hidden, None)
    activation, low, high = _activation(block.depthwise_activation)
    return STEP.pack(
        _INVERTED_RESIDUAL, source, block.height, block.width, channels, hidden, *block.out_size, out_channels,
        kernel, block.depthwise.stride, block.depthwise.pads[0], block.depthwise.pads[1],
        int(block.residual), squeezed, *stem, activation, low, high, *plan.scale.tolist(), *plan.shift.tolist(),
        *depthwise, *expand, *project, *down, *up,
    )  # fmt: skip


def _plain_step(kind: int, height: int, width: int, channels: int, hidden: int, outputs: int, matrix: object) -> bytes:
    empty = (0, 0, 0, 0, 0, 0.0, 0.0, 0)
    return STEP.pack(
        kind, _FROM_POINTWISE, height, width, channels, hidden, 1, 1, outputs, *(11 * (0,)),
        *(8 * (0.0,)), 0, 0, *matrix, *empty, *empty, *empty,  # type: ignore[misc]
    )  # fmt: skip


def _head(plan: Plan, weights: _Weights) -> bytes:
    convolution = plan.head.convolution
    outputs, inputs = convolution.weight.shape[:2]
    channels, hidden = _rounded(inputs, HALF), _rounded(outputs, BLOCK)
    matrix = weights.matrix(convolution.weight[:, :, 0, 0], convolution.bias, channels, hidden, plan.head.activation)
    return _plain_step(_HEAD, plan.head.height, plan.head.width, channels, hidden, outputs, matrix)


def _classifier(plan: Plan, weights: _Weights) -> bytes:
    classes, inputs = plan.classifier.weight.shape
    channels = _rounded(inputs, BLOCK)
    matrix = weights.matrix(plan.classifier.weight, plan.classifier.bias, channels, _rounded(classes, HALF), None)
    return _plain_step(_CLASSIFIER, 1, 1, channels, 0, classes, matrix)


__all__ = ["HEADER", "INSTRUCTION_SETS", "STEP", "VERSION", "pack"]
