"""The pixels of a Pillow image where they lie in memory, without a copy: by the Arrow C data interface.

`numpy.asarray` of an image encodes it into strings, joins these and holds the GIL meanwhile.
https://arrow.apache.org/docs/format/CDataInterface.html
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class _ArrowArray(ctypes.Structure):
    pass


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Memory:
    """What an array of Pillow's memory keeps alive."""

    def __init__(self, owner: object, address: int, shape: tuple[int, ...]) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": shape, "data": (address, True)}


def stored_pixels(picture: Image.Image) -> NDArray[np.uint8] | None:
    """The memory of an RGB picture: (H, W, 4), read-only, the fourth byte of no meaning.

    None where the picture lies in several blocks of memory, as from 16 MB on, or Pillow is older than 11.2.
    """
    if not hasattr(picture, "__arrow_c_array__"):
        return None
    try:
        _, capsule = picture.__arrow_c_array__()
    except ValueError:
        return None
    whole = _ArrowArray.from_address(_pointer(capsule, b"arrow_array"))
    shape = (picture.height, picture.width, 4)
    if whole.n_children != 1 or whole.offset or whole.length != picture.height * picture.width:
        return None
    values = whole.children[0].contents
    if values.n_buffers != 2 or values.offset or values.length != 4 * whole.length:
        return None
    return np.asarray(_Memory(capsule, values.buffers[1], shape))
