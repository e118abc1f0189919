"""A dense block and a transition as one autograd function each, for training without any concatenation.

After Pleiss et al. 2017 (https://arxiv.org/abs/1707.06990): all feature maps of a block are in one buffer, to which
each layer adds its channels, and what batch norm and ReLU make of them is computed again in the backward pass. Two
things differ from the paper, and save memory traffic:

- The statistics of a channel are the same for all layers that read it, so they are computed once, when it is written.
  In the backward pass, what batch norm subtracts is affine in the channel's values, with coefficients that add up over
  the readers, so it is subtracted once, when all readers are done.
- Batch norm, ReLU and the 1×1 convolution, which is a matrix product, run over a few rows at a time that stay in the
  processor's cache. Nothing as wide as the block is written to memory but the buffer and its gradient.

A map is a matrix here, (N · H · W, C): a row is one position of one image, as channels-last has it in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 2**19  # values of a map that are worked on at a time: 2 MB in float32, the second-level caches of two cores


class LayerParameters(NamedTuple):
    """Of one dense layer."""

    weight1: Tensor  # norm1: (C,)
    bias1: Tensor
    conv1: Tensor  # (B, C, 1, 1)
    weight2: Tensor  # norm2: (B,)
    bias2: Tensor
    conv2: Tensor  # (growth rate, B, 3, 3)


class DenseBlockFunction(torch.autograd.Function):
    """`apply(x, eps, *parameters)` → the block's output, and the batch statistics that its norms used.

    Args:
        x: (N, C, H, W), channels-last.
        eps: of each layer's two norms.
        parameters: the `LayerParameters` of all layers, one after the other.

    Returns:
        The output (N, C + layers · growth rate, H, W), channels-last; mean and variance of its channels but the last
        layer's; mean and variance of what each layer's 1×1 convolution makes, a pair for each layer. Variances are
        those of the batch, without Bessel's correction.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: Sequence[tuple[float, float]], *parameters: Tensor) -> Any:
        layers = _layers(parameters)
        images, channels, *size = x.shape
        area = size[0] * size[1]
        rows, width = images * area, channels + sum(len(layer.conv2) for layer in layers)
        features = x.new_empty(rows, width)
        features[:, :channels] = _rows(x)
        mean, var = x.new_empty(2, width - len(layers[-1].conv2))
        scratch = x.new_empty(_scratch_size(area, width, layers))
        mean[:channels], var[:channels] = _statistics([features[p, :channels] for p in _parts(rows, channels)], scratch)
        kept: list[Tensor] = []
        for layer, (eps1, eps2) in zip(layers, eps, strict=True):
            norm1 = _NormReLU(layer.weight1, layer.bias1, mean[:channels], var[:channels], eps1)
            bottleneck = x.new_empty(rows, len(layer.conv1))
            parts = _parts(rows, max(channels, len(layer.conv1)))
            for part in parts:
                y = norm1.forward(features[part, :channels], scratch)
                torch.mm(y, layer.conv1.flatten(1).t(), out=bottleneck[part])
            mean2, var2 = _statistics([bottleneck[part] for part in parts], scratch)
            kept += [bottleneck, mean2, var2]
            norm2 = _NormReLU(layer.weight2, layer.bias2, mean2, var2, eps2)
            made = slice(channels, channels + len(layer.conv2))
            written = []
            for part in _image_parts(images, area, len(layer.conv1)):
                y = norm2.forward(bottleneck[part], scratch)
                written.append(_rows(torch.conv2d(_images(y, size), layer.conv2, padding=1)))
                features[part, made] = written[-1]
            if made.stop < width:
                mean[made], var[made] = _statistics(written, scratch)
            channels = made.stop
        output = _images(features, size)
        ctx.eps = eps
        ctx.save_for_backward(x, output, mean, var, *kept, *parameters)
        statistics = (mean, var, *(tensor for index, tensor in enumerate(kept) if index % 3))
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        return output, *statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> Any:
        x, output, mean, var, *others = ctx.saved_tensors
        kept, parameters = others[: 3 * len(ctx.eps)], others[3 * len(ctx.eps) :]
        if grad is None:
            return (None,) * (2 + len(parameters))
        if torch.is_grad_enabled():  # create_graph=True
            return _gradients_of(_layer_by_layer(x, ctx.eps, parameters), grad, x, parameters)
        images, stop, *size = output.shape
        area = size[0] * size[1]
        features, grads = _rows(output), torch.empty_like(_rows(output)).copy_(_rows(grad))
        rows, layers = len(features), _layers(parameters)
        # What is still to be added to the gradient of each channel: offset + slope · its values.
        offset, slope = x.new_zeros(2, len(mean))

        def gradient(channels: slice) -> Tensor:
            if channels.start >= len(mean):  # nothing in the block reads the last layer
                return grads[:, channels]
            return torch.addcmul(offset[channels], features[:, channels], slope[channels]).add_(grads[:, channels])

        scratch = [x.new_empty(_scratch_size(area, stop, layers)) for _ in range(3)]
        found: list[Tensor] = []
        for index in reversed(range(len(layers))):
            layer, (eps1, eps2), (bottleneck, mean2, var2) = layers[index], ctx.eps[index], kept[3 * index :][:3]
            channels = stop - len(layer.conv2)
            norm1 = _NormReLU(layer.weight1, layer.bias1, mean[:channels], var[:channels], eps1)
            norm2 = _NormReLU(layer.weight2, layer.bias2, mean2, var2, eps2)
            made, behind = gradient(slice(channels, stop)), torch.empty_like(bottleneck)
            conv1, conv2 = torch.zeros_like(layer.conv1).flatten(1), torch.zeros_like(layer.conv2)
            for part in _image_parts(images, area, len(layer.conv1)):
                y = norm2.forward(bottleneck[part], scratch[0])
                g, weight = _conv2_backward(_images(made[part].contiguous(), size), _images(y, size), layer.conv2)
                conv2 += weight
                norm2.backward(_rows(g), y, bottleneck[part], scratch[1], out=behind[part])
            weight2, bias2, offset2, slope2 = norm2.sums()
            for part in _parts(rows, max(channels, len(layer.conv1))):
                g = torch.addcmul(offset2, behind[part], norm2.scale, out=behind[part])
                g.addcmul_(bottleneck[part], slope2)
                values = features[part, :channels]
                y = norm1.forward(values, scratch[0])
                conv1.addmm_(g.t(), y)
                g = torch.mm(g, layer.conv1.flatten(1), out=_take(scratch[1], values))
                norm1.backward(g, y, values, scratch[2], out=g)
                grads[part, :channels].addcmul_(g, norm1.scale)
            weight1, bias1, offset1, slope1 = norm1.sums()
            offset[:channels] += offset1
            slope[:channels] += slope1
            found = [weight1, bias1, conv1.view_as(layer.conv1), weight2, bias2, conv2, *found]
            stop = channels
        return _images(gradient(slice(0, stop)), size), None, *found


