"""Squeeze-excitation as one operation: the map is read twice forwards and twice backwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vertebra.models.layers import SqueezeExcitation

from .compiled_functions import library
from .layer_kernel import LayerKernel


class FusedSqueezeExcitation(LayerKernel):
    """Scale each channel by a weight computed from all of them: (N, C, H, W) → the same shape."""

    layer: SqueezeExcitation

    def compute(self, x: Tensor) -> Tensor:
        """Two passes over the map; torch computes the factors between them."""
        layer = self.layer

        def gate(means: Tensor) -> Tensor:
            scale: Tensor = layer.scale_activation(layer.fc2(layer.activation(layer.fc1(means))))
            return scale

        result: Tensor = _SqueezeExcitation.apply(x, gate, *layer.parameters())
        return result


class _SqueezeExcitation(torch.autograd.Function):
    """Between the two passes over the map torch differentiates, on one value a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Callable[[Tensor], Tensor], *parameters: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        shape, threads = (images, height * width, channels), torch.get_num_threads()
        means, y = torch.empty(images, channels, 1, 1), torch.empty_like(x)
        library().channel_means(x, *shape, means, threads)
        with torch.enable_grad():
            ctx.means = means.requires_grad_()
            ctx.factors = gate(ctx.means)
        factors = ctx.factors.detach().contiguous()
        library().scale_channels(x, factors, *shape, y, threads)
        ctx.save_for_backward(x, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        shape, threads = (images, height * width, channels), torch.get_num_threads()
        dfactors, dx = torch.empty(images, channels, 1, 1), torch.empty_like(x)
        library().factor_gradients(x, dy, *shape, dfactors, threads)
        needed = [parameter for parameter in parameters if parameter.requires_grad]
        dmeans, *found = torch.autograd.grad(ctx.factors, [ctx.means, *needed], dfactors)
        factors, dmeans = ctx.factors.detach().contiguous(), dmeans.contiguous()
        library().scaled_gradients(dy, factors, dmeans, *shape, dx, threads)
        gradients = iter(found)
        return dx, None, *(next(gradients) if parameter.requires_grad else None for parameter in parameters)
