"""Analysis of networks: parameters, operations, bytes and time of every layer.

import vertebra
anatomy = vertebra.inspect("resnet50")  # or vertebra.anatomy("resnet50")
"""

from __future__ import annotations

from vertebra.callable_module import make_callable
from vertebra.errors import require_extra

with require_extra("torch", "vertebra.anatomy"):
    import torch  # noqa: F401

from vertebra.graph.cost import Kind as Kind
from vertebra.graph.profile import Group as Group
from vertebra.graph.rows import Row as Row

from .analysis import Anatomy as Anatomy
from .analysis import inspect as inspect
from .choice import Candidate as Candidate
from .choice import Choice as Choice
from .choice import Limits as Limits
from .choice import choose as choose
from .comparison import Comparison as Comparison
from .comparison import compare as compare
from .latency import Latency as Latency
from .latency import predict as predict
from .machine_calibration import recalibrate as recalibrate
from .measurement import Measurement as Measurement
from .roofline import devices as devices
from .training_memory import TrainingMemory as TrainingMemory

anatomy = inspect  # `vertebra.anatomy(…)`
take_apart = inspect  # an older name, for one version

make_callable(__name__)
