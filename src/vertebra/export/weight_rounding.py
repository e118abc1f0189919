"""Float weights → weights on an int8 grid, chosen so that the layers' outputs change least."""

from __future__ import annotations

import numpy as np
import torch

from .activation_ranges import Extent
from .onnx_model import Array
from .qdq_writer import Scale

_LEVELS = 127
_INT16 = 32_767
# Activations may exceed what calibration saw by this factor before a sum of two products can leave 16 bits.
_HEADROOM = 1.1
_DAMPING = 0.01  # of the mean of the diagonal
_BLOCK = 64


def weight_scales(weight: Array, groups: int, extent: Extent, activation: Scale) -> Array:
    """A scale for each output channel (O,): as fine as 8 bits allow without overflow on processors with AVX2 only.

    Without VNNI, x86 adds two neighbouring products (uint8 · int8) in 16 bits and cuts off what is beyond. The usual
    remedy is weights of 7 bits everywhere. But only two large weights side by side, with two large activations, can
    overflow: the scale is widened where that is so, and most channels keep 8 bits.
    """
    flat = weight.reshape(len(weight), -1)
    largest = np.abs(flat).max(1)
    scale = largest / _LEVELS
    inputs = weight.shape[1]
    if inputs > 1:  # depthwise convolutions multiply in 16 bits and add in 32
        levels = np.minimum(np.clip(activation.levels(extent.high), 0, 255) * _HEADROOM, 255)
        # A channel of group g meets the activations of that group: (G, C/G) for O/G outputs each.
        met = np.repeat(levels.reshape(groups, inputs), len(weight) // groups, axis=0)
        products = weight * met.reshape(*met.shape, *[1] * (weight.ndim - 2))
        orders = [products.reshape(len(weight), -1)]
        if weight.ndim == 4:  # channels last, as convolutions mostly run, or channels first
            orders.append(products.transpose(0, 2, 3, 1).reshape(len(weight), -1))
        for order in orders:
            scale = np.maximum(scale, _largest_pair(order) / _INT16)
    return np.where(largest > 0, scale, 1.0).astype(np.float32)


def _largest_pair(products: Array) -> Array:
    """The largest sum of two neighbours of one sign in each row."""
    if products.shape[1] % 2:
        products = np.pad(products, ((0, 0), (0, 1)))
    pairs = products.reshape(len(products), -1, 2)
    largest: Array = np.maximum(np.maximum(pairs, 0).sum(2), np.maximum(-pairs, 0).sum(2)).max(1)
    return largest


def nearest_levels(weight: Array, scale: Array) -> Array:
    """Each weight by itself to the nearest level."""
    scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    rounded: Array = np.rint(weight / scale).clip(-_LEVELS, _LEVELS) * scale
    return rounded


def best_levels(weight: Array, scale: Array, second_moment: Array) -> Array:
    """Weights on the grid so that outputs change least: after each weight is rounded, those still free make up for it.

    GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323), by columns of falling importance, all groups at once,
    as Babai's nearest plane: with E[x xᵀ] = U Uᵀ, U upper triangular, the outputs change by |(w - q) U|², whose i-th
    term the i-th weight makes smallest when those before it are rounded. The same weights as by the inverse of
    E[x xᵀ] (Chen et al. 2025, https://arxiv.org/abs/2507.18553), which takes seven times as many operations.

    Args:
        weight: (O, …) of O outputs in G groups, each of K inputs.
        scale: (O,), the step between two levels.
        second_moment: (G, K, K), E[x xᵀ] of the inputs.
    """
    groups, inputs = second_moment.shape[:2]
    diagonal = np.einsum("gkk->gk", second_moment).astype(np.float64)
    # Damped, and what is never active (a dead channel) gets a pivot of its own.
    damped = diagonal + _DAMPING * diagonal.mean(1, keepdims=True) + 1e-9
    # The most important last, and rounded first: then U Uᵀ is the ordinary L Lᵀ read from its end.
    order = np.argsort(-damped, axis=1, kind="stable")[:, ::-1]
    lower = _cholesky(second_moment, damped, order)
    pivots = np.einsum("gkk->gk", lower)[:, :, None]
    rows = weight.reshape(groups, -1, inputs).astype(np.float64).transpose(0, 2, 1)  # (G, K, O/G)
    rows = np.take_along_axis(rows, order[:, :, None], 1)
    step = scale.reshape(groups, -1).astype(np.float64)
    errors, rounded = np.empty_like(rows), np.empty_like(rows)
    for stop in range(inputs, 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        # What those rounded so far ask of this block.
        wanted = _product(lower[:, stop:, start:stop].transpose(0, 2, 1), errors[:, stop:])
        wanted = wanted / pivots[:, start:stop] + rows[:, start:stop]
        block = np.ascontiguousarray(lower[:, start:stop, start:stop].transpose(0, 2, 1)) / pivots[:, start:stop]
        for i in reversed(range(stop - start)):
            here = start + i
            aim = wanted[:, i]
            if here + 1 < stop:
                aim = aim + (block[:, i : i + 1, i + 1 :] @ errors[:, here + 1 : stop])[:, 0]
            levels = np.rint(aim / step)
            rounded[:, here] = np.clip(levels, -_LEVELS, _LEVELS, out=levels) * step
            np.subtract(rows[:, here], rounded[:, here], out=errors[:, here])
    result = np.empty_like(rows)
    np.put_along_axis(result, np.broadcast_to(order[:, :, None], rows.shape), rounded, 1)
    return result.transpose(0, 2, 1).reshape(weight.shape).astype(np.float32)


def _cholesky(second_moment: Array, diagonal: Array, order: Array) -> Array:
    """L of the matrices (G, K, K) with this diagonal (G, K), rows and columns in this order (G, K)."""
    ordered = np.stack([matrix[np.ix_(index, index)] for matrix, index in zip(second_moment, order, strict=True)])
    ordered = ordered.astype(np.float64)
    np.einsum("gkk->gk", ordered)[:] = np.take_along_axis(diagonal, order, 1)
    # torch's takes a fifth of numpy's time.
    lower: Array = torch.linalg.cholesky(torch.from_numpy(ordered)).numpy()
    return lower


def _product(a: Array, b: Array) -> Array:
    product: Array = (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
    return product
