"""Open an exported file with the engine of a plan, and run batches on the engine's lanes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from vertebra.card import Card
from vertebra.pixels import Pixels

from .engine import PROBABILITIES, Engine, EngineError, FloatArray, Plan, check_engine
from .onnxruntime_engine import OnnxRuntimeEngine

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


def open_engine(path: Path, card: Card, plan: Plan) -> Engine:
    """Load a file with the engine of a plan.

    Raises:
        UsageError: there is no such engine.
        MissingExtraError: its package is not installed.
        EngineError: it cannot run this file.
    """
    check_engine(plan.engine)
    if plan.engine == "mnn":
        from .mnn_engine import MnnEngine

        return MnnEngine(path, card, plan)
    if plan.engine == "kernels":
        from .kernels_engine import KernelsEngine

        return KernelsEngine(path, card, plan)
    return OnnxRuntimeEngine(path, card, plan)


class Runner:
    """An engine whose calls, from any thread, each run on a free lane."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self.engine: Engine | None = engine  # None: closed
        self.plan = plan
        self._free: SimpleQueue[int] = SimpleQueue()
        for lane in range(plan.lanes):
            self._free.put(lane)
        self._pool: ThreadPoolExecutor | None = None

    def call(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,)) -> list[FloatArray]:
        """Run the batch on one lane, waiting until one is free.

        Raises:
            EngineError: it has been closed, or the engine fails.
        """
        lane = self._free.get()
        try:
            if (engine := self.engine) is None:
                raise EngineError("this network has been closed. Load it again.")
            return engine.run(batch, outputs, lane)
        finally:
            self._free.put(lane)

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,)) -> list[FloatArray]:
        """Run the batch on all lanes, in micro-batches."""
        # Small enough that every lane gets a part.
        part = max(1, min(self.plan.micro_batch, -(-len(batch) // self.plan.lanes)))
        if self.plan.lanes == 1 or len(batch) <= part:
            return self.call(batch, outputs)
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self.plan.lanes, thread_name_prefix="vertebra-lane")
        parts = [batch[start : start + part] for start in range(0, len(batch), part)]
        results = list(self._pool.map(lambda images: self.call(images, outputs), parts))
        return [np.concatenate(found) for found in zip(*results, strict=True)]

    def close(self) -> None:
        """Stop the threads and free the engine once running calls have finished."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self.engine = None
