"""Give memory back to the system once a large picture, or a replaced model, is done with."""

from __future__ import annotations

import contextlib
import ctypes

# Of glibc's <malloc.h>.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
LARGE_BYTES = 1_000_000
ARENAS = 2


def limit_heaps() -> None:
    """Have glibc map large blocks by themselves, and few arenas for the rest.

    Otherwise it raises its own limit with each large block that is freed, up to 32 MB, takes the blocks of later
    pictures from its heaps, and these stay as large as they have ever been: one photo of 50 megapixels was 190 MB for
    good. Elsewhere nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_ARENA_MAX, ARENAS)


def trim_heaps() -> None:
    """Have glibc return the free pages of its heaps.

    A model is thousands of blocks below the limit for blocks that are mapped by themselves, and what is allocated
    meanwhile lies between them. Elsewhere nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
