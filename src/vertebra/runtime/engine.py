"""What an engine is: what it takes and gives, and the `Plan` that says which engine runs a file, and how.

ONNX Runtime is always there, and MNN where it is installed. Which plan is fastest depends on the network and on the
machine: see `autotune`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.errors import UsageError, VertebraError, suggest
from vertebra.pixels import Pixels

FloatArray: TypeAlias = NDArray[np.float32]

ENGINES = ("auto", "onnxruntime", "mnn")
INPUT = "image"
PROBABILITIES, EMBEDDING, FEATURES = OUTPUTS = ("probabilities", "embedding", "features")


class EngineError(VertebraError):
    """An exported file cannot be run: the file or the engine is not fit for it."""


@dataclass(frozen=True)
class Plan:
    """How a file is run.

    A lane is one call at a time. One lane of all cores answers one image soonest; for many images a lane of one
    thread for each core gets more of them done, because no thread waits for another within a layer.
    """

    engine: str = "onnxruntime"
    lanes: int = 1
    threads: int = 1  # of each lane
    micro_batch: int = 1  # images of one call
    winograd: int = 3  # MNN only: see mnn_engine.WINOGRAD_LEVELS
    fast_start: bool = False  # ONNX Runtime only: load sooner, run slower: see OnnxRuntimeEngine

    def __str__(self) -> str:
        lanes = f", {self.lanes} × {self.threads} threads, {self.micro_batch} images a call"
        return f"{self.engine}{f' (Winograd {self.winograd})' if self.engine == 'mnn' else ''}{lanes}"


class Engine(Protocol):
    """A file made ready to run. Calls on different lanes may run at the same time."""

    name: str
    lanes: int

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,), lane: int = 0) -> list[FloatArray]:
        """uint8 (N, H, W, 3) → the named outputs, each float32 (N, …)."""


def engine_version(plan: Plan) -> str:
    """What computes by a plan: others round differently."""
    from importlib import metadata

    package = {"mnn": "MNN"}.get(plan.engine, plan.engine)
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:  # its other builds have names of their own
        version = str(getattr(import_module(package), "__version__", "?"))
    # "brief" is `fast_start`: keys of feature caches hold this text.
    return f"{package} {version}, " + (
        f"Winograd {plan.winograd}" if plan.engine == "mnn" else f"brief {plan.fast_start}"
    )


def check_engine(name: str) -> None:
    """A `UsageError` for a name that is not known."""
    if name not in ENGINES:
        hint = suggest(name, ENGINES) or f"Allowed are {', '.join(ENGINES)}."
        raise UsageError(f"there is no engine {name!r}. {hint}")
