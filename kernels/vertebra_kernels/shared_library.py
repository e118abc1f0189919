"""The shared library beside this file, loaded once."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

INSTRUCTION_SETS = ("avx512", "avx2", "portable")  # best first
_FILE = "libvertebra_kernels.so"


@functools.cache
def shared_library() -> ctypes.CDLL:
    """The library with its functions declared; OSError if it is not there or cannot be loaded."""
    loaded = ctypes.CDLL(str(Path(__file__).with_name(_FILE)))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.vk_open.argtypes = [pointer, size, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
    loaded.vk_open.restype = ctypes.c_int
    loaded.vk_open_beside.argtypes = [pointer, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
    loaded.vk_open_beside.restype = ctypes.c_int
    loaded.vk_run.argtypes = [pointer, pointer, ctypes.c_ssize_t, pointer, pointer, pointer, pointer]
    loaded.vk_run.restype = ctypes.c_int
    loaded.vk_describe.argtypes = [pointer, ctypes.POINTER(ctypes.c_int64)]
    loaded.vk_describe.restype = None
    integer = ctypes.c_int
    loaded.vk_resize.argtypes = [pointer, *[integer] * 11, pointer]
    loaded.vk_resize.restype = integer
    loaded.vk_close.argtypes = [pointer]
    loaded.vk_close.restype = None
    loaded.vk_error.argtypes = [ctypes.c_int]
    loaded.vk_error.restype = ctypes.c_char_p
    for function in (loaded.vk_supports, loaded.vk_best_instruction_set, loaded.vk_supports_int8):
        function.restype = ctypes.c_int
    loaded.vk_supports.argtypes = [ctypes.c_int]
    loaded.vk_best_instruction_set.argtypes = []
    loaded.vk_supports_int8.argtypes = []
    return loaded


def instruction_set() -> str:
    """The best of `INSTRUCTION_SETS` that this processor has."""
    return INSTRUCTION_SETS[::-1][shared_library().vk_best_instruction_set()]


def supports_int8() -> bool:
    """Whether this processor runs networks in int8: it has AVX-512 with VNNI."""
    return bool(shared_library().vk_supports_int8())


def instruction_set_number(name: str | None) -> int:
    """The number of an instruction set in the C sources; None: the best one here."""
    if name is None:
        name = instruction_set()
    if name not in INSTRUCTION_SETS:
        raise ValueError(f"instruction set {name!r} is none of {', '.join(INSTRUCTION_SETS)}")
    return INSTRUCTION_SETS[::-1].index(name)


def check_status(status: int) -> None:
    """Raise what a status of the library means: ValueError, MemoryError or OSError."""
    if status:
        message = shared_library().vk_error(status).decode()
        raise {6: MemoryError, 7: OSError}.get(status, ValueError)(message)
