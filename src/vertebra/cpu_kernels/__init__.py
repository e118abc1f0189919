"""Kernels for training on a processor, compiled at first use, for what is bound by memory there.

Batch norm with the shortcut and activation behind it, squeeze-excitation: torch's layers read and write each map more
often. Depthwise convolutions: torch's wait for maps that are not in the cache.
"""

from .c_compiler import KernelError as KernelError
from .fused_graph import fuse as fuse
from .gain_measurement import measured_gain as measured_gain
