"""Writes an int8 plan as a block: weights, biases and multipliers as in src/int8_kernels.h."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra_kernels.graph import Graph, UnsupportedGraph
from vertebra_kernels.int8_planner import Int8Convolution, Int8Layer, Int8Plan, Levels, make_int8_plan
from vertebra_kernels.packed_block import (
    BLOCK,
    CLASSIFIER,
    FROM_IMAGE,
    FROM_POINTWISE,
    HEAD,
    INT8,
    INVERTED_RESIDUAL,
    NO_MATRIX,
    STEP,
    Weights,
    rounded,
    write_block,
)
from vertebra_kernels.plan import Convolution, FusedBlock, InvertedResidual
from vertebra_kernels.shared_library import INSTRUCTION_SETS, supports_int8

Bytes: TypeAlias = NDArray[np.int8]

_QUAD = 4
# Kernel, stride and padding at the left, as in src/int8_kernels.h.
_DEPTHWISE = ((3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 1, 2), (5, 2, 2), (5, 2, 1))


def pack_int8(graph: Graph, instruction_set: int) -> bytes:
    """Plan and packed weights of `graph`; raises `UnsupportedGraph`, also where the processor lacks VNNI."""
    if not supports_int8() or INSTRUCTION_SETS[::-1][instruction_set] != "avx512":
        raise UnsupportedGraph("int8 needs AVX-512 with VNNI")
    plan = make_int8_plan(graph)
    weights = _Int8Weights()
    steps = [_residual(plan, index, weights) for index in range(len(plan.plan.blocks))]
    steps += [_head(plan, weights), _classifier(plan, weights)]
    return write_block(instruction_set, INT8, plan.plan.image_size, steps, weights, plan.plan.outputs)


class _Int8Weights(Weights):
    def matrix(
        self, layer: Int8Layer, rows: Bytes, inputs: int, outputs: int, factor: float = 1.0
    ) -> tuple[object, ...]:
        """`rows` is (outputs, inputs), padded with zeros to (`outputs`, `inputs`)."""
        padded = np.zeros((outputs, inputs), np.int8)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        blocks = padded.reshape(outputs // BLOCK, BLOCK, inputs // _QUAD, _QUAD).transpose(0, 2, 1, 3)
        return (self.add(blocks), self.outputs(layer, outputs, factor), inputs, outputs, 0, 0.0, 0.0, 0)

    def outputs(self, layer: Int8Layer, outputs: int, factor: float = 1.0) -> int:
        """Biases less what the input's zero point adds, then multipliers; both padded with zeros to `outputs`.

        ONNX Runtime rounds the multipliers in the same order, and its sums wrap around at 32 bits as these do: biases
        of channels with hardly any weights are at that limit.
        """
        taps = layer.weight.reshape(len(layer.weight), -1).astype(np.int64)
        bias = layer.bias - layer.source.zero * taps.sum(1)
        multiplier = layer.source.scale * layer.weight_scale
        if layer.result is not None:
            multiplier = multiplier / layer.result.scale
        largest = np.abs(bias) + 255 * np.abs(taps).sum(1)
        if not (np.minimum(largest, 2**31) * multiplier.astype(np.float64)).max() < 2**31:  # NaN is refused too
            raise UnsupportedGraph(f"a layer with weights {layer.weight.shape} has levels beyond 32 bits")
        values = np.zeros((2, outputs), np.int32)
        values[0, : len(bias)] = bias.astype(np.int32)
        values[1].view(np.float32)[: len(bias)] = (multiplier * np.float32(factor)).astype(np.float32)
        return self.add(values)


def _layer(convolution: Convolution) -> Int8Layer:
    if not isinstance(convolution, Int8Convolution):
        raise UnsupportedGraph(f"a convolution with weights {convolution.weight.shape} is in float32")
    return convolution.layer


def _result(layer: Int8Layer) -> Levels:
    if layer.result is None:
        raise UnsupportedGraph(f"what a layer with weights {layer.weight.shape} makes is in float32")
    return layer.result


def _quantised(
    levels: int = 0,
    image_is_levels: bool = False,
    zeros: tuple[int, int, int, int] = (0, 0, 0, 0),
    residual: tuple[float, float, float] = (0.0, 0.0, 0.0),
    head: tuple[float, float, float] = (0.0, 0.0, 0.0),
    input_last: bool = False,
) -> tuple[object, ...]:
    return (levels, int(image_is_levels), *zeros, *residual, *head, int(input_last))


def _residual(plan: Int8Plan, index: int, weights: _Int8Weights) -> bytes:
    block = plan.plan.blocks[index]
    if isinstance(block, FusedBlock):
        raise UnsupportedGraph("a first convolution without a depthwise one after it is not known in int8")
    if block.expand is None:
        raise UnsupportedGraph("a block without expansion is not known in int8")
    if block.squeeze is not None:
        raise UnsupportedGraph("squeeze-excitation is not known in int8")
    expand, depthwise, project = _layer(block.expand), _layer(block.depthwise), _layer(block.project)
    hidden, out_channels = rounded(block.depthwise.groups, BLOCK), rounded(len(project.bias), BLOCK)
    stem = (0, 0, 0, 0)
    levels = 0
    if block.from_image:
        source, channels = FROM_IMAGE, hidden
        kernel, pads = block.expand.weight.shape[2], block.expand.pads
        taps = expand.weight.transpose(0, 2, 3, 1).reshape(len(expand.weight), kernel, -1)  # row, then column, channel
        run = rounded(3 * kernel, _QUAD)
        taps = np.pad(taps, ((0, 0), (0, 0), (0, run - 3 * kernel)))
        matrix = weights.matrix(expand, taps.reshape(len(taps), -1), kernel * run, hidden)
        stem = (kernel, block.expand.stride, pads[0], pads[1])
        levels = weights.add(plan.image)
    else:
        source, channels = FROM_POINTWISE, rounded(expand.weight.shape[1], BLOCK)
        rows = expand.weight[:, :, 0, 0]
        matrix = weights.matrix(expand, rows, rounded(rows.shape[1], _QUAD), hidden)
    zeros = (expand.source.zero, _result(expand).zero, _result(depthwise).zero, _result(project).zero)
    plain = bool((plan.image == np.arange(256)).all())
    return STEP.pack(
        INVERTED_RESIDUAL, source, block.height, block.width, channels, hidden, *block.out_size, out_channels,
        block.depthwise.weight.shape[2], block.depthwise.stride, *block.depthwise.pads[:2],
        int(block.residual), 0, *stem, 0, 0.0, 0.0, *(6 * (0.0,)),
        *_depthwise(block, depthwise, weights, hidden), *matrix,
        *weights.matrix(project, project.weight[:, :, 0, 0], hidden, out_channels), *NO_MATRIX, *NO_MATRIX,
        *_quantised(levels, plain, zeros, _sum(plan, index, project), input_last=plan.input_first[index]),
    )  # fmt: skip


def _depthwise(block: InvertedResidual, layer: Int8Layer, weights: _Int8Weights, hidden: int) -> tuple[int, int]:
    """[block][kernel row][16 channels][4 columns], and the same of a fifth column."""
    channels, _, kernel, _ = layer.weight.shape
    kind = (kernel, block.depthwise.stride, block.depthwise.pads[1])
    if kind not in _DEPTHWISE:
        raise UnsupportedGraph("a depthwise convolution with kernel {}, stride {}, padding {}".format(*kind))
    taps = np.zeros((hidden, kernel, 8), np.int8)
    taps[:channels, :, :kernel] = layer.weight[:, 0]
    parts = taps.reshape(hidden // BLOCK, BLOCK, kernel, 2, 4).transpose(0, 3, 2, 1, 4)
    return weights.add(parts if kernel == 5 else parts[:, :1]), weights.outputs(layer, hidden)


def _sum(plan: Int8Plan, index: int, project: Int8Layer) -> tuple[float, float, float]:
    """How the block's input is added, rounded as ONNX Runtime does."""
    if not plan.plan.blocks[index].residual:
        return 0.0, 0.0, 0.0
    made, added, total = _result(project), plan.inputs[index], plan.outputs[index]
    ratio, input_ratio = made.scale / total.scale, added.scale / total.scale
    pairs = [(ratio, made.zero), (input_ratio, added.zero)]
    first, second = pairs[::-1] if plan.input_first[index] else pairs
    # A fused multiply-add: the product of two float32 is exact in float64.
    zeros = np.float32(float(first[0]) * first[1] + float(second[0] * np.float32(second[1])))
    fixed = np.float32(total.zero) - zeros
    return float(ratio), float(input_ratio), float(fixed)


