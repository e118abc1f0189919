"""Classifiers that run in training alone: how many, their parameters, and gradients with and without their losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from vertebra.introspect import LayerGradient, gradient_norms, preserved
from vertebra.models.googlenet import GoogLeNet, Inception, InceptionAux

from .cost_shares import parameters_not_run
from .experiment import Figure
from .user_networks import inspect_own

HEADS, UNUSED, SHARE = (
    "auxiliary heads in training",
    "parameters not used in evaluation",
    "share not used in evaluation",
)
WEIGHT = 0.3  # of each auxiliary loss (Szegedy et al. 2014, section 5)


class _Convolution(nn.Sequential):
    """Convolution and ReLU, as in the paper: (N, in_channels, H, W) → (N, out_channels, H', W')."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, **kwargs), nn.ReLU())


def googlenet_without_batch_norm() -> GoogLeNet:
    """The network as in the paper, without batch norm, with auxiliary heads."""
    inception, head = (partial(kind, conv_block=_Convolution) for kind in (Inception, InceptionAux))
    return GoogLeNet(blocks=(_Convolution, inception, head))


def all_logits(output: object) -> list[Tensor]:
    """All logits (N, classes) that a network returns, its main classifier's first."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.ndim == 2]


def heads_in_training(network: nn.Module, images: Tensor) -> int:
    """How many logits a network returns in training beside its main classifier's."""
    with torch.no_grad(), preserved(network):
        return len(all_logits(network.train()(images))) - 1


def head_counts(network: nn.Module, images: Tensor) -> dict[str, Figure]:
    """Heads in training, parameters of the network, and those that evaluation does not use."""
    total, unused = sum(p.numel() for p in network.parameters()), parameters_not_run(inspect_own(network).rows)
    figures = {HEADS: Figure(heads_in_training(network, images)), "parameters": Figure(total), UNUSED: unused}
    return figures | {SHARE: Figure(100 * unused.value / total, "%")}


def gradients_by_loss(network: nn.Module, images: Tensor) -> tuple[tuple[LayerGradient, ...], ...]:
    """Gradients of the cross-entropy in training mode: with the losses of the auxiliary heads, and without.

    Both are of the same weights, images and dropout; the classes are 0, 1, 2, …
    """
    labels = torch.arange(len(images), device=images.device)

    def loss(weight: float, output: object) -> Tensor:
        main, *auxiliary = (F.cross_entropy(logits, labels % logits.shape[1]) for logits in all_logits(output))
        return main + weight * sum(auxiliary) if weight else main

    network.train()
    return tuple(gradient_norms(network, images, partial(loss, weight)) for weight in (WEIGHT, 0))


def norm_within(gradients: Sequence[LayerGradient], path: str) -> float:
    """Norm of the gradient of all weights within a module."""
    return math.hypot(*(gradient.weight for gradient in gradients if f"{gradient.path}.".startswith(f"{path}.")))


def gradient_gain(network: nn.Module, images: Tensor, path: str) -> tuple[float, list[float]]:
    """How often as large gradients are with the heads' losses: of a module, and of each convolution of the trunk."""
    both = gradients_by_loss(network, images)
    within, without = (norm_within(gradients, path) for gradients in both)
    pairs = [(a, b) for a, b in zip(*both, strict=True) if a.is_convolution and "aux" not in a.path]
    return within / without, [a.weight / b.weight for a, b in pairs]
