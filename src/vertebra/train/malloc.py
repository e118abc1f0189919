"""What glibc does with memory that a training step gives back, and the next one wants again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_DEFAULT_MMAP_MAX, _DEFAULT_TRIM_THRESHOLD, _DEFAULT_TOP_PAD = 65_536, 128 << 10, 128 << 10
_NEVER = 2**31 - 1


@contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process.

    By default glibc maps each tensor of more than 32 MB anew and gives it back when it is freed: 40,000 page faults a
    step of MobileNetV2 at batch 16, 4 to 10 % of its time. Elsewhere than on Linux with glibc this does nothing.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, 64 << 20)):
        libc.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in (
            (_MMAP_MAX, _DEFAULT_MMAP_MAX),
            (_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD),
            (_TOP_PAD, _DEFAULT_TOP_PAD),
        ):
            libc.mallopt(name, value)
        libc.malloc_trim(0)
