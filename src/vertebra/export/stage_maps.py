"""The first stages of a network in ONNX Runtime: for feature maps of stages that are not trained."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from vertebra.card import Preprocessing
from vertebra.graph.onnx_writer import OnnxWriter
from vertebra.graph.trace import trace_network
from vertebra.models import ConvNet
from vertebra.models.meta_copy import to_meta
from vertebra.pixels import Pixels

from .deployed_network import INPUT, Deployed

_OUTPUT = "maps"
_IMAGES = 1009  # of the trace, where they cost nothing: a prime number, so that no other side is a multiple of it
_PART = 4  # images of a call: enough for ONNX Runtime's fastest, and every core gets some of a batch of 16

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class StageMaps:
    """The feature map behind a stage: uint8 (N, H, W, 3) → float32 (N, h, w, C), 2 to 3 times as fast as torch.

    Batch norms are folded into the convolutions. Each image is computed by one thread, so its map depends neither on
    the rest of the batch nor on the number of cores. With `pools` it is pooled to (N, 1, 1, C).

    `version` names all that the maps depend on besides the pixels: weights, normalisation, ONNX Runtime.
    """

    def __init__(
        self, network: ConvNet, preprocessing: Preprocessing, stage: str, threads: int, *, pools: bool = False
    ) -> None:
        with torch.inference_mode(False):  # under which operations are not taken apart, so that none could be written
            model = _trace(_DeployedStages(network, preprocessing, stage, pools), preprocessing.crop_size)
        content: bytes = model.SerializeToString(deterministic=True)
        self.version = f"{hashlib.sha256(content).hexdigest()} by onnxruntime {ort.__version__}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._threads = threads

    def __call__(self, images: Pixels) -> Array:
        """uint8 (N, H, W, 3) → float32 (N, h, w, C)."""
        parts = [images[start : start + _PART] for start in range(0, len(images), _PART)]
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(self._run, parts)))

    def _run(self, images: Pixels) -> Array:
        found: Array = self._session.run([_OUTPUT], {INPUT: images})[0]
        return found


def _trace(deployed: _DeployedStages, size: int) -> onnx.ModelProto:
    example = torch.zeros(_IMAGES, size, size, 3, dtype=torch.uint8, device="meta")
    found = trace_network(to_meta(deployed), (example,), {})
    tensors = {
        name: tensor.detach().cpu() for name, tensor in (*deployed.named_parameters(), *deployed.named_buffers())
    }
    model: onnx.ModelProto = OnnxWriter(found, tensors, prefix="network.", dynamic=True).write([INPUT], [_OUTPUT])
    return model


class _DeployedStages(Deployed):
    """Normalisation and the first stages."""

    def __init__(self, network: ConvNet, preprocessing: Preprocessing, stage: str, pools: bool) -> None:
        super().__init__(network, preprocessing, 1.0)
        self.stage, self.pools = stage, pools

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        """uint8 (N, H, W, 3) → (N, h, w, C)."""
        network: ConvNet = self.network  # type: ignore[assignment]
        x = image.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        x = network.prepare_input(x * self.scale + self.shift)
        found = next(network.maps_at(x, self.stage))
        return network.pool(found)[:, None, None] if self.pools else found.permute(0, 2, 3, 1).contiguous()
