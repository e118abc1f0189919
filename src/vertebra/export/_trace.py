"""A torch network → an ONNX graph that takes photos: normalisation, network and softmax, and nothing left over.

The network runs once on shapes alone, and each operation that it did is written down.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from vertebra.anatomy._onnx import Graph
from vertebra.anatomy._trace import run, to_meta
from vertebra.card import Preprocessing
from vertebra.errors import UsageError, first_line
from vertebra.models import ConvNet, GoogLeNet

INPUT = "image"
OUTPUTS = ("probabilities", "embedding", "features")
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
    try:
        return copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    except Exception as error:  # a module may raise whatever it likes
        raise UsageError(
            f"the network cannot be copied to the CPU in float32 ({type(error).__name__}: {first_line(error)})."
        ) from error


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
        x = image.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        x = x * self.scale + self.shift
        features = self.network.forward_features(x)
        embedding = self.network.forward_embedding(features)
        logits = self.network.get_classifier()(embedding)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return logits.softmax(1), embedding, features


def trace(network: ConvNet, preprocessing: Preprocessing, temperature: float = 1.0) -> onnx.ModelProto:
    """The ONNX model of a network that `deployable` made.

    Raises:
        UsageError: a layer of it cannot be written as ONNX.
    """
    size = preprocessing.crop_size
    deployed = Deployed(network, preprocessing, temperature).eval()
    # Two images, so that a side of one is not taken for the batch.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8, device="meta")
    try:
        found = run(to_meta(deployed), (example,), {})
    except UsageError as error:
        cause = error.__cause__
        if cause is None:
            raise
        raise UsageError(
            f"the network fails on images of {size} × {size} pixels ({type(cause).__name__}: {first_line(cause)}). It "
            "must take them as (N, 3, H, W), and give logits (N, K)."
        ) from error
    tensors = dict(deployed.named_parameters()) | dict(deployed.named_buffers())
    model: onnx.ModelProto = Graph(found, tensors, prefix=_PREFIX, dynamic=True).write([INPUT], OUTPUTS)
    return model
