"""The compiled functions, with the types of their arguments."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from torch import Tensor

from .c_compiler import KernelError, compiled_library

_POINTER, _INDEX, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_double
# Parameters as in the C sources.
_PARAMETERS: dict[str, list[Any]] = {
    "batch_norm_forward": (
        [_POINTER] * 2 + [_INDEX] * 2 + [_POINTER] * 4 + [_DOUBLE] * 2 + [_INT] + [_POINTER] * 4 + [_INT]
    ),
    "batch_norm_backward": [_POINTER] * 3 + [_INDEX] * 2 + [_POINTER, _INT] + [_POINTER] * 6 + [_INT],
    # Images, channels, height, width, height and width of the output, kernel, stride, threads.
    "depthwise_forward": [_POINTER] * 4 + [_INDEX] * 6 + [_INT] * 3,
    "depthwise_input_gradient": [_POINTER] * 4 + [_INDEX] * 6 + [_INT] * 2,
    "depthwise_weight_gradient": [_POINTER] * 4 + [_INDEX] * 6 + [_INT] * 3,
    "channel_means": [_POINTER] + [_INDEX] * 3 + [_POINTER, _INT],
    "scale_channels": [_POINTER] * 2 + [_INDEX] * 3 + [_POINTER, _INT],
    "factor_gradients": [_POINTER] * 2 + [_INDEX] * 3 + [_POINTER, _INT],
    "scaled_gradients": [_POINTER] * 3 + [_INDEX] * 3 + [_POINTER, _INT],
}


@functools.cache
def library() -> ctypes.CDLL:
    """Return the compiled library; a KernelError if there is none."""
    path = compiled_library()
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(f"{path} cannot be loaded ({error})") from error
    for name, parameters in _PARAMETERS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = parameters, None
    return loaded


def pointer(tensor: Tensor | None) -> int | None:
    """Return the address of a tensor's first value; None: NULL."""
    return None if tensor is None else tensor.data_ptr()
