"""Small random networks of quantised layers, and the integers that they should compute."""

import numpy as np
from networks import Builder, _convolve
from vertebra_kernels import Graph


class Int8Builder(Builder):
    """As `Builder`, with each layer between QuantizeLinear and DequantizeLinear."""

    def __init__(self, size, seed=0, lite=False):
        super().__init__(size, seed)
        self.nodes.clear()
        self.tensor, self.pairs, self.scales = "image", {}, {}
        if lite:  # the bytes are the levels
            self.add("Transpose", perm=[0, 3, 1, 2])
            self.dequantise(0.0078125, 127)
            return
        height, width = size
        scale, shift = self.random.uniform(0.01, 0.02, 3), self.random.uniform(-2, -1, 3)
        self.add("Reshape", self.integers([-1, height, width * 3], np.int64))
        self.add("Cast", to=1)
        self.add("Mul", self.constant(np.tile(scale, width)))
        self.add("Add", self.constant(np.tile(shift, width)))
        self.quantise(0.015, 130)
        self.add("Reshape", self.integers([-1, height, width, 3], np.int64))
        self.add("Transpose", perm=[0, 3, 1, 2])
        self.dequantise(0.015, 130)

    def integers(self, values, dtype):
        name = self.constant(0)
        self.constants[name] = np.asarray(values, dtype)
        return name

    def quantise(self, scale, zero):
        self.add("QuantizeLinear", self.constant(scale), self.integers(zero, np.uint8))

    def dequantise(self, scale, zero):
        self.add("DequantizeLinear", self.constant(scale), self.integers(zero, np.uint8))
        self.scales[self.tensor] = np.float32(scale)

    def pair(self, scale, zero):
        self.quantise(scale, zero)
        self.dequantise(scale, zero)

    def weights(self, values, scale):
        name = self.integers(values, values.dtype)
        zero = self.integers(np.zeros(len(scale)), values.dtype)
        before = self.tensor
        after = self.add("DequantizeLinear", self.constant(scale), zero, first=name, axis=0)
        self.tensor = before
        return after

    def conv(self, outputs, kernel=1, stride=1, groups=1, pads=None, linear=False):
        inputs = self.channels // groups
        weight = self.random.integers(-127, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
        result = (0.3, int(self.random.integers(90, 160))) if linear else (0.0235, 0)
        spread = 0.3 if linear else 1.0  # of the results, in units of the most that can be told apart
        scale = spread * 255 * result[0] / (np.sqrt(inputs * kernel * kernel) * 5000 * self.scales[self.tensor])
        scale = (scale * self.random.uniform(0.5, 2, outputs)).astype(np.float32)
        limit = 3000 * np.sqrt(inputs * kernel * kernel)
        bias = self.random.integers(-limit, limit, outputs).astype(np.int32)
        bias[0] = 2**31 - 1  # as of a channel that hardly has weights: the sum wraps around
        names = self.weights(weight, scale), self.weights(bias, self.scales[self.tensor] * scale)
        pads = [kernel // 2] * 4 if pads is None else pads
        self.add("Conv", *names, group=groups, strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2)
        self.channels = outputs
        self.pair(*result)

    def block(self, outputs, hidden=None, kernel=3, stride=1, lite=False):
        start, channels = self.tensor, self.channels
        if hidden:
            self.conv(hidden)
        k = kernel // 2
        pads = [k - 1, k - 1, k, k] if lite and stride == 2 else [k] * 4
        self.conv(self.channels, kernel, stride, groups=self.channels, pads=pads)
        self.conv(outputs, linear=True)
        if stride == 1 and outputs == channels and hidden:
            made = self.tensor
            self.add("Add", made if lite else start, first=start if lite else made)
            self.pair(0.35, 120)

    def head(self, features, classes):
        self.conv(features)
        outputs = {"features": self.tensor}
        self.add("GlobalAveragePool")
        self.pair(0.015, 3)
        self.add("Flatten", axis=1)
        self.pair(0.015, 3)
        outputs["embedding"] = self.tensor
        weight = self.random.integers(-127, 128, (classes, features)).astype(np.int8)
        scale = self.random.uniform(0.0005, 0.002, classes).astype(np.float32)
        bias = self.random.integers(-9000, 9000, classes).astype(np.int32)
        names = self.weights(weight, scale), self.weights(bias, self.scales[self.tensor] * scale)
        outputs["logits"] = self.add("Gemm", *names, transB=1)
        outputs["probabilities"] = self.add("Softmax", axis=1)
        return Graph(self.nodes, self.constants, "image", outputs, self.size)


def mobilenet(size=(62, 94), seed=0):
    b = Int8Builder(size, seed)
    b.conv(24, 3, 2)
    b.block(16)
    b.block(24, 96, stride=2)
    b.block(24, 144)
    b.block(40, 136, stride=2)
    b.block(40, 88)
    b.block(56, 240)
    return b.head(70, 37)


def lite(size=(61, 53), seed=0):
    b = Int8Builder(size, seed, lite=True)
    b.conv(32, 3, 2, pads=[0, 0, 1, 1])
    b.block(16)
    b.block(24, 96, 5, 2, lite=True)
    b.block(24, 144, 5, lite=True)
    b.block(8, 144, 3, 2, lite=True)
    b.block(20, 48, 5, 2)
    b.block(20, 112, 3, lite=True)
    return b.head(72, 10)


FAMILIES = {"mobilenet": mobilenet, "lite": lite}


def evaluate(graph, images):
    """The outputs of `graph`: sums of integers, rounded to levels in the order of ONNX Runtime.

    An activation is (levels, scale, zero point); a layer's result is (sums, scale) until it is quantised.
    """
    values = {graph.input: images, **graph.constants}
    for node in graph.nodes:
        values[node.outputs[0]] = _apply(node, [values[name] for name in node.inputs])
    found = {name: values[tensor] for name, tensor in graph.outputs.items()}
    return {
        name: _float(value) if isinstance(value, tuple) else value.astype(np.float32) for name, value in found.items()
    }


def _float(value):
    levels, scale, zero = value
    return (levels - zero).astype(np.float32) * scale


def _apply(node, inputs):
    x, attributes = inputs[0], node.attributes
    match node.op:
        case "Reshape":
            return x.reshape([int(size) for size in inputs[1]])
        case "Cast":
            return x.astype(np.float32)
        case "Mul":
            return x * inputs[1]
        case "Transpose":
            return x.transpose(attributes["perm"])
        case "DequantizeLinear":
            return (x, inputs[1], int(inputs[2])) if "axis" not in attributes else (x.astype(np.int64), inputs[1])
        case "QuantizeLinear":
            return _quantise(x, inputs[1], int(inputs[2]))
        case "Conv":
            (levels, scale, zero), (weight, weight_scale), (bias, _) = inputs
            sums = _convolve((levels.astype(np.float64) - zero), weight.astype(np.float64), bias, **attributes)
            sums = (sums.astype(np.int64) + 2**31) % 2**32 - 2**31
            return sums, (scale * weight_scale)[:, None, None]
        case "Add":
            return (*x, *inputs[1]) if isinstance(x, tuple) else x + inputs[1]
        case "GlobalAveragePool":
            levels, scale, zero = x
            sums = (levels.astype(np.int64) - zero).sum((2, 3), keepdims=True)
            return sums, scale, levels.shape[2] * levels.shape[3]
        case "Flatten":
            levels, scale, zero = x
            return levels.reshape(len(levels), -1), scale, zero
        case "Gemm":
            (levels, scale, zero), (weight, weight_scale), (bias, _) = inputs
            sums = (levels.astype(np.int64) - zero) @ weight.T + bias
            return sums.astype(np.float32) * (scale * weight_scale)
        case "Softmax":
            exponentials = np.exp(x - x.max(1, keepdims=True))
            return exponentials / exponentials.sum(1, keepdims=True)
    raise AssertionError(node.op)


def _quantise(x, scale, zero):
    match x:
        case (sums, scales):
            scaled = sums.astype(np.float32) * (scales / scale)
        case (sums, own, count) if sums.ndim == 4 and sums.shape[2:] == (1, 1) and isinstance(count, int):
            scaled = sums.astype(np.float32) * (own / (scale * np.float32(count)))
        case (levels, own, own_zero, other, other_scale, other_zero):
            return _sum((levels, own, own_zero), (other, other_scale, other_zero), scale, zero)
        case (levels, _, _):
            return levels  # flattened: its levels are those before
        case _:
            scaled = x / scale
    return (np.clip(np.rint(scaled), -zero, 255 - zero) + zero).astype(np.uint8)


def _sum(first, second, scale, zero):
    """Each product of two float32 is exact in float64, so this rounds as fused multiply-adds do."""
    ratios = [np.float32(values[1] / scale) for values in (first, second)]
    zeros = np.float32(float(ratios[0]) * first[2] + float(ratios[1] * np.float32(second[2])))
    total = np.full(first[0].shape, np.float32(zero) - zeros, np.float32)
    for values, ratio in ((second, ratios[1]), (first, ratios[0])):
        total = (values[0] * float(ratio) + total.astype(np.float64)).astype(np.float32)
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)
