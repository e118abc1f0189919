"""The matrix that a linear head is fitted to: features centred and scaled, and a column of ones for the bias.

A fit needs two products with it: with the weights, and of its transpose with the residuals. They come in blocks of
rows, from features in memory or from those in a feature store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .metrics import Floats
from .stored_features import Features, StoredFeatures

_BLOCK_ROWS = 8192  # of features in memory
# Columns are padded with zeros to a multiple of this, the width of the kernels: products with 112 columns take three
# quarters of the time of those with 101.
_COLUMNS = 16


class DesignMatrix(Protocol):
    """(N, D + 1): features minus `mean`, over `scale`; the last column is 1."""

    shape: tuple[int, int]
    mean: Tensor  # (D,)
    scale: float  # the mean norm of the centred features

    def product(self, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(D + 1, K) → the product, in blocks (rows, (B, K))."""

    def transposed_product(self, residual: Callable[[slice], Tensor], classes: int) -> Tensor:
        """`residual(rows)` (B, K), which is asked for each block in turn and overwritten → (D + 1, K)."""

    def sample(self, rows: Tensor) -> Tensor:
        """Return some rows without the column of ones, (R, D)."""


def design_matrix(features: Features) -> DesignMatrix:
    """Return the design matrix of features; those in memory are copied."""
    return _Streamed(features) if isinstance(features, StoredFeatures) else _InMemory(features)


class _InMemory:
    def __init__(self, features: Floats) -> None:
        values = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        self.mean = values.mean(0)
        self.shape = values.shape[0], values.shape[1] + 1
        self._values = torch.ones(self.shape)  # the only copy
        centred = torch.sub(values, self.mean, out=self._values[:, :-1])
        self.scale = float(centred.norm(dim=1).mean()) or 1.0
        centred.div_(self.scale)

    def product(self, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        factor, classes = _padded(weight), weight.shape[1]
        for start in range(0, len(self._values), _BLOCK_ROWS):
            rows = slice(start, min(len(self._values), start + _BLOCK_ROWS))
            yield rows, (self._values[rows] @ factor)[:, :classes]

    def transposed_product(self, residual: Callable[[slice], Tensor], classes: int) -> Tensor:
        found = _padded(torch.zeros(self.shape[1], classes))
        for start in range(0, len(self._values), _BLOCK_ROWS):
            rows = slice(start, min(len(self._values), start + _BLOCK_ROWS))
            found.addmm_(self._values[rows].T, _padded(residual(rows)))
        return found[:, :classes].contiguous()

    def sample(self, rows: Tensor) -> Tensor:
        return self._values[rows, :-1]


class _Streamed:
    """Centring and scaling are applied to the weights and to the products, so that a block is converted and no more.

    Products are summed in float64 over the blocks. The centring's cancellation costs less than float16's rounding:
    both are relative to the features before it.
    """

    def __init__(self, features: StoredFeatures) -> None:
        self._features = features
        count, width = features.shape
        self.shape = count, width + 1
        total = torch.zeros(width, dtype=torch.float64)
        for _, block, scale in features.blocks():
            total += (scale.T @ block)[0]
        self.mean = (total / max(1, count)).float()
        norms = 0.0
        for _, block, scale in features.blocks():
            norms += float(block.mul_(scale).sub_(self.mean).norm(dim=1).sum(dtype=torch.float64))
        self.scale = norms / max(1, count) or 1.0

    def product(self, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        scaled = weight[:-1] / self.scale
        bias = weight[-1] - self.mean @ scaled
        factor, classes = _padded(scaled), weight.shape[1]
        for rows, block, scale in self._features.blocks():
            yield rows, torch.addcmul(bias, (block @ factor)[:, :classes], scale)

    def transposed_product(self, residual: Callable[[slice], Tensor], classes: int) -> Tensor:
        found = _padded(torch.zeros(self.shape[1] - 1, classes, dtype=torch.float64))
        total = torch.zeros(classes, dtype=torch.float64)
        for rows, block, scale in self._features.blocks():
            errors = residual(rows)
            total += errors.sum(0, dtype=torch.float64)
            found += block.T @ _padded(errors.mul_(scale))
        found = (found[:, :classes] - self.mean.double()[:, None] * total) / self.scale
        return torch.cat([found, total[None]]).float()

    def sample(self, rows: Tensor) -> Tensor:
        found = torch.from_numpy(self._features[np.sort(rows.numpy())].to_memory())
        return found.sub_(self.mean).div_(self.scale)


def _padded(values: Tensor) -> Tensor:
    """(R, K) → (R, K padded); few classes stay as they are, as padding would multiply their operations."""
    missing = -values.shape[1] % _COLUMNS
    return nn.functional.pad(values, (0, missing)) if 4 * missing <= values.shape[1] else values
