"""A packed network that runs."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra_kernels.packed_block import output_kinds
from vertebra_kernels.shared_library import check_status, shared_library

Array: TypeAlias = NDArray[np.float32]

_KINDS = ("features", "embedding", "logits", "probabilities")  # in the order of vk_run's arguments
_PIXEL, _VALUE = np.dtype(np.uint8), np.dtype(np.float32)
_Memory = ctypes.c_char * 0


def _pointer(array: NDArray[Any]) -> Any:
    """What ctypes passes as the address of a contiguous array.

    `array.ctypes.data` takes 25 microseconds where the run before has filled the processor's caches.
    """
    return _Memory.from_buffer(array) if array.flags.writeable else array.ctypes.data


def _close(handle: ctypes.c_void_p) -> None:
    shared_library().vk_close(handle)
    handle.value = None


class Network:
    """Runs what `pack` wrote, with threads of its own.

    Calls from several threads take turns. After a fork the child starts threads of its own at its first call.
    """

    def __init__(self, packed: bytes | memoryview | mmap.mmap, threads: int = 1) -> None:
        """Copies `packed` after checking every size and offset in it.

        Raises:
            ValueError: `packed` is not a packed network, is damaged, or is for another processor or version.
            OSError: The shared library cannot be loaded, or its threads cannot be started.
            MemoryError: There is not enough memory.
        """
        block = np.frombuffer(packed, np.uint8)
        if block.ctypes.data % 8:
            block = block.copy()
        handle = ctypes.c_void_p()
        check_status(shared_library().vk_open(block.ctypes.data, block.size, threads, ctypes.byref(handle)))
        self._own(handle)
        sizes = (ctypes.c_int64 * 6)()
        shared_library().vk_describe(handle, sizes)
        height, width, channels, map_height, map_width, classes = sizes
        shapes = {
            "features": (channels, map_height, map_width),
            "embedding": (channels,),
            "logits": (classes,),
            "probabilities": (classes,),
        }
        self.image_size: tuple[int, int] = (height, width)
        try:
            self._kinds: dict[str, str] = output_kinds(block)
            self.outputs: dict[str, tuple[int, ...]] = {name: shapes[kind] for name, kind in self._kinds.items()}
        except (ValueError, TypeError, AttributeError, KeyError):
            self.close()
            raise ValueError("the names of a packed network's outputs are damaged; pack it anew") from None

    def _own(self, handle: ctypes.c_void_p) -> None:
        self._handle = handle
        self._run = shared_library().vk_run
        self._finalizer = weakref.finalize(self, _close, handle)

    def beside(self, threads: int = 1) -> Network:
        """Another network with the same weights in memory and threads of its own; both may run at the same time.

        Raises:
            ValueError: This network is closed, or `threads` is outside its limits.
            OSError: Its threads cannot be started.
            MemoryError: There is not enough memory.
        """
        self._require_open()
        handle = ctypes.c_void_p()
        check_status(shared_library().vk_open_beside(self._handle, threads, ctypes.byref(handle)))
        other = Network.__new__(Network)
        other._own(handle)
        other.image_size, other.outputs, other._kinds = self.image_size, self.outputs, self._kinds
        return other

    def _require_open(self) -> None:
        if not self._handle:
            raise ValueError("the network is closed")

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[Array]:
        """The outputs named, float32 `(N, ...)`, of `images`: uint8 `(N, height, width, 3)`."""
        self._require_open()
        if images.dtype != _PIXEL or images.ndim != 4 or images.shape[1:] != (*self.image_size, 3):
            raise ValueError(
                f"images are {images.dtype} {images.shape}, "
                f"not uint8 (N, {self.image_size[0]}, {self.image_size[1]}, 3)"
            )
        images = np.ascontiguousarray(images)
        results: dict[str, Array] = {}
        pointers: list[Any] = [None] * len(_KINDS)
        for name in outputs:
            if name not in self.outputs:
                raise ValueError(f"output {name!r} is none of {', '.join(self.outputs)}")
            kind = self._kinds[name]
            if kind not in results:
                results[kind] = np.empty((len(images), *self.outputs[name]), _VALUE)
                pointers[_KINDS.index(kind)] = _pointer(results[kind])
        if status := self._run(self._handle, _pointer(images), len(images), *pointers):
            check_status(status)
        return [results[self._kinds[name]] for name in outputs]

    def close(self) -> None:
        """Ends the threads and frees the memory; again is harmless."""
        self._finalizer()
