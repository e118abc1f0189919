"""Kernels for training on a processor, compiled at first use, for what is bound by memory there.

Batch norm with the shortcut and activation behind it, squeeze-excitation, the weights' gradient of depthwise
convolutions: torch's layers read and write each map more often.
"""

from .c_compiler import KernelError as KernelError
from .fused_graph import fuse as fuse
from .gain_measurement import measured_gain as measured_gain
