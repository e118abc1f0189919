"""A torch network → an ONNX graph that takes photos: normalisation, network and softmax, and nothing left over.

The graph is opset 18 with IR version 8, which every runtime of the last years reads.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from vertebra.card import Preprocessing
from vertebra.errors import UsageError
from vertebra.models import ConvNet, GoogLeNet

INPUT = "image"
OUTPUTS = ("probabilities", "embedding", "features")
OPSET = 18
IR_VERSION = 8  # of the ONNX release that brought opset 18
_PREFIX = "network."  # of the paths inside `Deployed`


def deployable(network: ConvNet, preprocessing: Preprocessing) -> ConvNet:
    """A copy of the network as it will be exported: on the CPU, in float32, ready to predict.

    Raises:
        UsageError: it does not take RGB photos of the card's size.
    """
    channels = network.in_channels
    if channels != 3 or len(preprocessing.mean) not in (1, 3) or len(preprocessing.std) not in (1, 3):
        raise UsageError(
            f"the network takes {channels} channels and its preprocessing has {len(preprocessing.mean)}; "
            "an exported file takes RGB photos, so both must be for 3."
        )
    if preprocessing.crop_size < network.min_size:
        raise UsageError(
            f"crop_size is {preprocessing.crop_size}, and {type(network).__name__} takes images of at least "
            f"{network.min_size} pixels. Export it with a larger crop_size."
        )
    network = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    for layer in network.modules():
        # torch.export takes activations in place apart into a dozen operators each before it puts them together again:
        # EfficientNet-Lite0 is traced in 6.7 s rather than 10.4, to the same bytes.
        if hasattr(layer, "inplace"):
            setattr(layer, "inplace", False)  # noqa: B010 - of any layer that has it
    return network


class Deployed(nn.Module):
    """What a client calls: uint8 (N, H, W, 3) → probabilities (N, K), embedding (N, D), features (N, C, h, w)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: ConvNet, preprocessing: Preprocessing, temperature: float) -> None:
        super().__init__()
        mean, std = (np.broadcast_to(np.asarray(v, np.float64), 3) for v in (preprocessing.mean, preprocessing.std))
        scale, shift = 1 / (255 * std), -mean / std
        self.network = network
        if isinstance(network, GoogLeNet) and network.transform_input:
            # A second normalisation of its own, channel by channel: one multiplication and addition does for both.
            black = torch.zeros(1, 3, network.min_size, network.min_size, dtype=torch.float64)
            offset, white = (network._prepare(x)[0, :, 0, 0].numpy() for x in (black, black + 1))
            factor = white - offset
            scale, shift = scale * factor, shift * factor + offset
            self.network = copy.copy(network)
            self.network.transform_input = False
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32).view(1, 3, 1, 1))
        self.temperature = temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Channels first while they are bytes: numbers on the last axis, three at a time, cost ONNX Runtime 1.5 ms.
        x = image.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        features = self.network.forward_features(x)
        embedding = self.network.forward_embedding(features)
        logits = self.network.get_classifier()(embedding)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return logits.softmax(1), embedding, features


def trace(network: ConvNet, preprocessing: Preprocessing, temperature: float = 1.0) -> onnx.ModelProto:
    """The ONNX model of a network that `deployable` made."""
    size = preprocessing.crop_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            Deployed(network, preprocessing, temperature).eval(),
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("N")}},
            custom_translation_table=_TRANSLATIONS,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return tidy(program.model_proto)


# --- operators that torch would take apart --------------------------------------------------------------------------
# Left alone, pooling becomes a mean and a gather of indices computed from the batch size, ten nodes for one.


def _pool(x: Any, output_size: Any) -> Any:
    height, width = (int(size) for size in x.shape[2:])
    wanted = tuple(int(size) for size in output_size)
    if wanted == (height, width):
        return x
    if wanted == (1, 1):
        return op.GlobalAveragePool(x)
    # Adaptive pooling is linear in rows and in columns: two products with constant matrices.
    rows = op.Constant(value=onnx.numpy_helper.from_array(_pooling_matrix(height, wanted[0])))
    columns = op.Constant(value=onnx.numpy_helper.from_array(_pooling_matrix(width, wanted[1]).T.copy()))
    return op.MatMul(op.MatMul(rows, x), columns)


def _pooling_matrix(size: int, wanted: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(wanted, size): each row averages the pixels that torch's adaptive pooling does."""
    matrix = np.zeros((wanted, size), np.float32)
    for row in range(wanted):
        start, end = row * size // wanted, -(-(row + 1) * size // wanted)
        matrix[row, start:end] = 1 / (end - start)
    return matrix


_TRANSLATIONS: dict[Any, Any] = {
    torch.ops.aten.adaptive_avg_pool2d.default: _pool,
}


# --- tidying --------------------------------------------------------------------------------------------------------


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what only the exporter needed to know, and name nodes after the layers that they are.

    The exporter notes for each node where in which source file it came from: half of a small file, and nobody's
    business.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        if part is not model:
            del part.metadata_props[:]
    del graph.value_info[:]
    del model.metadata_props[:]
    del model.functions[:]
    graph.name = "vertebra"
    model.producer_name, model.producer_version = "vertebra", ""
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    _flatten(graph)
    _rename(graph)
    return model


def _rename(graph: onnx.GraphProto) -> None:
    """`features.0.0` for the convolution of that path, `Relu_3` for what has no weights; tensors after their node."""
    kept = {item.name for item in (*graph.input, *graph.output)}
    weights = {item.name: item for item in graph.initializer}
    names = {name: name for name in kept}
    counts: dict[str, int] = {}
    for node in graph.node:
        own = [name for name in node.input if name.startswith(_PREFIX) and name in weights and name not in names]
        if own:
            node.name = own[0].removeprefix(_PREFIX).removesuffix(".weight")
            # Convolutions and linear layers have (input, weight, bias); batch norm has four of its own.
            parts = ("weight", "bias", "mean", "var")
            for name, part in zip(node.input[1:], parts, strict=False):
                names.setdefault(name, f"{node.name}.{part}")  # layers that hold the same numbers share a weight
        else:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
            node.name = f"{node.op_type}_{counts[node.op_type]}"
        for name in node.output:
            names.setdefault(name, node.name)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for item in graph.initializer:
        item.name = names.get(item.name, item.name)


def _flatten(graph: onnx.GraphProto) -> None:
    """Reshape to (-1, D) → Flatten: it says what it is, and needs no constant."""
    shapes = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer if item.dims == [2]}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in shapes and shapes[node.input[1]][0] == -1:
            node.op_type = "Flatten"
            del node.input[1]
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints, warns and logs about its own inner workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
