"""Gradients through one residual block of which everything is known, and at every block of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.introspect import gradient_norms, residual_blocks, usable_statistics
from vertebra.models.resnet import BasicBlock, Bottleneck

from .user_networks import random_images


def gradient_through(factor: float, *, last_relu: bool) -> tuple[float, float]:
    """Largest magnitude of the output and of the input gradient of a `BasicBlock` with F(x) = factor · x.

    The input is positive, as what enters a block of a ResNet has passed a ReLU; the gradient at the output is 1
    everywhere.

    Args:
        factor: of the second convolution; the first one is the identity.
        last_relu: False: of x + F(x) itself.
    """
    # In evaluation an untrained batch norm is that but for eps, and not every torch takes eps=0.
    block = BasicBlock(4, 4, norm_layer=nn.Identity).eval()
    nn.init.dirac_(block.conv1.weight)
    nn.init.dirac_(block.conv2.weight)
    with torch.no_grad():
        block.conv2.weight.mul_(factor)
    x = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    x.requires_grad_()
    output = block(x) if last_relu else x + block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    (gradient,) = torch.autograd.grad(output.sum(), x)
    return float(output.detach().abs().max()), float(gradient.abs().max())


def zeroed_by_last_relu(network: nn.Module, images: Tensor) -> list[float]:
    """Share of values at which each residual block's output is 0, so that its ReLU passes no gradient."""
    paths = [block.path for block in residual_blocks(network, images)]
    shares: list[float] = []
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda _m, _a, out: shares.append(float((out == 0).double().mean()))
        )
        for path in paths
    ]
    try:
        with torch.no_grad():
            network(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return shares


def gradients_by_block(network: nn.Module, seed: int, device: str) -> list[float]:
    """Gradient norm at the last convolution of each block over that of the last block, on images of 16 × 16 pixels."""
    images = random_images(network.to(device), 16, 16, seed)
    last = {BasicBlock: "conv2", Bottleneck: "conv3"}
    of = {
        f"{path}.{name}"
        for path, module in network.named_modules()
        for kind, name in last.items()
        if isinstance(module, kind)
    }
    with usable_statistics(network, images):
        norms = [gradient.output for gradient in gradient_norms(network, images) if gradient.path in of]
    return [norm / norms[-1] if norms[-1] else float("nan") for norm in norms]
