"""Builds a `Graph` from an ONNX file: infers the shape and type of every tensor for one input size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from vertebra.card import CardError

from .ir import Graph, Module, Node, Storage, Tensor
from .onnx_inputs import input_shapes
from .onnx_reader import TYPES, Array, OnnxFile, OnnxNode
from .onnx_shapes import RULES, UNKNOWN_ERRORS, NodeContext
from .onnx_values import EVALUATORS, NEED_SHAPES_ONLY
from .shapes import Shape

# Their outputs share the memory of their input.
_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_FILLS = frozenset({"ConstantOfShape", "Expand", "Tile"})  # whose output is larger than their input
_DOMAINS = ("", "ai.onnx", "com.microsoft")  # whose operators have shape rules and costs
_MAX_VALUES = 4096  # of a tensor that is evaluated: shapes, not images
# Operator -> positions of the inputs that hold parameters; in others each weight of more than one value is one.
_WITHOUT_PARAMETERS = """
Clip DequantizeLinear DynamicQuantizeLinear Pad QLinearGlobalAveragePool QuantizeLinear Resize Upsample
"""
_PARAMETERS: dict[str, Sequence[int]] = dict.fromkeys(_WITHOUT_PARAMETERS.split(), ()) | {
    "BatchNormalization": (1, 2),  # neither mean nor variance
    "Expand": (0,),
    "QLinearAdd": (0, 3),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QLinearMul": (0, 3),
    "QGemm": (0, 3, 6),
}
_INTEGER_OPERANDS = frozenset({"ConvInteger", "MatMulInteger", "QGemm", "QLinearAdd", "QLinearConv", "QLinearMatMul"})
# Weights that Vertebra's exporter adds: for normalisation, and for poolings that ONNX has no operator for.
_POOLING_MATRIX = "constant_"
_NO_PARAMETERS = ("scale", "shift", "row.scale", "row.shift", _POOLING_MATRIX)


class _GraphBuilder:
    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.graph = Graph([], [], (), (), is_onnx=True)
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, Array] = {}
        self.assumed: list[str] = []  # operators whose output shapes are assumed
        outputs = {value.name for value in file.outputs}
        # A result that is only read by QuantizeLinear is written in 8 bits: a runtime fuses the two operations.
        self.rounded = {
            node.inputs[0]: node
            for node in file.nodes
            if node.kind == "QuantizeLinear"
            and node.inputs[0] in file.makers
            and file.num_readers[node.inputs[0]] == 1
            and node.inputs[0] not in outputs
        }

    def add_tensor(self, name: str, shape: Shape, kind: tuple[str, float], like: Tensor | None = None) -> Tensor:
        """Add a tensor of that name, which shares the memory of `like`, if given."""
        elements = math.prod(shape)
        if like is None:
            storage, itemsize = len(self.graph.storages), kind[1]
            self.graph.storages.append(Storage(math.ceil(elements * itemsize), len(self.graph.nodes)))
        else:
            storage, itemsize = like.storage, like.itemsize
        tensor = Tensor(storage, tuple(shape), kind[0], itemsize, elements, name=name)
        self.tensors[name] = tensor
        return tensor

    def operand(self, name: str) -> Tensor | None:
        """An input of a node; a weight is added at its first use."""
        if not name:
            return None
        if name not in self.tensors and name in self.file.tensors:
            weight = self.file.tensors[name]
            kind = TYPES.get(weight.kind, ("unknown", 4))
            tensor = self.add_tensor(name, weight.shape, kind)
            self.graph.storages[tensor.storage].path = name
            if weight.count <= 64 or (kind[0] == "int64" and weight.count <= _MAX_VALUES):
                with suppress(CardError):  # of a type that shapes are never computed from, or in a missing file
                    self.values[name] = self.file.read(name)
        return self.tensors.get(name)

    def add_node(self, node: OnnxNode, module: str) -> None:
        """Add an operation, unless its results depend on shapes and weights alone."""
        if node.kind == "Constant":
            self.add_constant(node)
            return
        operands = tuple(map(self.operand, node.inputs))
        values = [self.values.get(name) for name in node.inputs]
        context = NodeContext(node, [None if t is None else t.shape for t in operands], values)
        if self.fold_constant(context):
            return
        shapes = self.infer_shapes(context)
        known = [tensor for tensor in operands if tensor is not None]
        if known and all(map(self.graph.is_weight, known)):  # a runtime computes it once, at load time
            for name, shape in zip(node.outputs, shapes, strict=False):
                made = self.add_tensor(name, shape, ("float32", 4), None if node.kind in _FILLS else known[0])
                self.graph.storages[made.storage].path = self.graph.storages[made.storage].path or name
            return
        outputs = [
            self.add_output(node, index, name, shape, known)
            for index, (name, shape) in enumerate(zip(node.outputs, shapes, strict=False))
            if name and (index == 0 or self.file.num_readers[name] or node.kind in ("Split", "TopK"))
        ]
        self.mark_parameters(node, operands)
        self.graph.nodes.append(
            Node(
                self.operator_name(node),
                node.attributes,
                tuple(dict.fromkeys(known)),
                tuple(outputs),
                module,
                node.name.strip("/") or f"{node.kind}_{len(self.graph.nodes) + 1}",
                operands=operands,
            )
        )

    def operator_name(self, node: OnnxNode) -> str:
        """The operator's name, with its domain unless it is a known operator."""
        constants = any(name.startswith(_POOLING_MATRIX) and name in self.file.tensors for name in node.inputs)
        if node.kind == "MatMul" and constants and self.file.producer == "vertebra":
            return "vertebra::AdaptivePool"
        known = node.domain in _DOMAINS and node.kind not in self.file.functions
        return node.kind if known else f"{node.domain}::{node.kind}"

    def add_constant(self, node: OnnxNode) -> None:
        name = node.outputs[0]
        if name in self.file.tensors:
            return
        found = next((v for k, v in node.attributes.items() if k.startswith("value") and not isinstance(v, str)), None)
        if found is not None:
            value = np.array(found, np.float32 if "float" in next(iter(node.attributes)) else np.int64)
            self.values[name] = value
            self.graph.storages[self.add_tensor(name, value.shape, ("int64", 8)).storage].path = name

    def fold_constant(self, a: NodeContext) -> bool:
        """Evaluate an operator that computes shapes. Returns whether its result is known."""
        node = a.node
        evaluator = EVALUATORS.get(node.kind)
        known = all(value is not None for name, value in zip(node.inputs, a.values, strict=True) if name)
        if evaluator is None or not (known or (node.kind in NEED_SHAPES_ONLY and a.shapes[0] is not None)):
            return False
        try:
            value = evaluator(a)
        except UNKNOWN_ERRORS:
            return False
        if value.size > _MAX_VALUES:
            return False
        self.values[node.outputs[0]] = value
        tensor = self.add_tensor(node.outputs[0], value.shape, (value.dtype.name, value.itemsize))
        self.graph.storages[tensor.storage].path = node.outputs[0]
        return True

    def infer_shapes(self, a: NodeContext) -> list[Shape]:
        """The shape of each result, by its rule, from the file, or else assumed to be that of the first input."""
        node, rule = a.node, RULES.get(self.operator_name(a.node))
        if rule is not None:
            try:
                found = rule(a)
                if all(side >= 0 for shape in found for side in shape):
                    return found
            except UNKNOWN_ERRORS:
                pass
        declared = [self.declared_shape(name) for name in node.outputs]
        if None in declared:
            self.assumed.append(self.operator_name(node))
        fallback = next((shape for shape in a.shapes if shape), ())
        return [fallback if shape is None else shape for shape in declared]

    def declared_shape(self, name: str) -> Shape | None:
        """The shape that the file declares for a tensor, if only the batch size is open in it."""
        value = self.file.values.get(name)
        if value is None or value.shape is None:
            return None
        batch = self.graph.inputs[0].shape[:1]
        sides = [batch[0] if i == 0 and batch and not isinstance(s, int) else s for i, s in enumerate(value.shape)]
        return tuple(s for s in sides if isinstance(s, int)) if all(isinstance(s, int) for s in sides) else None

    def add_output(self, node: OnnxNode, index: int, name: str, shape: Shape, inputs: list[Tensor]) -> Tensor:
        is_fused = self.rounded.get(node.inputs[0]) is node
        if node.kind == "DequantizeLinear" or is_fused:
            return self.add_tensor(name, shape, ("uint8", 1) if inputs[0].itemsize == 1 else ("float32", 4), inputs[0])
        if node.kind in _VIEWS and index == 0:
            return self.add_tensor(name, shape, (inputs[0].dtype, inputs[0].itemsize), inputs[0])
        if name in self.rounded or node.kind.startswith("QLinear") or node.kind == "QuantizeLinear":
            return self.add_tensor(name, shape, ("uint8", 1))
        declared = self.file.values.get(name)
        kind = TYPES.get(declared.kind) if declared is not None else None
        if node.kind == "Cast":
            kind = TYPES.get(node.attributes.get("to", 1))
        elif node.kind in ("ArgMax", "ArgMin", "NonZero") or (index == 1 and node.kind in ("MaxPool", "TopK")):
            kind = TYPES[7]
        if kind is None:
            floats = [tensor for tensor in inputs if tensor.is_floating_point]
            kind = (floats[0].dtype, floats[0].itemsize) if floats else TYPES[6 if node.kind.endswith("Integer") else 1]
            kind = TYPES[1] if kind[1] < 2 else kind  # a dequantised input takes 8 bits, the result does not
        return self.add_tensor(name, shape, kind)

    def mark_parameters(self, node: OnnxNode, operands: Sequence[Tensor | None]) -> None:
        """Record which weights are parameters."""
        for position in _PARAMETERS.get(node.kind, range(len(operands))):
            tensor = operands[position] if position < len(operands) else None
            if tensor is None or not self.graph.is_weight(tensor):
                continue
            storage = self.graph.storages[tensor.storage]
            is_added = self.file.producer == "vertebra" and (storage.path or "").startswith(_NO_PARAMETERS)
            is_number = tensor.is_floating_point or node.kind in _INTEGER_OPERANDS
            if is_number and tensor.elements > 1 and not is_added:
                storage.parameters = tensor.elements


