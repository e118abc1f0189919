"""Measurements on a running network: gradients, activations, gates, residual branches, channels; for any module.

Each function leaves the network as it was, also where it raises: hooks, mode, gradients, buffers and random state.
"""

from vertebra.errors import require_extra

with require_extra("torch", "vertebra.introspect"):
    import torch  # noqa: F401

from .preserve import batch_statistics as batch_statistics
from .preserve import preserved as preserved
