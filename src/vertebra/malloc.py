"""What glibc's malloc keeps of freed memory, and what it gives back to the system. Nothing is done elsewhere."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8
_DEFAULTS = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10}
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}
_SERVER = {_MMAP_THRESHOLD: 1_000_000, _ARENA_MAX: 2}


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Inside, freed memory stays with the process.

    By default glibc maps each tensor of more than 32 MB anew and gives it back when it is freed: 40,000 page faults a
    step of MobileNetV2 at batch 16, 4 to 10 % of its time.
    """
    _set_options(_KEEP)
    try:
        yield
    finally:
        _set_options(_DEFAULTS)
        trim_heaps()


def limit_heaps() -> None:
    """Map blocks of a megabyte or more by themselves, and have two arenas for the rest.

    Otherwise glibc raises its own limit with each large block that is freed, up to 32 MB, takes the blocks of later
    pictures from its heaps, and these stay as large as they have ever been: one photo of 50 megapixels was 190 MB for
    good.
    """
    _set_options(_SERVER)


def trim_heaps() -> None:
    """Return the free pages of the heaps.

    A model is thousands of blocks below the limit for blocks that are mapped by themselves, and what is allocated
    meanwhile lies between them.
    """
    if libc := _glibc():
        libc.malloc_trim(0)


def _set_options(values: Mapping[int, int]) -> None:
    if libc := _glibc():
        for option, value in values.items():
            libc.mallopt(option, value)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
