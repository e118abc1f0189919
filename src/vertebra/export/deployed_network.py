"""A torch network → an ONNX graph of normalisation, network and softmax, traced in one run on meta tensors."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from vertebra.card import Preprocessing
from vertebra.errors import UsageError, first_line, warn
from vertebra.graph.ir import Graph
from vertebra.graph.onnx_builder import UnwritableError
from vertebra.graph.onnx_writer import OPSET, OnnxWriter
from vertebra.graph.trace import trace_network
from vertebra.models import ConvNet, GoogLeNet
from vertebra.models.meta_copy import to_meta

from .network_card import format_value
from .observed_network import ObservedNetwork

INPUT = "image"
OUTPUTS = ("probabilities", "embedding", "features")
_IMAGES = 1009  # of the trace, where they cost nothing: a prime number, so that no other side is a multiple of it
_PREFIX = "network."  # of the paths inside `Deployed`, and of those inside `ObservedNetwork`


class Deployed(nn.Module):
    """The exported module: normalisation, network and softmax."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: ConvNet | ObservedNetwork, preprocessing: Preprocessing, temperature: float) -> None:
        super().__init__()
        mean, std = (np.broadcast_to(np.asarray(v, np.float64), 3) for v in (preprocessing.mean, preprocessing.std))
        scale, shift = 1 / (255 * std), -mean / std
        self.network = network
        if isinstance(network, GoogLeNet) and network.transform_input:
            # Its own second normalisation, per channel, is merged into the first.
            black = torch.zeros(1, 3, network.min_size, network.min_size, dtype=torch.float64)
            offset, white = (network.prepare_input(x)[0, :, 0, 0].numpy() for x in (black, black + 1))
            factor = white - offset
            scale, shift = scale * factor, shift * factor + offset
            self.network = copy.copy(network)
            self.network.transform_input = False
        self.normalisation = (preprocessing.mean, preprocessing.std)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32).view(1, 3, 1, 1))
        self.temperature = temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (N, H, W, 3) → probabilities (N, K), embedding (N, D), features (N, C, h, w)."""
        # Channels first while they are bytes: numbers on the last axis, three at a time, cost ONNX Runtime 1.5 ms.
        x = image.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        x = x * self.scale + self.shift
        if isinstance(self.network, ObservedNetwork):
            logits, embedding, features = self.network(x)
        else:
            features = self.network.forward_features(x)
            embedding = self.network.forward_embedding(features)
            logits = self.network.get_classifier()(embedding)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return logits.softmax(1), embedding, features


def trace(
    network: ConvNet | ObservedNetwork, preprocessing: Preprocessing, temperature: float = 1.0
) -> onnx.ModelProto:
    """Trace a network made by `copy_for_export` to an ONNX model; a `UsageError` for a layer that ONNX cannot hold."""
    size = preprocessing.crop_size
    deployed = Deployed(network, preprocessing, temperature).eval()
    example = torch.zeros(_IMAGES, size, size, 3, dtype=torch.uint8, device="meta")
    try:
        return _trace_on_meta(deployed, example, size)
    except UnwritableError as error:
        try:
            model = _export_by_torch(deployed, size)
        except UnwritableError as other:
            raise UnwritableError(f"{error} {other}") from error
        cause = str(error).partition(", which cannot")[0].rstrip(".")
        warn(f"{cause}, which Vertebra does not write as ONNX itself: torch.onnx.export wrote the file, more slowly.")
        return model


def _trace_on_meta(deployed: Deployed, example: Tensor, size: int) -> onnx.ModelProto:
    observed = isinstance(deployed.network, ObservedNetwork)
    try:
        found = trace_network(to_meta(deployed), (example,), {})
    except UsageError as error:
        cause = error.__cause__
        if observed:  # it ran on the CPU, so it is not what it takes
            raise UnwritableError(str(error)) from error
        if cause is None:
            raise
        raise UsageError(
            f"the network fails on images of {size} × {size} pixels ({type(cause).__name__}: {first_line(cause)}). It "
            "must take them as (N, 3, H, W), and give logits (N, K)."
        ) from error
    _require_logits(found)
    _warn_of_own_normalisation(found, deployed)
    tensors = dict(deployed.named_parameters()) | dict(deployed.named_buffers())
    prefix = _PREFIX * 2 if observed else _PREFIX
    model: onnx.ModelProto = OnnxWriter(found, tensors, prefix=prefix, dynamic=True).write([INPUT], OUTPUTS)
    return model


def _require_logits(found: Graph) -> None:
    """Reject a network that ends in a softmax or sigmoid: the file adds its own softmax."""
    makers = {ref: op for op in found.nodes for ref in op.outputs if op.is_view or not op.in_place}
    op = makers[found.outputs[0]]  # the softmax of the file
    # An identity returns its input, so it is its own maker; parameters and the image have no maker.
    while op.inputs and (maker := makers.get(op.inputs[0], op)) is not op:
        op = maker
        if op.op not in ("div", "view", "alias", "detach", "clone", "_to_copy", "squeeze"):
            break
    if op.op in ("_softmax", "sigmoid") and found.outputs[0] not in op.outputs:
        several = " Probabilities of several classes in one photo are not exported." if op.op == "sigmoid" else ""
        raise UsageError(
            f"the network ends in a {op.op.strip('_')} of its own, and the softmax of an exported file takes logits. "
            f"Leave that layer out.{several}"
        )


def _warn_of_own_normalisation(found: Graph, deployed: Deployed) -> None:
    """Warn if the network seems to normalise its input itself, although the preprocessing does."""
    mean, std = deployed.normalisation
    inner = deployed.network.network if isinstance(deployed.network, ObservedNetwork) else deployed.network
    if getattr(inner, "transform_input", False) or (not any(mean) and all(value == 1 for value in std)):
        return
    own = [op for op in found.nodes if op.module.startswith(_PREFIX.rstrip("."))]
    views = {own[0].inputs[0]} if own else set()
    for op in own:
        if not views & set(op.inputs):
            continue
        if op.is_view:
            views |= set(op.outputs)
        elif op.op in ("sub", "div", "add", "mul"):
            warn(
                f"the network begins by changing the values of its input itself (aten::{op.op}), and the file has "
                f"normalised them by then: mean {format_value(mean)}, std {format_value(std)}. Where the network "
                "normalises values from 0 to 1 itself, give a preprocessing with mean=(0, 0, 0) and std=(1, 1, 1)."
            )
            return
        else:
            return


# --- torch's own exporter ---------------------------------------------------------------------------------------------


def _export_by_torch(deployed: Deployed, size: int) -> onnx.ModelProto:
    """Export with `torch.onnx.export`, for operations that our writer lacks: slower, and it needs onnxscript."""
    if find_spec("onnxscript") is None:
        raise UnwritableError("torch.onnx.export may know it: pip install onnxscript")
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _suppress_output():
            program: Any = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes={INPUT: {0: torch.export.Dim("N")}},
                opset_version=OPSET,
                verbose=False,
            )
        model: onnx.ModelProto = program.model_proto
    except Exception as error:  # its errors have no common class
        cause = first_line(error.__cause__ or error)
        raise UnwritableError(f"torch.onnx.export cannot write it either ({cause}).") from error
    return model


@contextlib.contextmanager
def _suppress_output() -> Iterator[None]:
    """Suppress what the exporter prints and logs."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        noise = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
