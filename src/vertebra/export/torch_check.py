"""Verification of an exported graph against the torch network, on batches of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from vertebra.card import Card, Preprocessing
from vertebra.errors import ExportError, WeightsError, first_line
from vertebra.models import ConvNet
from vertebra.pixels import Pixels

from .deployed_network import INPUT, OUTPUTS
from .observed_network import ObservedNetwork

BATCH_SIZES = (1, 2, 7)
MAX_DIFFERENCE = 1e-4  # of a probability
# Relative to the largest value. The two add in different orders, and deep networks carry that on.
MAX_RELATIVE_DIFFERENCE = 1e-3
# Two of the best classes whose probabilities are nearer than this, relative to each other, may change places.
TIE = 1e-3

Array = np.ndarray[Any, np.dtype[np.float32]]


def session(model: bytes, threads: int = 0) -> ort.InferenceSession:
    """ONNX Runtime over a model in memory; 0 threads: one a core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def reference(
    network: ConvNet | ObservedNetwork, preprocessing: Preprocessing, temperature: float, images: Pixels
) -> tuple[Array, Array, Array]:
    """What torch says of (N, H, W, 3) pixels: probabilities, embedding, features; the steps of training, one by one."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    with torch.inference_mode():
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).sub(mean).div(std)
        if isinstance(network, ObservedNetwork):
            logits, embedding, features = network(x)
        else:
            features = network.forward_features(x)
            logits = network.forward_head(features)
            embedding = network.forward_embedding(features)
        probabilities = (logits / temperature).softmax(1)
    return probabilities.numpy(), embedding.numpy(), features.numpy()


def verify_against_torch(
    model: bytes, network: ConvNet | ObservedNetwork, card: Card, images: Sequence[Pixels]
) -> float:
    """Compare the model with torch at each batch size; return the largest difference of a probability."""
    try:
        runtime = session(model)
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime does not load the exported network ({first_line(error)}). Nothing was written."
        ) from error
    largest, start = 0.0, 0
    alone: Array | None = None  # what the first image gives in a batch of its own
    for count in BATCH_SIZES:
        # The second batch begins with the image of the first.
        batch = np.stack([images[(start + i) % len(images)] for i in range(count)])
        start += count - (alone is None)
        try:
            expected = reference(network, card.preprocessing, card.temperature, batch)
        except Exception as error:  # a module may raise whatever it likes
            raise ExportError(
                f"torch itself cannot run the network at batch size {count} ({first_line(error)}). Nothing was written."
            ) from error
        if len(expected[0]) != count:
            raise ExportError(
                f"torch itself gives {len(expected[0])} rows of logits for {count} images; the network mixes the "
                "images of a batch. Nothing was written."
            )
        if alone is None:
            alone = expected[0][0]
        elif count == BATCH_SIZES[1] and not float(np.abs(expected[0][0] - alone).max()) <= MAX_DIFFERENCE:
            raise ExportError(
                "torch itself gives other probabilities for an image alone than for the same image in a batch; the "
                "network mixes the images of a batch, or draws at random. Nothing was written."
            )
        if not all(np.isfinite(array).all() for array in expected):
            source = card.weights.name if card.weights is not None else card.architecture
            raise WeightsError(f"{source} gives outputs that are NaN or infinite: the weights are damaged.")
        try:
            found = runtime.run(list(OUTPUTS), {INPUT: batch})
        except Exception as error:  # ONNX Runtime has no error of its own for it
            raise ExportError(
                f"the exported network cannot be run at batch size {count} ({first_line(error)}). Nothing was written."
            ) from error
        largest = max(largest, _compare(expected, found, count))
    return largest


def _compare(expected: Sequence[Array], found: Sequence[Array], count: int) -> float:
    where = f"at batch size {count}"
    for name, wanted, got in zip(OUTPUTS, expected, found, strict=True):
        if wanted.shape != got.shape:
            raise ExportError(f"the exported {name} has shape {got.shape} {where}, and torch's {wanted.shape}.")
        difference = float(np.abs(wanted - got).max())
        allowed = MAX_DIFFERENCE if name == OUTPUTS[0] else MAX_RELATIVE_DIFFERENCE * float(np.abs(wanted).max())
        # Written so that NaN does not pass.
        if not difference <= allowed:
            raise ExportError(
                f"the exported {name} differs from torch by {difference:.2e} {where}; at most {allowed:.0e} is "
                "allowed. Nothing was written."
            )
    for row, (wanted, got) in enumerate(zip(expected[0], found[0], strict=True)):
        best, ours = (np.argsort(-values, kind="stable")[:5] for values in (wanted, got))
        # Below what probabilities may differ by, the order of a sure network's other classes says nothing.
        if not all(
            a == b or abs(wanted[a] - wanted[b]) <= TIE * wanted[a] or max(wanted[a], wanted[b]) <= MAX_DIFFERENCE
            for a, b in zip(best, ours, strict=True)
        ):
            raise ExportError(
                f"the five best classes of image {row + 1} {where} are {ours.tolist()}, and torch's {best.tolist()}. "
                "Nothing was written."
            )
    return float(np.abs(expected[0] - found[0]).max())