def build_graph(
    file: OnnxFile, size: int | tuple[int, int] | None = None, batch_size: int = 1
) -> tuple[Graph, tuple[str, ...]]:
    """Build the graph for inputs of that size; also returns the operators whose output shapes are assumed.

    Arguments and errors are those of `profile_file`.
    """
    builder = _GraphBuilder(file)
    shapes = input_shapes(file, size, batch_size)
    builder.graph.inputs = tuple(
        builder.add_tensor(v.name, shapes[v.name], TYPES.get(v.kind, ("float32", 4))) for v in file.inputs
    )
    paths = _module_paths(file)
    for node, path in zip(file.nodes, paths, strict=True):
        builder.add_node(node, path)
    graph = builder.graph
    graph.outputs = tuple(builder.tensors[value.name] for value in file.outputs if value.name in builder.tensors)
    if not any(paths):  # the file does not name modules, so each resolution is a stage
        for operation in graph.nodes:
            sides = operation.outputs[0].shape
            operation.module = "×".join(map(str, sides[2:][-2:])) or "vectors"
    graph.modules = _modules(node.module for node in graph.nodes)
    return graph, tuple(dict.fromkeys(builder.assumed))


def _module_paths(file: OnnxFile) -> list[str]:
    """The module path of each node; a node without one is in the module of the node before."""
    found = [_module_path(node, file.producer) for node in file.nodes]
    paths, last = [], "input" if any(found) else ""
    for path in found:
        last = last if path is None else path
        paths.append(last)
    return paths


