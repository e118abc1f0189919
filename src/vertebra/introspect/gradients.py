"""Gradients by depth: the norm at every layer, and how far those of neighbouring inputs agree (shattered gradients)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from vertebra.errors import UsageError, require_positive_int

from .preserve import preserved

Loss = Callable[[Any], Tensor]  # the network's output → a scalar


@dataclass(frozen=True)
class LayerGradient:
    """Gradients of the loss at one layer with weights."""

    path: str
    depth: int  # 1 for the layer that runs first
    is_convolution: bool
    weight: float  # L2 norm of the gradient with respect to its weights (those of two or more dimensions)
    output: float  # L2 norm of the gradient with respect to its output, over all images and calls


def gradient_norms(network: nn.Module, inputs: Tensor, loss: Loss | None = None) -> tuple[LayerGradient, ...]:
    """Gradient norms of each convolution and linear layer (or other layer with a weight matrix) in order of execution.

    The network runs in the mode that it is in: `batch_statistics` is for networks that are randomly initialised.

    Args:
        network: any module.
        inputs: one batch.
        loss: output → scalar; by default `output_projection`, which needs no labels.

    Raises:
        UsageError: no layer with weights runs, or the loss does not depend on any.
    """
    layers = {module: path for path, module in network.named_modules() if _weights(module)}
    outputs: dict[nn.Module, float] = {}  # squared norms, in order of execution

    def add(module: nn.Module, gradient: Tensor) -> None:
        outputs[module] += _norm(gradient) ** 2

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        outputs.setdefault(module, 0.0)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(partial(add, module))  # type: ignore[no-untyped-call]

    with torch.inference_mode(False), torch.enable_grad(), preserved(network) as handles:
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
            parameter.grad = None
        handles += [module.register_forward_hook(watch) for module in layers]
        _backward(network, require_scalar((loss or output_projection)(network(inputs.clone()))))
        return tuple(
            LayerGradient(
                layers[module],
                depth,
                isinstance(module, _ConvNd),
                math.hypot(*(_norm(p.grad) for p in _weights(module) if p.grad is not None)),
                math.sqrt(square),
            )
            for depth, (module, square) in enumerate(outputs.items(), start=1)
        )


def first_to_last_ratio(gradients: Sequence[LayerGradient], of: Literal["weight", "output"] = "weight") -> float:
    """Norm of the gradient of the first convolution over that of the last; infinite or NaN where that is 0.

    Of its weights, or of its output: a layer's input scales the former too, so that it stays where activations grow as
    fast as gradients shrink.
    """
    norms = [
        gradient.weight if of == "weight" else gradient.output for gradient in gradients if gradient.is_convolution
    ]
    if len(norms) < 2:
        raise UsageError(
            f"a ratio needs two convolutions, and {len(norms)} of {len(gradients)} layers are convolutions."
        )
    if norms[-1] == 0:
        return math.inf if norms[0] else math.nan
    return norms[0] / norms[-1]


def output_projection(output: Any, seed: int = 0) -> Tensor:
    """The sum of all outputs, each with a random sign.

    The expected square of a gradient's norm is then the squared Frobenius norm of the outputs' Jacobian. A plain sum
    would not do: batch norm keeps the sum over the batch constant.
    """
    generator = torch.Generator().manual_seed(seed)
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not leaves:
        raise UsageError("the network returns no floating-point tensor; give loss=, a function of what it returns.")
    signs = [torch.randint(0, 2, leaf.shape, generator=generator) * 2 - 1 for leaf in leaves]
    terms = [(leaf * sign.to(leaf)).sum() for leaf, sign in zip(leaves, signs, strict=True)]
    return sum(terms[1:], terms[0])


def noise_arc(shape: Sequence[int], points: int = 64, seed: int = 0, degrees: float = 90) -> Tensor:
    """Images on a circle through two images a and b of normal noise: cos θ · a + sin θ · b, (points, *shape).

    Args:
        shape: of one image, (C, H, W).
        points: how many, evenly spaced, both ends included.
        seed: of the two images.
        degrees: the largest θ; 90 ends in b.
    """
    if require_positive_int("points", points) < 2:
        raise UsageError("points is 1; an arc has at least two.")
    ends = torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed))
    angles = torch.linspace(0, math.radians(degrees), points).view(-1, *[1] * len(shape))
    return torch.cos(angles) * ends[0] + torch.sin(angles) * ends[1]


def input_gradient_correlation(network: nn.Module, points: Tensor, logit: int = 0) -> float:
    """Mean cosine between the input gradients of neighbouring points, -1 to 1 (Balduzzi et al. 2017, section 2).

    What is differentiated is one output of the network, its `logit`, summed over the points. In training mode (see
    `batch_statistics`) batch norm uses the points' common statistics, through which gradients flow as in training.
    Pairs in which one gradient is exactly 0 are left out; the result is NaN if all are.

    Args:
        network: a module that returns (P, classes).
        points: a batch (P, C, H, W) in the order of the path, such as a `noise_arc`.
        logit: which of the outputs.

    Raises:
        UsageError: fewer than two points, no such logit, or it does not depend on the input.
    """
    if len(points) < 2:
        raise UsageError(f"neighbouring points need a batch of at least two, got {len(points)}.")
    with torch.inference_mode(False), torch.enable_grad(), preserved(network):
        leaf = points.detach().clone().requires_grad_()
        output = network(leaf.clone())  # a clone, for a first layer that works in place
        if not isinstance(output, Tensor) or output.shape[0] != len(points):
            raise UsageError(
                f"the network returns {_described(output)}, and one tensor (P, classes) is needed. Wrap it in a module."
            )
        logits = output.flatten(1) if output.ndim > 1 else output[:, None]
        if not 0 <= logit < logits.shape[1]:
            raise UsageError(f"logit is {logit}; the network has outputs 0 to {logits.shape[1] - 1}.")
        return _mean_cosine(_input_gradient(logits[:, logit].sum(), leaf).flatten(1).double())


def _mean_cosine(vectors: Tensor) -> float:
    norms = vectors.norm(dim=1, keepdim=True)
    units = vectors / norms
    cosines = (units[1:] * units[:-1]).sum(1)
    return float(cosines[(norms[1:, 0] > 0) & (norms[:-1, 0] > 0)].mean())


def _input_gradient(scalar: Tensor, leaf: Tensor) -> Tensor:
    found = torch.autograd.grad(scalar, leaf, allow_unused=True)[0] if scalar.requires_grad else None
    if found is None:
        raise UsageError("the network's output does not depend on its input, so there is no gradient.")
    return found


def _weights(module: nn.Module) -> list[nn.Parameter]:
    """Its own weight matrices and kernels, without biases and the factors of norms."""
    return [p for p in module.parameters(recurse=False) if p.ndim >= 2 and p.is_floating_point()]


def _backward(network: nn.Module, loss: Tensor) -> None:
    if not loss.requires_grad:
        raise UsageError(
            f"the loss does not depend on any weight of this {type(network).__name__}, so there are no gradients. "
            "Does its forward() detach, or run under torch.no_grad?"
        )
    loss.backward()  # type: ignore[no-untyped-call]


def require_scalar(loss: Any) -> Tensor:
    """What a loss function returned, as a tensor without axes; a `UsageError` if it is no single number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UsageError(f"loss returned {_described(loss)}; it must be one number, as a tensor.")
    return loss.reshape(())


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))


def _described(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