class TransitionFunction(torch.autograd.Function):
    """`apply(x, eps, weight, bias, conv)` → the transition's output, and mean and variance of its norm.

    It pools before the 1×1 convolution, which gives the same, as both are linear, for a quarter of the products.

    Args:
        x: (N, C, H, W), channels-last.
        eps: of the norm.
        weight: of the norm, (C,), and so is `bias`.
        bias: of the norm.
        conv: (C', C, 1, 1).

    Returns:
        The output (N, C', H/2, W/2), channels-last, and the statistics of the channels of `x`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, weight: Tensor, bias: Tensor, conv: Tensor) -> Any:
        images, channels, *size = x.shape
        area = size[0] * size[1]
        features = _rows(x)
        scratch = x.new_empty(max(_CHUNK, channels * area))
        mean, var = _statistics([features[part] for part in _parts(len(features), channels)], scratch)
        norm = _NormReLU(weight, bias, mean, var, eps)
        parts = _image_parts(images, area, channels)
        pooled = torch.cat([F.avg_pool2d(_images(norm.forward(features[part], scratch), size), 2) for part in parts])
        output = torch.mm(_rows(pooled), conv.flatten(1).t())
        ctx.eps = eps
        ctx.save_for_backward(x, pooled, mean, var, weight, bias, conv)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return _images(output, pooled.shape[2:]), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> Any:
        x, pooled, mean, var, weight, bias, conv = ctx.saved_tensors
        if grad is None:
            return (None,) * 5
        if torch.is_grad_enabled():  # create_graph=True
            y = F.relu(F.batch_norm(x, None, None, weight, bias, True, 0.0, ctx.eps))
            return _gradients_of(F.avg_pool2d(F.conv2d(y, conv), 2), grad, x, (weight, bias, conv))
        images, channels, *size = x.shape
        area = size[0] * size[1]
        features, grad = _rows(x), _rows(grad)
        norm = _NormReLU(weight, bias, mean, var, ctx.eps)
        of_conv = grad.t() @ _rows(pooled)
        of_pooled = _images(grad @ conv.flatten(1), pooled.shape[2:])
        scratch = [x.new_empty(max(_CHUNK, channels * area)) for _ in range(2)]
        grads = torch.empty_like(features)
        for part in _image_parts(images, area, channels):
            y = norm.forward(features[part], scratch[0])
            g = of_pooled[part.start // area : part.stop // area]
            g = torch.ops.aten.avg_pool2d_backward(g, _images(y, size), [2, 2], [2, 2], [0, 0], False, True, None)
            norm.backward(_rows(g), y, features[part], scratch[1], out=grads[part])
        of_weight, of_bias, offset, slope = norm.sums()
        for part in _parts(len(features), channels):
            torch.addcmul(offset, grads[part], norm.scale, out=grads[part]).addcmul_(features[part], slope)
        return _images(grads, size), None, of_weight, of_bias, of_conv.view_as(conv)


class _NormReLU:
    """Batch norm with known statistics and ReLU, on some rows at a time; and the way back."""

    def __init__(self, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> None:
        self.mean = mean
        self.inverse_std = (var + eps).rsqrt()
        self.scale = weight * self.inverse_std
        self.shift = bias - mean * self.scale
        self.rows = 0
        self.found: list[Tensor] = []

    def forward(self, values: Tensor, scratch: Tensor) -> Tensor:
        """(rows, C) → (rows, C), in `scratch`."""
        return torch.addcmul(self.shift, values, self.scale, out=_take(scratch, values)).relu_()

    def backward(self, grad: Tensor, y: Tensor, values: Tensor, scratch: Tensor, out: Tensor) -> None:
        """The gradient of `y = forward(values)` → that of the norm's output, and its sums."""
        torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=out)
        centred = torch.sub(values, self.mean, out=_take(scratch, values))
        self.found.append(torch.stack([out.sum(0), centred.mul_(out).sum(0)]))
        self.rows += len(out)

    def sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Once all rows are through: gradients of weight and bias, and the `offset` and `slope` of each channel.

        The gradient of the norm's input is `scale · gradient of its output + offset + slope · values`.
        """
        bias, products = torch.stack(self.found).sum(0)
        weight = products * self.inverse_std
        slope = -self.scale * self.inverse_std * weight / self.rows
        return weight, bias, -self.scale * bias / self.rows - slope * self.mean, slope


def _conv2_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a 3×3 convolution's input and weight."""
    options = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
    of_input, of_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *options)
    return of_input, of_weight


