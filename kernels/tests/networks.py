"""Small random networks of the four families, and what they should compute, in float64."""

import numpy as np
from vertebra_kernels import Graph, Node


class Builder:
    """Adds nodes one after another; `tensor` is the last."""

    def __init__(self, size, seed=0, gain=1.4):
        self.random = np.random.default_rng(seed)
        self.gain, self.nodes, self.constants, self.tensor, self.channels = gain, [], {}, "image", 3
        self.size = size
        self.add("Transpose", perm=[0, 3, 1, 2])
        self.add("Cast", to=1)
        self.add("Mul", self.constant(self.random.uniform(0.01, 0.02, (1, 3, 1, 1))))
        self.add("Add", self.constant(self.random.uniform(-2, -1, (1, 3, 1, 1))))

    def constant(self, values):
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(values, np.float32)
        return name

    def add(self, op, *more, first=None, **attributes):
        out = f"{op}_{len(self.nodes)}"
        self.nodes.append(Node(op, (first or self.tensor, *more), (out,), attributes))
        self.tensor = out
        return out

    def conv(self, outputs, kernel=1, stride=1, groups=1, pads=None):
        inputs = self.channels // groups
        scale = self.gain / np.sqrt(inputs * kernel * kernel)
        weight = self.constant(self.random.normal(0, scale, (outputs, inputs, kernel, kernel)))
        bias = self.constant(self.random.normal(0, 0.3, outputs))
        pads = [kernel // 2] * 4 if pads is None else pads
        self.add("Conv", weight, bias, group=groups, strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2)
        self.channels = outputs

    def activation(self, kind):
        if kind == "relu6":
            self.add("Clip", self.constant(0.0), self.constant(6.0))
        elif kind == "relu":
            self.add("Relu")
        elif kind == "silu":
            start = self.tensor
            self.add("Mul", self.add("Sigmoid"), first=start)

    def squeeze(self, squeezed, kind):
        start, channels = self.tensor, self.channels
        self.add("GlobalAveragePool")
        self.conv(squeezed)
        self.activation(kind)
        self.conv(channels)
        self.add("Mul", start, first=self.add("Sigmoid"))

    def block(self, kind, outputs, hidden=None, kernel=3, stride=1, squeeze=0, lite=False):
        start, channels = self.tensor, self.channels
        if hidden:
            self.conv(hidden)
            self.activation(kind)
        k = kernel // 2
        pads = [k - 1, k - 1, k, k] if lite and stride == 2 else [k] * 4
        self.conv(self.channels, kernel, stride, groups=self.channels, pads=pads)
        self.activation(kind)
        if squeeze:
            self.squeeze(squeeze, kind)
        self.conv(outputs)
        if stride == 1 and outputs == channels and hidden:
            self.add("Add", start)

    def fused(self, kind, outputs, hidden=None, stride=1, pads=None):
        start, channels = self.tensor, self.channels
        self.conv(hidden or outputs, 3, stride, pads=pads)
        self.activation(kind)
        if hidden:
            self.conv(outputs)
        if stride == 1 and outputs == channels:
            self.add("Add", start)

    def head(self, kind, features, classes, temperature=None):
        self.conv(features)
        self.activation(kind)
        outputs = {"features": self.tensor}
        self.add("GlobalAveragePool")
        outputs["embedding"] = self.add("Flatten", axis=1)
        weight = self.constant(self.random.normal(0, 0.2, (classes, features)))
        outputs["logits"] = self.add("Gemm", weight, self.constant(self.random.normal(0, 0.1, classes)), transB=1)
        if temperature:
            outputs["logits"] = self.add("Mul", self.constant(temperature))
        outputs["probabilities"] = self.add("Softmax", axis=1)
        return Graph(self.nodes, self.constants, "image", outputs, self.size)


def mobilenet(size=(62, 94), width=1.0, seed=0, gain=1.4):
    b = Builder(size, seed, gain)
    w = lambda channels: max(8, int(channels * width) // 8 * 8)  # noqa: E731
    b.conv(w(32), 3, 2)
    b.activation("relu6")
    b.block("relu6", w(16))
    b.block("relu6", w(24), 6 * b.channels, stride=2)
    b.block("relu6", w(24), 6 * b.channels)
    b.block("relu6", w(40), 6 * b.channels, stride=2)
    b.block("relu6", w(40), 6 * b.channels)
    return b.head("relu6", w(160), 37)


def lite(size=(61, 53), seed=0):
    b = Builder(size, seed)
    b.conv(32, 3, 2, pads=[0, 0, 1, 1])
    b.activation("relu6")
    b.block("relu6", 16)
    b.block("relu6", 24, 96, 5, 2, lite=True)
    b.block("relu6", 24, 144, 5)
    b.block("relu6", 8, 144, 3, 2, lite=True)
    return b.head("relu6", 72, 10, temperature=0.7)


def efficientnet(size=(75, 49), seed=0):
    b = Builder(size, seed)
    b.conv(24, 3, 2)
    b.activation("silu")
    b.block("silu", 16, squeeze=6)
    b.block("silu", 16, squeeze=4)  # without expansion, as in B1 and above
    b.block("silu", 24, 96, 3, 2, squeeze=4)
    b.block("silu", 24, 144, 5, squeeze=6)
    b.block("silu", 40, 144, 5, 2, squeeze=6)
    return b.head("silu", 88, 21)


def efficientnet_v2(size=(75, 49), seed=0, kind="silu", pads=None):
    """`pads`: of the dense convolutions of stride 1."""
    b = Builder(size, seed)
    b.conv(24, 3, 2)
    b.activation(kind)
    b.fused(kind, 24, pads=pads)
    b.fused(kind, 20, pads=pads)  # padded channels, and no sum
    b.fused(kind, 40, 80, stride=2)
    b.fused(kind, 40, 92, pads=pads)
    b.fused(kind, 16, stride=2)
    b.fused(kind, 8, pads=pads)
    b.block(kind, 24, 64, 3, 2, squeeze=4)
    b.block(kind, 24, 144, 3, squeeze=6)
    return b.head(kind, 88, 21)


FAMILIES = {"mobilenet": mobilenet, "lite": lite, "efficientnet": efficientnet, "efficientnet_v2": efficientnet_v2}


def evaluate(graph, images):
    """All tensors of `graph`, in float64."""
    values = {graph.input: images, **{name: value.astype(np.float64) for name, value in graph.constants.items()}}
    for node in graph.nodes:
        values[node.outputs[0]] = _apply(node, [values[name] for name in node.inputs])
    return {name: values[tensor] for name, tensor in graph.outputs.items()}


def _apply(node, inputs):
    x, attributes = inputs[0], node.attributes
    match node.op:
        case "Transpose":
            return x.transpose(attributes["perm"])
        case "Cast":
            return x.astype(np.float64)
        case "Mul":
            return x * inputs[1]
        case "Add":
            return x + inputs[1]
        case "Clip":
            return np.clip(x, inputs[1], inputs[2])
        case "Relu":
            return np.maximum(x, 0)
        case "Sigmoid":
            with np.errstate(over="ignore"):
                return 1 / (1 + np.exp(-x))
        case "GlobalAveragePool":
            return x.mean((2, 3), keepdims=True)
        case "Flatten":
            return x.reshape(len(x), -1)
        case "Gemm":
            return x @ inputs[1].T + inputs[2]
        case "Softmax":
            exponentials = np.exp(x - x.max(1, keepdims=True))
            return exponentials / exponentials.sum(1, keepdims=True)
        case "Conv":
            return _convolve(x, inputs[1], inputs[2], **attributes)
    raise AssertionError(node.op)


def _convolve(x, weight, bias, group, strides, pads, kernel_shape):
    (kernel, _), (stride, _) = kernel_shape, strides
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    subscripts = "nchwij,cij->nchw" if group > 1 else "nchwij,ocij->nohw"
    weight = weight[:, 0] if group > 1 else weight
    return np.einsum(subscripts, windows, weight, optimize=True) + bias[:, None, None]
