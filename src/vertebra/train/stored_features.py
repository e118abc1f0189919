"""Features that stay on disk: rows of float16 in mapped files, read in blocks.

torch is imported where a block is read: `evaluate` needs the rest without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .metrics import Floats

if TYPE_CHECKING:
    from torch import Tensor

Features16: TypeAlias = NDArray[np.float16]

# Rows of a block: 5 MB as float32 for 1,280 features, which stays in the processor's cache between its conversion and
# the product.
_BLOCK_BYTES = 1 << 23


class StoredFeatures:
    """(N, D) features in the float16 rows of mapped files; a selection of rows copies none of them."""

    def __init__(
        self, parts: Sequence[Features16], part: NDArray[np.int32], row: NDArray[np.int64], exponent: NDArray[np.int32]
    ) -> None:
        self._parts = parts  # (R, D) each
        self._part, self._row, self._exponent = part, row, exponent  # (N,) each

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self._row), self._parts[-1].shape[1]

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, rows: Any) -> StoredFeatures:
        """Select rows by a slice, by their numbers or by a mask (N,)."""
        return StoredFeatures(self._parts, self._part[rows], self._row[rows], self._exponent[rows])

    def __matmul__(self, weight: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """(N, D) @ (D, K) → (N, K)."""
        import torch

        found = np.empty((len(self), weight.shape[1]), np.float32)
        factor = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
        for rows, block, scale in self.blocks():
            torch.mul(block @ factor, scale, out=torch.from_numpy(found[rows]))
        return found

    def storage_order(self) -> NDArray[np.int64]:
        """Return (N,) row numbers in the order of the files, in which they are read fastest."""
        return np.lexsort((self._row, self._part))

    def to_memory(self) -> NDArray[np.float32]:
        """Read all rows, (N, D) float32."""
        import torch

        found = np.empty(self.shape, np.float32)
        for rows, block, scale in self.blocks():
            torch.mul(block, scale, out=torch.from_numpy(found[rows]))
        return found

    def blocks(self, block_rows: int | None = None) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Iterate over (rows, values (B, D), scales (B, 1)), whose product is the features of these rows.

        Scales are powers of two, and cheaper to apply to a product of the values. The tensor of the values is used
        again for the next block.
        """
        import torch

        count, width = self.shape
        step = block_rows or max(64, _BLOCK_BYTES // (4 * width))
        values = torch.empty(min(step, count), width)
        for start in range(0, count, step):
            rows = slice(start, min(count, start + step))
            size = rows.stop - rows.start
            self._gather(rows, values[:size])
            yield rows, values[:size], torch.from_numpy(np.ldexp(np.float32(1), self._exponent[rows]))[:, None]

    def _gather(self, rows: slice, out: Tensor) -> None:
        import torch

        part, row = self._part[rows], self._row[rows]
        for number in np.unique(part).tolist():
            places = np.flatnonzero(part == number)
            wanted = row[places]
            is_run = wanted[-1] - wanted[0] == len(wanted) - 1 and (np.diff(wanted) == 1).all()
            source = torch.from_numpy(self._parts[number])
            found = (
                source[int(wanted[0]) : int(wanted[-1]) + 1]
                if is_run
                else source.index_select(0, torch.from_numpy(wanted))
            )
            if len(places) == len(out):
                out.copy_(found)
            else:
                out[torch.from_numpy(places)] = found.float()


Features: TypeAlias = Floats | StoredFeatures  # (N, D)
