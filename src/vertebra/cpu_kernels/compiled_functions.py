"""The compiled functions, with the types of their arguments."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from torch import Tensor

from .c_compiler import KernelError, compiled_library


class _TensorPointer:
    """The type of arguments that are tensors: the function gets the address of the first value; None: NULL.

    The call holds the tensor. An address taken before would be that of freed memory if nothing else did.
    """

    @staticmethod
    def from_param(tensor: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


_POINTER, _ARRAY = _TensorPointer, ctypes.c_void_p
_INDEX, _INT, _DOUBLE = ctypes.c_int64, ctypes.c_int, ctypes.c_double
# Parameters as in the C sources.
_PARAMETERS: dict[str, list[Any]] = {
    "channel_statistics": [_POINTER] + [_INDEX] * 2 + [_POINTER] * 3 + [_INT],
    "batch_norm_forward": (
        [_ARRAY] * 3
        + [_INDEX, _POINTER]
        + [_INDEX] * 2
        + [_POINTER] * 4
        + [_DOUBLE] * 2
        + [_INT]
        + [_POINTER] * 2
        + [_INT]
    ),
    "batch_norm_backward": (
        [_ARRAY] * 2 + [_INDEX] + [_POINTER] * 2 + [_INDEX] * 2 + [_POINTER, _INT, _ARRAY] + [_POINTER] * 5 + [_INT]
    ),
    # Images, channels, height, width, height and width of the output, kernel, stride, threads.
    "depthwise_forward": [_POINTER] * 4 + [_INDEX] * 6 + [_INT] * 3,
    "depthwise_input_gradient": [_POINTER] * 4 + [_INDEX] * 6 + [_INT] * 2,
    "depthwise_weight_gradient": [_POINTER] * 4 + [_INDEX] * 6 + [_INT] * 3,
    # Pixels, channels, output channels, threads.
    "conv1x1_scratch_size": [_INDEX] * 3 + [_INT],
    "conv1x1": [_POINTER] * 2 + [_INDEX] * 2 + [_POINTER] * 2 + [_INDEX] * 3 + [_POINTER] * 2 + [_INT],
    "conv1x1_gradient_scratch_size": [_INDEX] * 3 + [_INT],
    "conv1x1_weight_gradient": [_POINTER] * 3 + [_INDEX] * 3 + [_POINTER, _INT],
    # What is computed; images, height, width, channels, output channels, stride, threads.
    "conv3x3_scratch_size": [_INT] + [_INDEX] * 5 + [_INT] * 2,
    "conv3x3": [_INT] + [_POINTER] * 2 + [_ARRAY] + [_POINTER] * 3 + [_INDEX] * 5 + [_INT, _POINTER, _INT],
    "conv3x3_weight_gradient": [_POINTER] * 4 + [_INDEX] * 5 + [_INT, _POINTER, _INT],
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
        function.argtypes, function.restype = parameters, _INDEX if name.endswith("_size") else None
    return loaded