def _plain_step(kind: int, height: int, width: int, sizes: tuple[int, int, int], *more: object) -> bytes:
    channels, hidden, outputs = sizes
    matrix, quantised = more
    return STEP.pack(
        kind, FROM_POINTWISE, height, width, channels, hidden, 1, 1, outputs, *(11 * (0,)),
        *(8 * (0.0,)), 0, 0, *matrix, *NO_MATRIX, *NO_MATRIX, *NO_MATRIX, *quantised,  # type: ignore[misc]
    )  # fmt: skip


def _head(plan: Int8Plan, weights: _Int8Weights) -> bytes:
    head = plan.plan.head
    layer = _layer(head.convolution)
    outputs, inputs = layer.weight.shape[:2]
    channels, hidden = rounded(inputs, BLOCK), rounded(outputs, BLOCK)
    made, mean = _result(layer), plan.mean
    multiplier = made.scale / (mean.scale * np.float32(head.height * head.width))
    if not multiplier < 256:
        raise UnsupportedGraph(f"the means are {multiplier:g} times as fine as the map")
    matrix = weights.matrix(layer, layer.weight[:, :, 0, 0], rounded(inputs, _QUAD), hidden)
    quantised = _quantised(
        zeros=(layer.source.zero, made.zero, 0, mean.zero),
        head=(float(multiplier), float(made.scale), float(mean.scale)),
    )
    return _plain_step(HEAD, head.height, head.width, (channels, hidden, outputs), matrix, quantised)


def _classifier(plan: Int8Plan, weights: _Int8Weights) -> bytes:
    layer = plan.classifier
    classes, inputs = layer.weight.shape
    channels = rounded(inputs, BLOCK)
    matrix = weights.matrix(layer, layer.weight, rounded(inputs, _QUAD), rounded(classes, BLOCK), plan.factor)
    return _plain_step(CLASSIFIER, 1, 1, (channels, 0, classes), matrix, _quantised())
