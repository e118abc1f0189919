"""Tensors as torch's files name them: a block of numbers (a storage), and which part of it in which form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vertebra.units import size as shown_size

_REPEATED_LIMIT = 1 << 26  # bytes of all tensors that have more numbers than their blocks (`expand`)


class UnreadableError(Exception):
    """The file holds something that no network here can take.

    Args:
        what: what it is, after the file's name.
        advice: what to do then, if not what is said of all such files.
    """


class Storage(NamedTuple):
    """A block of numbers as the program names it."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes of the block."""
        return self.numel * self.dtype.itemsize


Block = Callable[[Storage], Tensor]  # → its numbers, one-dimensional


class StoredTensors:
    """Makes the tensors that a program asks for."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._blocks: dict[str, tuple[torch.dtype, Tensor]] = {}
        self._repeated = 0  # bytes that tensors would have with numbers of their own, where they repeat a block's

    def make(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        """A tensor that lies wholly inside its block.

        Raises:
            UnreadableError: it does not, or the block has another type or size elsewhere in the file.
        """
        if type(storage) is not Storage:
            raise UnreadableError
        if storage.key not in self._blocks:
            self._blocks[storage.key] = storage.dtype, self._block(storage)
        dtype, numbers = self._blocks[storage.key]
        if dtype != storage.dtype:
            raise UnreadableError
        last = offset
        for length, step in zip(size, stride, strict=True):
            last += (length - 1) * step
        # Torch refuses negative numbers, but enlarges a block that was copied for a tensor that reaches beyond it.
        if last >= numbers.numel() and 0 not in size:
            raise UnreadableError
        if (count := math.prod(size)) > numbers.numel():
            self._repeated += count * dtype.itemsize
            if self._repeated > _REPEATED_LIMIT:
                raise UnreadableError(f"has tensors of {shown_size(self._repeated)} that repeat the same few numbers")
        whole = numbers.untyped_storage()
        return torch.empty(0, dtype=dtype, device=numbers.device).set_(whole, offset, size, stride)


def storage_of(identity: Any) -> Storage:
    """A block, from what the program says of it.

    Raises:
        UnreadableError: it is none that torch ≥ 0.4 writes.
    """
    kind, dtype, key, _, numel, *view = identity  # the fourth is the device that it was saved from
    if kind != "storage" or view not in ([], [None]):  # a view is a part of another storage (torch < 0.4)
        raise UnreadableError
    if type(dtype) is not torch.dtype or type(key) is not str or type(numel) is not int or numel < 0:
        raise UnreadableError
    return Storage(key, dtype, numel)
