"""Turns a graph into fused steps: (fused) inverted residuals, the last convolution with its average, the classifier.

The graph is read in its own order from the input on. What does not match a step raises `UnsupportedGraph`; nothing is
approximated or left out.
"""

from __future__ import annotations

import numpy as np

from vertebra_kernels.graph import Graph, Node, UnsupportedGraph
from vertebra_kernels.graph_reader import GraphReader, integers
from vertebra_kernels.plan import (
    Activation,
    Array,
    Classifier,
    Convolution,
    FusedBlock,
    Head,
    InvertedResidual,
    Plan,
    SqueezeExcitation,
    output_size,
)


def make_plan(graph: Graph) -> Plan:
    """The steps of `graph`; raises `UnsupportedGraph`."""
    return Reader(graph).plan()


class Reader(GraphReader):
    """Follows the graph from its input; `tensor` is where it stands. In int8 `int8_planner` reads more with it."""

    def plan(self) -> Plan:
        """All steps, from the image to the probabilities."""
        scale, shift = self.normalisation()
        node = self.peek()
        stem, stem_activation = self.convolution(), self.activation()
        if stem.groups != 1 or stem.weight.shape[1] != 3 or stem.weight.shape[2] != 3:
            raise UnsupportedGraph("the first convolution is not a 3 × 3 one of the image's three channels")
        self.advance(node, stem)
        blocks: list[InvertedResidual | FusedBlock] = []
        if self.is_depthwise():
            blocks.append(self.block(stem, stem_activation))
        else:
            blocks.append(FusedBlock(*self.graph.image_size, stem, stem_activation, from_image=True))
        while not self.is_head():
            blocks.append(self.fused_block() if self.is_dense() else self.block())
        head = Head(self.height, self.width, self.pointwise(), self.activation())
        self.kinds[self.tensor] = "features"
        self.take("GlobalAveragePool")
        flatten = self.take("Flatten", "Reshape")
        if flatten.op == "Flatten" and flatten.attributes.get("axis", 1) != 1:
            raise self.unsupported(flatten, "its axis is not 1")
        if flatten.op == "Reshape" and list(self.constant(flatten, 1)) not in (
            [0, -1],
            [0, len(head.convolution.bias)],
        ):
            raise self.unsupported(flatten, "it does not flatten the means")
        self.kinds[self.tensor] = "embedding"
        classifier = self.classifier(len(head.convolution.bias))
        plan = Plan(self.graph.image_size, scale, shift, blocks, head, classifier)
        for name, tensor in self.graph.outputs.items():
            if tensor not in self.kinds:
                raise UnsupportedGraph(f"output {name!r} is neither features, embedding, logits nor probabilities")
            plan.outputs[name] = self.kinds[tensor]
        for node in self.graph.nodes:
            if node.outputs[0] not in self.read and node.op != "Constant":
                raise self.unsupported(node, "it is not part of a known step")
        return plan

    # Steps

    def normalisation(self) -> tuple[Array, Array]:
        """Scale and shift of the image's three channels."""
        transpose = self.take("Transpose")
        if list(integers(transpose.attributes.get("perm"))) != [0, 3, 1, 2]:
            raise self.unsupported(transpose, "the input is not (N, height, width, 3)")
        cast = self.take("Cast")
        if cast.attributes.get("to") != 1:
            raise self.unsupported(cast, "it is not to float32")
        scale, shift = np.ones(3, np.float32), np.zeros(3, np.float32)
        node = self.peek()
        if node.op == "Mul":
            scale = self.channels(self.take("Mul"))
            node = self.peek()
        if node.op == "Add":
            shift = self.channels(self.take("Add"))
        return scale, shift

    def block(self, stem: Convolution | None = None, stem_activation: Activation | None = None) -> InvertedResidual:
        """An inverted residual; the first takes the stem in the place of its expansion."""
        start, height, width = self.tensor, self.height, self.width
        expand, expand_activation = stem, stem_activation or Activation()
        node = self.peek("Conv")
        if stem is None and self.groups(node) == 1:
            expand = self.pointwise()
            expand_activation = self.activation()
            if expand_activation == Activation():
                raise self.unsupported(node, "no activation follows this convolution, and no step has it so")
        node = self.peek("Conv")
        depthwise = self.convolution()
        if depthwise.groups == 1 or depthwise.groups != len(depthwise.bias) or depthwise.weight.shape[2] not in (3, 5):
            raise self.unsupported(node, "it is not a depthwise convolution of 3 × 3 or 5 × 5")
        if expand is not None and depthwise.groups != len(expand.bias):
            raise self.unsupported(node, "its groups are not the channels before")
        self.advance(node, depthwise)
        depthwise_activation = self.activation()
        squeeze = self.squeeze_excitation()
        project = self.pointwise()
        if project.weight.shape[1] != depthwise.groups:
            raise self.unsupported(node, "its channels are not those of the convolution after")
        channels = depthwise.groups if expand is None else expand.weight.shape[1]
        residual = stem is None and self.sum_with(start, (channels, height, width), len(project.bias))
        return InvertedResidual(
            height, width, expand, expand_activation, depthwise, depthwise_activation, squeeze, project, residual,
            from_image=stem is not None,
        )  # fmt: skip

    def fused_block(self) -> FusedBlock:
        """A dense convolution with its activation, the projection if one follows, and the sum with its input."""
        start, height, width = self.tensor, self.height, self.width
        node = self.peek("Conv")
        convolution = self.convolution()
        if convolution.weight.shape[2] != 3:
            raise self.unsupported(node, "it is a dense convolution, but not of 3 × 3")
        self.advance(node, convolution)
        activation = self.activation()
        if activation == Activation():
            raise self.unsupported(node, "no activation follows this convolution, and no step has it so")
        project = self.pointwise() if self.is_projection() else None
        outputs = len((project or convolution).bias)
        residual = self.sum_with(start, (convolution.weight.shape[1], height, width), outputs)
        return FusedBlock(height, width, convolution, activation, project, residual)

    def squeeze_excitation(self) -> SqueezeExcitation | None:
        """Sigmoid(conv(activation(conv(means)))) x map, if it follows."""
        start, users = self.tensor, self.users.get(self.tensor, [])
        if [node.op for node in users] == ["Conv"]:
            return None
        pool = [node for node in users if node.op == "GlobalAveragePool"]
        product = [node for node in users if node.op == "Mul"]
        if len(users) != 2 or not pool or not product:
            raise UnsupportedGraph(f"tensor {start!r}: its users are no squeeze-excitation")
        self.step_to(pool[0])
        down = self.pointwise()
        activation = self.activation()
        up = self.pointwise()
        self.take("Sigmoid")
        node = self.peek("Mul")
        if node is not product[0] or set(node.inputs) != {start, self.tensor}:
            raise self.unsupported(node, "it does not gate the map that was squeezed")
        self.step_to(node)
        return SqueezeExcitation(down, activation, up)

    def classifier(self, channels: int) -> Classifier:
        """The dense layer on the embedding, the temperature and the softmax that follow."""
        node = self.take("Gemm")
        weight = self.constant(node, 1).astype(np.float32)
        attributes = node.attributes
        if not attributes.get("transB", 0):
            weight = weight.T
        if attributes.get("transA", 0) or weight.ndim != 2 or weight.shape[1] != channels:
            raise self.unsupported(node, "it is not a dense layer on the embedding")
        bias = self.constant(node, 2).astype(np.float32) if len(node.inputs) > 2 else np.zeros(1, np.float32)
        bias = np.broadcast_to(bias.reshape(-1), (weight.shape[0],))
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            raise self.unsupported(node, "its alpha or beta is not 1")
        self.kinds[self.tensor] = "logits"
        factor = self.temperature()
        if self.users.get(self.tensor):
            node = self.take("Softmax")
            if node.attributes.get("axis", -1) not in (1, -1):
                raise self.unsupported(node, "its axis is not that of the classes")
            self.kinds[self.tensor] = "probabilities"
        return self.scaled(Classifier(np.ascontiguousarray(weight), np.ascontiguousarray(bias)), factor)

    def scaled(self, classifier: Classifier, factor: float) -> Classifier:
        """The classifier with its logits times `factor`."""
        if factor == 1:
            return classifier
        weight, bias = (values.astype(np.float64) * factor for values in (classifier.weight, classifier.bias))
        return Classifier(weight.astype(np.float32), bias.astype(np.float32))

    def temperature(self) -> float:
        """The factor of the logits that follows, if one does."""
        following = self.users.get(self.tensor, [])
        if not following or following[0].op not in ("Mul", "Div"):
            return 1.0
        if self.tensor in self.graph.outputs.values():
            raise self.unsupported(following[0], "the logits before it are an output too")
        node = self.take("Mul", "Div")
        values = self.constant(node, 1)
        if values.size != 1 or not float(values.reshape(())):
            raise self.unsupported(node, "its factor is not one number")
        self.kinds = {tensor: kind for tensor, kind in self.kinds.items() if kind != "logits"}
        self.kinds[self.tensor] = "logits"
        factor = float(values.reshape(()))
        return factor if node.op == "Mul" else 1 / factor

    # Parts of steps

    def is_head(self) -> bool:
        """Whether what follows is a 1 x 1 convolution with its activation and the global average."""
        with self.looking_ahead() as known:
            self.pointwise()
            self.activation()
            ops = [node.op for node in self.users.get(self.tensor, [])]
            known.append("GlobalAveragePool" in ops and "Mul" not in ops)
        return known == [True]

    def is_projection(self) -> bool:
        """Whether what follows is a 1 x 1 convolution without activation."""
        with self.looking_ahead() as known:
            self.pointwise()
            known.append(self.activation() == Activation())
        return known == [True]

    def is_depthwise(self) -> bool:
        """Whether what follows is a convolution in groups."""
        return self.groups(self.peek("Conv")) != 1

    def is_dense(self) -> bool:
        """Whether what follows is a convolution of several positions and all channels."""
        weight = self.constant(self.peek("Conv"), 1)
        return not self.is_depthwise() and weight.ndim == 4 and weight.shape[2] != 1

    def advance(self, node: Node, convolution: Convolution) -> None:
        """Goes on to the size of a convolution's output."""
        self.height, self.width = output_size(self.height, self.width, convolution)
        if min(self.height, self.width) < 1:
            raise self.unsupported(node, "its output is empty")

    def pointwise(self) -> Convolution:
        """A 1 x 1 convolution."""
        node = self.peek("Conv")
        convolution = self.convolution()
        if convolution.groups != 1 or convolution.weight.shape[2] != 1 or convolution.stride != 1:
            raise self.unsupported(node, "it is not a 1 × 1 convolution of stride 1")
        if any(convolution.pads):
            raise self.unsupported(node, "a 1 × 1 convolution has padding")
        return convolution

    def convolution(self) -> Convolution:
        """The convolution that follows."""
        node = self.take("Conv")
        weight = self.constant(node, 1).astype(np.float32)
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise self.unsupported(node, "its kernel is not square")
        kernel = weight.shape[2]
        bias = self.constant(node, 2).astype(np.float32) if len(node.inputs) > 2 else np.zeros(len(weight), np.float32)
        attributes = node.attributes
        strides = integers(attributes.get("strides"), (1, 1))
        pads = integers(attributes.get("pads"), (0, 0, 0, 0))
        if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
            raise self.unsupported(node, "auto_pad is given instead of pads")
        if any(d != 1 for d in integers(attributes.get("dilations"), (1, 1))):
            raise self.unsupported(node, "it is dilated")
        if len(strides) != 2 or strides[0] != strides[1] or strides[0] not in (1, 2):
            raise self.unsupported(node, f"its strides are {list(strides)}, not 1 or 2 both ways")
        if len(pads) != 4 or any(not 0 <= pad < kernel for pad in pads):
            raise self.unsupported(node, f"its pads are {list(pads)}")
        top, left, bottom, right = pads
        return Convolution(weight, bias, strides[0], (top, left, bottom, right), self.groups(node))

    def activation(self) -> Activation:
        """The activation that follows, if one does: Clip, Relu, or x · Sigmoid(x)."""
        users = self.users.get(self.tensor, [])
        ops = sorted(node.op for node in users)
        if ops == ["Mul", "Sigmoid"]:
            start = self.tensor
            sigmoid, product = sorted(users, key=lambda node: node.op, reverse=True)
            if set(product.inputs) == {start, sigmoid.outputs[0]}:
                self.alone(start)
                self.step_to(sigmoid)
                self.step_to(product)
                return Activation(silu=True)
        if ops == ["Relu"]:
            self.take("Relu")
            return Activation(low=0.0)
        if ops == ["Clip"]:
            node = self.take("Clip")
            low, high = -np.inf, np.inf
            if len(node.inputs) > 1 and node.inputs[1]:
                low = float(self.constant(node, 1))
            if len(node.inputs) > 2 and node.inputs[2]:
                high = float(self.constant(node, 2))
            return Activation(low=float(node.attributes.get("min", low)), high=float(node.attributes.get("max", high)))  # type: ignore[arg-type]
        return Activation()

    def sum_with(self, start: str, size: tuple[int, int, int], channels: int) -> bool:
        """Whether the sum with the block's input follows, of channels, height and width `size`; takes it."""
        users = self.users.get(self.tensor, [])
        if [node.op for node in users] != ["Add"]:
            return False
        node = self.take("Add")
        if start not in node.inputs:
            raise self.unsupported(node, "it does not add the input of its block")
        if size != (channels, self.height, self.width):
            raise self.unsupported(node, "the sum is of maps of two sizes")
        return True
