"""Accuracy without a share of the channels that the projections of MBConv blocks read, chosen for each image."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.introspect import contribution_score, gate_layers, zeroed_channels
from vertebra.models import ConvNet

from .fit import val_inputs
from .small_data import Images

SHARE = 0.25
WHOLE, LOWEST, RANDOM, HIGHEST, LEAST = (
    *("none", "lowest gates", "random"),
    *("highest gates", "lowest contributions"),
)
_UNREAD = 0.01  # of the largest L2 norm of the weights that read a channel


def without_channels(network: ConvNet, images: Images) -> dict[str, Any]:
    """Accuracy in % without a quarter of the gated channels in all blocks at once, by which are dropped; what the
    projections read.
    """
    x, labels = val_inputs(network, images), torch.from_numpy(images.val_labels)
    chosen = {WHOLE: None, LOWEST: "lowest", RANDOM: "random", HIGHEST: "highest", LEAST: "contribution"}
    accuracy = {name: _accuracy(network, x, labels, order, images.seed) for name, order in chosen.items()}
    projections = [_projection(network, layer.path) for layer in gate_layers(network, x)]
    weights = [projection.weight.detach().flatten(1).double() for projection in projections]
    rank = sum(int(torch.linalg.matrix_rank(weight)) for weight in weights) / sum(len(weight) for weight in weights)
    norms = [weight.norm(dim=0) for weight in weights]
    unread = torch.cat([own < _UNREAD * own.max() for own in norms]).double().mean()
    return {"accuracy": accuracy, "rank": 100 * rank, "unread": 100 * float(unread)}


def _accuracy(network: nn.Module, x: Tensor, labels: Tensor, order: str | None, seed: int) -> float:
    layers = gate_layers(network, x)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for number, layer in enumerate(layers if order is not None else ()):
            score: Any = layer.gate_path
            if order == "random":
                score = None
            elif order == "contribution":
                score = contribution_score(_projection(network, layer.path))
            by = order if order in ("highest", "random") else "lowest"
            stack.enter_context(
                zeroed_channels(network, layer.path, SHARE, by, score, place="output", seed=100 * seed + number)
            )
        predicted = network(x).argmax(1).cpu()
    return 100 * float((predicted == labels).double().mean())


def _projection(network: nn.Module, path: str) -> nn.Conv2d:
    """The 1×1 convolution that reads what the squeeze-excitation at this path returns."""
    block, _, index = path.rpartition(".")
    layers: Any = network.get_submodule(block)
    convolution: nn.Conv2d = layers[int(index) + 1][0]
    return convolution
