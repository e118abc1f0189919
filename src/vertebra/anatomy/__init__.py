"""A network taken apart: where every parameter, operation, byte and millisecond of it goes.

    import vertebra
    anatomy = vertebra.anatomy("resnet50")

The package is itself that function, so that `vertebra.anatomy` is one thing whether or not something of it has been
imported before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from vertebra.errors import needing

with needing("torch", "vertebra.anatomy"):
    import torch
    from torch import nn

from vertebra.graph.cost import Kind as Kind
from vertebra.graph.rows import Row as Row

from .analysis import Anatomy as Anatomy
from .analysis import Group as Group
from .analysis import take_apart as take_apart
from .choice import Candidate as Candidate
from .choice import Choice as Choice
from .choice import Limits as Limits
from .choice import choose as choose
from .comparison import Comparison as Comparison
from .comparison import compare as compare
from .latency import Latency as Latency
from .latency import predict as predict
from .machine_calibration import calibrated_anew as calibrated_anew
from .measurement import Measurement as Measurement
from .roofline import devices as devices
from .training_memory import TrainingMemory as TrainingMemory


class _CallableModule(ModuleType):
    def __call__(
        self,
        model: nn.Module | str,
        input_size: int | Sequence[int] | None = None,
        batch_size: int = 1,
        dtype: torch.dtype | str | None = None,
        *,
        inputs: Any = None,
    ) -> Anatomy:
        return take_apart(model, input_size, batch_size, dtype, inputs=inputs)

    __call__.__doc__ = take_apart.__doc__


sys.modules[__name__].__class__ = _CallableModule
