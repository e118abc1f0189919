"""Float weights → weights on an int8 grid, chosen so that the layers' outputs change least."""

from __future__ import annotations

import numpy as np

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

    GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323), by columns of falling importance, all groups at once.

    Args:
        weight: (O, …) of O outputs in G groups, each of K inputs.
        scale: (O,), the step between two levels.
        second_moment: (G, K, K), E[x xᵀ] of the inputs.
    """
    groups, inputs = second_moment.shape[:2]
    second = second_moment.astype(np.float64)
    diagonal = np.einsum("gkk->gk", second)
    # Damped, and what is never active (a dead channel) gets a pivot of its own.
    diagonal += _DAMPING * diagonal.mean(1, keepdims=True) + 1e-9
    order = np.argsort(-diagonal, axis=1, kind="stable")
    second = np.take_along_axis(np.take_along_axis(second, order[:, :, None], 1), order[:, None, :], 2)
    upper = np.linalg.cholesky(np.linalg.inv(second)).transpose(0, 2, 1)
    rows = weight.reshape(groups, -1, inputs).astype(np.float64)
    rows = np.take_along_axis(rows, np.broadcast_to(order[:, None, :], rows.shape), 2)
    step = scale.reshape(groups, -1).astype(np.float64)
    for start in range(0, inputs, _BLOCK):
        stop = min(start + _BLOCK, inputs)
        block = rows[:, :, start:stop].copy()
        errors = np.empty_like(block)
        for i in range(stop - start):
            row = upper[:, start + i, start:stop]
            rounded = np.rint(block[:, :, i] / step).clip(-_LEVELS, _LEVELS) * step
            errors[:, :, i] = (block[:, :, i] - rounded) / row[:, i, None]
            block[:, :, i + 1 :] -= errors[:, :, i, None] * row[:, None, i + 1 :]
            rows[:, :, start + i] = rounded
        rows[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    result = np.empty_like(rows)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], rows.shape), rows, 2)
    return result.reshape(weight.shape).astype(np.float32)