def _statistics(parts: Sequence[Tensor], scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of rows that are given in parts; merged without cancellation (Chan et al. 1979)."""
    means = [part.mean(0) for part in parts]
    # Not torch.var_mean, which takes 15 times as long over the first dimension.
    pairs = zip(parts, means, strict=True)
    variances = [torch.sub(part, mean, out=_take(scratch, part)).square_().mean(0) for part, mean in pairs]
    shares = parts[0].new_tensor([[len(part)] for part in parts]) / sum(map(len, parts))
    mean = (shares * torch.stack(means)).sum(0)
    return mean, (shares * (torch.stack(variances) + (torch.stack(means) - mean).square())).sum(0)


def _layer_by_layer(x: Tensor, eps: Sequence[tuple[float, float]], parameters: Sequence[Tensor]) -> Tensor:
    """The same block by operations that can be differentiated any number of times."""
    features = [x]
    for layer, (eps1, eps2) in zip(_layers(parameters), eps, strict=True):
        y = torch.cat(features, 1)
        y = F.conv2d(F.relu(F.batch_norm(y, None, None, layer.weight1, layer.bias1, True, 0.0, eps1)), layer.conv1)
        y = F.relu(F.batch_norm(y, None, None, layer.weight2, layer.bias2, True, 0.0, eps2))
        features.append(F.conv2d(y, layer.conv2, padding=1))
    return torch.cat(features, 1)


def _gradients_of(output: Tensor, grad: Tensor, x: Tensor, parameters: Sequence[Tensor]) -> Any:
    """What `backward` of a function of `x`, something else and its parameters returns, with a graph."""
    inputs = [tensor for tensor in (x, *parameters) if tensor.requires_grad]
    found = iter(torch.autograd.grad(output, inputs, grad, create_graph=True))
    of_x, *others = [next(found) if tensor.requires_grad else None for tensor in (x, *parameters)]
    return of_x, None, *others


def _layers(parameters: Sequence[Tensor]) -> list[LayerParameters]:
    return [LayerParameters(*parameters[i : i + 6]) for i in range(0, len(parameters), 6)]


def _rows(images: Tensor) -> Tensor:
    """(N, C, H, W) → (N · H · W, C), a view where the images are channels-last."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _images(rows: Tensor, size: Sequence[int]) -> Tensor:
    """(N · H · W, C) → (N, C, H, W), a view."""
    return rows.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2)


def _parts(rows: int, width: int) -> list[slice]:
    """As many rows at a time as have `_CHUNK` values."""
    step = max(1, _CHUNK // width)
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def _image_parts(images: int, area: int, width: int) -> list[slice]:
    """The rows of as many whole images at a time as have `_CHUNK` values, but of one at least."""
    step = max(1, _CHUNK // (width * area)) * area
    return [slice(start, min(images * area, start + step)) for start in range(0, images * area, step)]


def _scratch_size(area: int, width: int, layers: Sequence[LayerParameters]) -> int:
    return max(_CHUNK, width, area * max(len(layer.conv1) for layer in layers))


def _take(scratch: Tensor, like: Tensor) -> Tensor:
    return scratch[: like.numel()].view(like.shape)
