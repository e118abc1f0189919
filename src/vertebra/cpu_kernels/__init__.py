"""Kernels for training on a processor, compiled at first use, where torch's layers do more than is needed, or wait.

Batch norm with the shortcut and activation behind it, squeeze-excitation: torch's layers read and write each map more
often. Depthwise and 1×1 convolutions: torch's wait for maps that are not in the cache. 3×3 convolutions: torch's
compute every product of the definition.
"""

from .c_compiler import KernelError as KernelError
from .fused_graph import fuse as fuse
from .gain_measurement import measured_gain as measured_gain
