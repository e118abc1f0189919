"""Writes plans as blocks: float32 here, int8 in `int8_packing`."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra_kernels.graph import Graph
from vertebra_kernels.int8_packing import pack_int8
from vertebra_kernels.int8_planner import is_int8
from vertebra_kernels.packed_block import (
    BLOCK,
    CLASSIFIER,
    FLOAT32,
    FROM_COPY,
    FROM_DENSE,
    FROM_IMAGE,
    FROM_POINTWISE,
    FUSED,
    HALF,
    HEAD,
    INVERTED_RESIDUAL,
    NO_MATRIX,
    NOT_QUANTISED,
    STEP,
    Weights,
    rounded,
    write_block,
)
from vertebra_kernels.plan import Activation, Convolution, FusedBlock, InvertedResidual, Plan
from vertebra_kernels.planner import make_plan
from vertebra_kernels.shared_library import instruction_set_number

Array: TypeAlias = NDArray[np.float32]

_LINEAR, _CLAMP, _SILU = 0, 1, 2


def pack(graph: Graph, instruction_set: str | None = None) -> bytes:
    """Plan and packed weights of `graph` in one block that can be mapped from a file.

    Raises:
        UnsupportedGraph: The graph has what the planner does not know, or is in int8 and this processor has no VNNI.
        ValueError: `instruction_set` is not one of `INSTRUCTION_SETS`.
    """
    number = instruction_set_number(instruction_set)
    if is_int8(graph):
        return pack_int8(graph, number)
    plan = make_plan(graph)
    weights = FloatWeights()
    steps = [
        _fused(block, plan, weights) if isinstance(block, FusedBlock) else _residual(block, plan, weights)
        for block in plan.blocks
    ]
    steps += [_head(plan, weights), _classifier(plan, weights)]
    return write_block(number, FLOAT32, plan.image_size, steps, weights, plan.outputs)


class FloatWeights(Weights):
    """Arrays of float32."""

    def add(self, values: NDArray[np.generic]) -> int:
        """Appends an array as float32; returns its offset."""
        return super().add(values.astype(np.float32))

    def matrix(
        self, weight: Array, bias: Array, inputs: int, outputs: int, activation: Activation | None
    ) -> tuple[object, ...]:
        """`weight` is (outputs, inputs), padded with zeros to (`outputs`, `inputs`)."""
        return self.matrices(weight[None], bias, inputs, outputs, activation)

    def matrices(
        self, weights: Array, bias: Array, inputs: int, outputs: int, activation: Activation | None
    ) -> tuple[object, ...]:
        """Several one after another, `(count, outputs, inputs)`, each padded."""
        values = np.concatenate([_blocks(weight, inputs, outputs) for weight in weights])
        padded_bias = np.zeros(outputs, np.float32)
        padded_bias[: len(bias)] = bias
        return (self.add(values), self.add(padded_bias), len(weights) * inputs, outputs, *_activation(activation), 0)


def _blocks(weight: Array, inputs: int, outputs: int) -> Array:
    padded = np.zeros((outputs, inputs), np.float32)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    whole = outputs // BLOCK * BLOCK
    blocks = padded[:whole].reshape(-1, BLOCK, inputs).transpose(0, 2, 1).reshape(-1)
    return np.concatenate([blocks, padded[whole:].T.reshape(-1)])


def _activation(activation: Activation | None) -> tuple[int, float, float]:
    if activation is None:
        return _LINEAR, 0.0, 0.0
    if activation.silu:
        return _SILU, 0.0, 0.0
    return _CLAMP, activation.low, activation.high


def _residual(block: InvertedResidual, plan: Plan, weights: FloatWeights) -> bytes:
    logical = block.depthwise.groups
    hidden, out_channels = rounded(logical, BLOCK), rounded(len(block.project.bias), HALF)
    kernel = block.depthwise.weight.shape[2]
    stem = (0, 0, 0, 0)
    if block.expand is None:
        source, channels, expand = FROM_COPY, rounded(logical, HALF), NO_MATRIX
    elif block.from_image:
        source, channels = FROM_IMAGE, hidden
        taps = _taps(block.expand, 3)
        expand = weights.matrix(taps, block.expand.bias, taps.shape[1], hidden, block.expand_activation)
        stem = _window(block.expand)
    else:
        source, channels = FROM_POINTWISE, rounded(block.expand.weight.shape[1], HALF)
        weight = block.expand.weight[:, :, 0, 0]
        expand = weights.matrix(weight, block.expand.bias, channels, hidden, block.expand_activation)
    taps = np.zeros((hidden // BLOCK, BLOCK, kernel * kernel), np.float32)
    taps.reshape(hidden, -1)[:logical] = block.depthwise.weight.reshape(logical, -1)
    depthwise_bias = np.zeros(hidden, np.float32)
    depthwise_bias[:logical] = block.depthwise.bias
    depthwise = (weights.add(taps.transpose(0, 2, 1)), weights.add(depthwise_bias))
    project = weights.matrix(block.project.weight[:, :, 0, 0], block.project.bias, hidden, out_channels, None)
    squeezed, down, up = 0, NO_MATRIX, NO_MATRIX
    if block.squeeze is not None:
        squeezed = rounded(len(block.squeeze.down.bias), BLOCK)
        layers = block.squeeze
        down = weights.matrix(layers.down.weight[:, :, 0, 0], layers.down.bias, hidden, squeezed, layers.activation)
        up = weights.matrix(layers.up.weight[:, :, 0, 0], layers.up.bias, squeezed, hidden, None)
    activation, low, high = _activation(block.depthwise_activation)
    return STEP.pack(
        INVERTED_RESIDUAL, source, block.height, block.width, channels, hidden, *block.out_size, out_channels,
        kernel, block.depthwise.stride, block.depthwise.pads[0], block.depthwise.pads[1],
        int(block.residual), squeezed, *stem, activation, low, high, *plan.scale.tolist(), *plan.shift.tolist(),
        *depthwise, *expand, *project, *down, *up, *NOT_QUANTISED,
    )  # fmt: skip


def _taps(convolution: Convolution, channels: int) -> Array:
    """Weights `(outputs, row x column x channel)` of a dense convolution; channels padded with zeros to `channels`."""
    weight = convolution.weight.transpose(0, 2, 3, 1)
    return np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, channels - weight.shape[3]))).reshape(len(weight), -1)


def _winograd(convolution: Convolution) -> Array:
    """Weights `(16, outputs, inputs)` of src/winograd.h: G g G^T."""
    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    transformed: Array = np.einsum("ai,bj,ocij->aboc", g, g, convolution.weight.astype(np.float64))
    return transformed.reshape(16, *convolution.weight.shape[:2])


def _window(convolution: Convolution) -> tuple[int, int, int, int]:
    """Kernel, stride, padding above and at the left."""
    return (convolution.weight.shape[2], convolution.stride, *convolution.pads[:2])


def _fused(block: FusedBlock, plan: Plan, weights: FloatWeights) -> bytes:
    convolution, project = block.convolution, NO_MATRIX
    outputs = len(convolution.bias)
    if block.project is None:
        hidden = out_channels = rounded(outputs, HALF)
    else:
        hidden, out_channels = rounded(outputs, BLOCK), rounded(len(block.project.bias), HALF)
        project = weights.matrix(block.project.weight[:, :, 0, 0], block.project.bias, hidden, out_channels, None)
    nowhere = (0, 0, 0, 0)
    if block.from_image:
        source, (height, width), channels, taps = FROM_IMAGE, block.out_size, hidden, _taps(convolution, 3)
        windows = (*nowhere, int(block.residual), 0, *_window(convolution))
    else:
        source, height, width = FROM_DENSE, block.height, block.width
        channels = rounded(convolution.weight.shape[1], HALF)
        taps = _taps(convolution, channels)
        windows = (*_window(convolution), int(block.residual), 0, *nowhere)
    if source == FROM_DENSE and convolution.stride == 1:
        expand = weights.matrices(_winograd(convolution), convolution.bias, channels, hidden, block.activation)
    else:
        expand = weights.matrix(taps, convolution.bias, taps.shape[1], hidden, block.activation)
    return STEP.pack(
        FUSED, source, height, width, channels, hidden, *block.out_size, out_channels, *windows,
        0, 0.0, 0.0, *plan.scale.tolist(), *plan.shift.tolist(), 0, 0, *expand, *project, *NO_MATRIX, *NO_MATRIX,
        *NOT_QUANTISED,
    )  # fmt: skip


def _plain_step(kind: int, height: int, width: int, channels: int, hidden: int, outputs: int, matrix: object) -> bytes:
    return STEP.pack(
        kind, FROM_POINTWISE, height, width, channels, hidden, 1, 1, outputs, *(11 * (0,)),
        *(8 * (0.0,)), 0, 0, *matrix, *NO_MATRIX, *NO_MATRIX, *NO_MATRIX, *NOT_QUANTISED,  # type: ignore[misc]
    )  # fmt: skip


def _head(plan: Plan, weights: FloatWeights) -> bytes:
    convolution = plan.head.convolution
    outputs, inputs = convolution.weight.shape[:2]
    channels, hidden = rounded(inputs, HALF), rounded(outputs, BLOCK)
    matrix = weights.matrix(convolution.weight[:, :, 0, 0], convolution.bias, channels, hidden, plan.head.activation)
    return _plain_step(HEAD, plan.head.height, plan.head.width, channels, hidden, outputs, matrix)


def _classifier(plan: Plan, weights: FloatWeights) -> bytes:
    classes, inputs = plan.classifier.weight.shape
    channels = rounded(inputs, BLOCK)
    matrix = weights.matrix(plan.classifier.weight, plan.classifier.bias, channels, rounded(classes, HALF), None)
    return _plain_step(CLASSIFIER, 1, 1, channels, 0, classes, matrix)