def _module_path(node: OnnxNode, producer: str) -> str | None:
    if node.scopes:  # of torch.onnx.export(dynamo=True)
        return node.scopes[-1]
    if "/" in node.name:  # of TorchScript, "/layer1/layer1.0/conv1/Conv", and of TensorFlow
        path = ""
        for part in node.name.strip("/").split("/")[:-1]:
            path = part if path and part.startswith(f"{path}.") else f"{path}.{part}".lstrip(".")
        return path
    has_path = producer == "vertebra" and node.kind in ("Conv", "Gemm", "BatchNormalization")
    return node.name if has_path and not node.name.startswith(f"{node.kind}_") else None


def _modules(paths: Iterable[str]) -> dict[str, Module]:
    """The tree of modules with these paths; each comes before its children."""
    children: dict[str, dict[str, None]] = {"": {}}
    for path in paths:
        while path:
            parent = path.rpartition(".")[0]
            children.setdefault(path, {})
            children.setdefault(parent, {})[path] = None
            path = parent

    def visit(path: str) -> Iterator[tuple[str, Module]]:
        inner = tuple(children[path])
        is_list = bool(path and inner) and all(child.rpartition(".")[2].isdigit() for child in inner)
        yield path, Module("", is_list, inner, ())
        for child in inner:
            yield from visit(child)

    return dict(visit(""))
