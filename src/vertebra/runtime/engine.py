"""The `Engine` interface, and the `Plan` that says which engine runs a file and how.

ONNX Runtime is always installed, MNN with the extra `fast`, the kernels with the extra `kernels`. `engine_selection`
decides which plan is used.
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

# Engine -> the package that has it.
PACKAGES = {"onnxruntime": "onnxruntime", "mnn": "MNN", "kernels": "vertebra-kernels"}
ENGINES = ("auto", *PACKAGES)
INPUT = "image"
PROBABILITIES, EMBEDDING, FEATURES = OUTPUTS = ("probabilities", "embedding", "features")


class EngineError(VertebraError):
    """An engine cannot run an exported file."""


@dataclass(frozen=True)
class Plan:
    """How a file is run.

    A lane runs one call at a time. One lane with all cores has the lowest latency; one single-threaded lane per core
    has the highest throughput, because no thread waits for another within a layer.
    """

    engine: str = "onnxruntime"
    lanes: int = 1
    threads: int = 1  # of each lane
    micro_batch: int = 1  # images per call
    winograd: int = 3  # MNN only: see mnn_engine.WINOGRAD_LEVELS
    fast_start: bool = False  # ONNX Runtime only: load sooner, run slower: see OnnxRuntimeEngine

    def __str__(self) -> str:
        lanes = f", {self.lanes} × {self.threads} threads, {self.micro_batch} images a call"
        return f"{self.engine}{f' (Winograd {self.winograd})' if self.engine == 'mnn' else ''}{lanes}"


class Engine(Protocol):
    """A loaded file. Calls on different lanes may run concurrently."""

    name: str
    lanes: int

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,), lane: int = 0) -> list[FloatArray]:
        """uint8 (N, H, W, 3) → the named outputs, each float32 (N, …)."""


def engine_version(plan: Plan) -> str:
    """Describe what computes the outputs of a plan: other versions round differently."""
    from importlib import metadata

    package = PACKAGES[plan.engine]
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:  # other builds of the package have other names
        version = str(getattr(import_module(package), "__version__", "?"))
    # Feature caches are keyed by this text, which has always called `fast_start` "brief".
    variant = f"Winograd {plan.winograd}" if plan.engine == "mnn" else f"brief {plan.fast_start}"
    return f"{package} {version}, {variant}"


def check_engine(name: str) -> None:
    """Raise a `UsageError` for an unknown engine."""
    if name not in ENGINES:
        hint = suggest(name, ENGINES) or f"Allowed are {', '.join(ENGINES)}."
        raise UsageError(f"there is no engine {name!r}. {hint}")
