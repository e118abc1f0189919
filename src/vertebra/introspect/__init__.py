"""Measurements on a running network: gradients, activations, gates, residual branches, channels; for any module.

Each function leaves the network as it was, also where it raises: hooks, mode, gradients, buffers and random state.
"""

from vertebra.errors import require_extra

with require_extra("torch", "vertebra.introspect"):
    import torch  # noqa: F401

from .gradients import LayerGradient as LayerGradient
from .gradients import first_to_last_ratio as first_to_last_ratio
from .gradients import gradient_norms as gradient_norms
from .gradients import input_gradient_correlation as input_gradient_correlation
from .gradients import noise_arc as noise_arc
from .gradients import output_projection as output_projection
from .preserve import batch_statistics as batch_statistics
from .preserve import preserved as preserved
