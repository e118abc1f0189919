"""What runs an exported file: ONNX Runtime, which is always there, and MNN where it is installed.

A `Plan` says which of them and how; `open_engine` makes it an `Engine`. Which plan is fastest depends on the network
and on the machine: see `choose`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.card import Card
from vertebra.errors import UsageError, VertebraError, nearest
from vertebra.pixels import Pixels

from .mapped import without_weights

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

FloatArray: TypeAlias = NDArray[np.float32]

ENGINES = ("onnxruntime", "mnn")
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
    winograd: int = 3  # MNN only: see mnn.WINOGRAD_LEVELS
    brief: bool = False  # ONNX Runtime only: for a few images, ready sooner; see OnnxRuntimeEngine

    def __str__(self) -> str:
        lanes = f", {self.lanes} × {self.threads} threads, {self.micro_batch} images a call"
        return f"{self.engine}{f' (Winograd {self.winograd})' if self.engine == 'mnn' else ''}{lanes}"


class Engine(Protocol):
    """A file made ready to run. Calls on different lanes may run at the same time."""

    name: str
    lanes: int

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,), lane: int = 0) -> list[FloatArray]:
        """uint8 (N, H, W, 3) → the named outputs, each float32 (N, …)."""


def version_of(plan: Plan) -> str:
    """What computes by a plan: others round differently."""
    from importlib import metadata

    package = {"mnn": "MNN"}.get(plan.engine, plan.engine)
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:  # its other builds have names of their own
        version = str(getattr(import_module(package), "__version__", "?"))
    return f"{package} {version}, " + (f"Winograd {plan.winograd}" if plan.engine == "mnn" else f"brief {plan.brief}")


def check_engine(name: str, known: Sequence[str] = ("auto", *ENGINES)) -> None:
    """Refuse a name that is not known.

    Raises:
        UsageError: says what is allowed.
    """
    if name not in known:
        hint = nearest(name, known) or f"Allowed are {', '.join(known)}."
        raise UsageError(f"there is no engine {name!r}. {hint}")


def open_engine(path: Path, card: Card, plan: Plan) -> Engine:
    """Load a file into the engine of a plan.

    Raises:
        UsageError: there is no such engine.
        MissingExtraError: its package is not installed.
        EngineError: it cannot run this file.
    """
    check_engine(plan.engine, ENGINES)
    if plan.engine == "mnn":
        from .mnn import MnnEngine

        return MnnEngine(path, card, plan)
    return OnnxRuntimeEngine(path, card, plan)


class Runner:
    """An engine and its lanes: calls from any number of threads, each on a lane of its own."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self.engine: Engine | None = engine  # None: closed
        self.plan = plan
        self._free: SimpleQueue[int] = SimpleQueue()
        for lane in range(plan.lanes):
            self._free.put(lane)
        self._pool: ThreadPoolExecutor | None = None

    def call(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,)) -> list[FloatArray]:
        """The whole batch on one lane, once one is free.

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
        """The batch dealt out to all lanes, a micro-batch at a time."""
        # No larger parts than give every lane some.
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
        """End the threads and free the engine, once the calls that have begun are done."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self.engine = None


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU. One session serves all lanes: its `run` may be called from several threads.

    A brief one is ready in a tenth of the time and takes up to 1.5 times as long for an image (int8: 3 times): its
    weights are mapped from the file, not copied, and stay as they lie there instead of being arranged for the
    processor. The file must not be written to meanwhile.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, card: Card, plan: Plan) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        # Its warnings are about the graph, not for the one who predicts with it; errors are raised all the same.
        options.log_severity_level = 3
        self.lanes = plan.lanes
        try:
            # It takes names in UTF-8 alone.
            is_text = not any("\ud800" <= character <= "\udfff" for character in os.fspath(path.resolve()))
            model: str | bytes = os.fspath(path) if is_text else path.read_bytes()
            if plan.brief:
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
                options.add_session_config_entry("session.disable_prepacking", "1")
            if plan.brief and is_text:
                # Not through a link: it may lead out of the folder, and that is not allowed.
                real = path.resolve()
                options.add_session_config_entry(
                    "session.model_external_initializers_file_folder_path", os.fspath(real.parent)
                )
                model = without_weights(real)
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime has an exception class for each status and no common one below Exception.
            raise _not_loaded(path, error) from error
        check_interface(path, card, self._session)

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,), lane: int = 0) -> list[FloatArray]:
        """uint8 (N, H, W, 3) → the named outputs, each float32 (N, …)."""
        return self._session.run(list(outputs), {INPUT: batch})  # type: ignore[no-any-return]


def check_interface(path: Path, card: Card, session: Any) -> None:
    """Refuse a graph whose input or outputs are not those that its card promises.

    Raises:
        EngineError: says what differs.
    """
    size = card.preprocessing.crop_size
    inputs = session.get_inputs()
    wanted = f"one input '{INPUT}', tensor(uint8) [N, {size}, {size}, 3]"
    shape = inputs[0].shape if inputs else []
    fixed_batch = bool(shape) and isinstance(shape[0], int)
    if (
        len(inputs) != 1
        or inputs[0].name != INPUT
        or inputs[0].type != "tensor(uint8)"
        or list(shape[1:]) != [size, size, 3]
        or fixed_batch
    ):
        found = ", ".join(f"'{item.name}', {item.type} {item.shape}" for item in inputs) or "none"
        raise EngineError(f"{path} takes {found}, and its card promises {wanted}. {EXPORT_AGAIN}")
    found_outputs = {item.name: item.shape for item in session.get_outputs()}
    missing = [name for name in OUTPUTS if name not in found_outputs]
    if missing:
        raise EngineError(
            f"{path} has no output {' and '.join(map(repr, missing))} (it has {', '.join(found_outputs) or 'none'}). "
            f"{EXPORT_AGAIN}"
        )
    count = found_outputs[PROBABILITIES][-1]
    if card.classes is not None and isinstance(count, int) and count != len(card.classes):
        raise EngineError(
            f"{path} gives {count} probabilities, and its card names {len(card.classes)} classes. {EXPORT_AGAIN}"
        )


EXPORT_AGAIN = "Export the network again with: vertebra export NAME|CHECKPOINT --out FILE.onnx"


def _not_loaded(path: Path, error: Exception) -> EngineError:
    import onnxruntime

    text = " ".join(str(error).split()).rstrip(".")
    lacking = re.search(
        r"No Op registered for (\S+)|error: (\S+?)\(\S+\) is not a registered|implementation for (\S+?)\(", text
    )
    opset = re.search(r"Opset (\d+) is under development", text)
    if lacking or opset:
        what = f"the operator {next(filter(None, lacking.groups()))}" if lacking else f"opset {opset[1]}"  # type: ignore[index]
        return EngineError(
            f"{path} needs {what}, which onnxruntime {onnxruntime.__version__} does not have. "
            "Run: pip install --upgrade onnxruntime"
        )
    reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return EngineError(f"{path} cannot be loaded ({reason}). {EXPORT_AGAIN}")
