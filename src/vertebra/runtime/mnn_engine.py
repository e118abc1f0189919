"""MNN as a second engine: 3 × 3 convolutions by Winograd's algorithm, which needs fewer multiplications.

The ONNX file is converted on first use and cached under its hash, and used only after its outputs have been compared
with ONNX Runtime's.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.card import Card
from vertebra.errors import MissingExtraError, first_line, require_extra
from vertebra.pixels import Pixels

from . import converted_file
from .converted_file import ConvertedForm, InterruptedConversionError, load_converted
from .engine import INPUT, PROBABILITIES, EngineError, FloatArray, Plan

# Memory that a 3 × 3 convolution may spend on Winograd's algorithm: large tiles, MNN's own choice and best for batches,
# or small ones, which can be better for a single image.
WINOGRAD_LEVELS = (3, 1)
_WINOGRAD_HINT = 3  # Interpreter::HintMode::WINOGRAD_MEMORY_LEVEL

_threads_in: int | None = None  # the process that has started its threads, which all its sessions share


def installed() -> bool:
    """Whether MNN is installed; does not import it."""
    return importlib.util.find_spec("MNN") is not None


def has_lost_threads() -> bool:
    """Whether this process was forked from one where MNN ran: MNN would wait for threads that are missing."""
    return _threads_in is not None and _threads_in != os.getpid()


class MnnEngine:
    """MNN on the CPU: one session per lane, resized for each new batch size."""

    name = "mnn"

    def __init__(self, path: Path, card: Card, plan: Plan) -> None:
        if not installed():
            raise MissingExtraError("the engine MNN", "fast")
        load_converted(lambda: converted(path, card), lambda model: self._open(model, plan))

    def _open(self, model: Path, plan: Plan) -> None:
        global _threads_in
        if plan.threads > 1:
            if has_lost_threads():
                raise EngineError(
                    "MNN ran in the process that this one was forked from, and would wait here for its threads. Start "
                    'processes by "spawn", or use the engine onnxruntime.'
                )
            _threads_in = os.getpid()
        self._mnn = mnn = import_mnn()
        self.lanes = plan.lanes
        try:
            with _silent_stdout():
                # One per lane: sessions of the same interpreter do not run concurrently.
                self._interpreters = [mnn.Interpreter(os.fspath(model)) for _ in range(plan.lanes)]
                self._sessions = []
                for interpreter in self._interpreters:
                    interpreter.setSessionHint(_WINOGRAD_HINT, plan.winograd)
                    self._sessions.append(interpreter.createSession({"backend": "CPU", "numThread": plan.threads}))
        except Exception as error:  # MNN has no class of its own
            raise EngineError(f"MNN cannot load {model} ({first_line(error)}). Use --engine onnxruntime.") from error
        self._inputs = [
            interpreter.getSessionInput(session, INPUT)
            for interpreter, session in zip(self._interpreters, self._sessions, strict=True)
        ]

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,), lane: int = 0) -> list[FloatArray]:
        """uint8 (N, H, W, 3) → the named outputs, each float32 (N, …)."""
        mnn, interpreter = self._mnn, self._interpreters[lane]
        session, entry = self._sessions[lane], self._inputs[lane]
        batch = np.ascontiguousarray(batch)
        if tuple(entry.getShape()) != batch.shape:
            interpreter.resizeTensor(entry, batch.shape)
            interpreter.resizeSession(session)
        # "Caffe" means: keep the order of the axes.
        as_is = mnn.Tensor_DimensionType_Caffe
        entry.copyFrom(mnn.Tensor(batch.shape, mnn.Halide_Type_Uint8, batch, as_is))
        if interpreter.runSession(session) != 0:
            raise EngineError("MNN failed to run the network; it may lack memory. Use --engine onnxruntime.")
        results = []
        for name in outputs:
            found = interpreter.getSessionOutput(session, name)
            values = np.empty(found.getShape(), np.float32)
            host = mnn.Tensor(values.shape, mnn.Halide_Type_Float, values, as_is)
            found.copyToHostTensor(host)
            results.append(np.array(host.getNumpyData(), dtype=np.float32).reshape(values.shape))
        return results


class _Unverified(MnnEngine):
    """The engine on a converted file that is not verified yet."""

    def __init__(self, model: Path, plan: Plan) -> None:
        self._open(model, plan)


def converted(path: Path, card: Card) -> Path:
    """Return the file converted for MNN, from the cache or converted and verified now.

    Raises:
        EngineError: MNN cannot convert the file, or gives other outputs than ONNX Runtime.
    """
    from importlib import metadata

    def unverified(model: Path) -> list[MnnEngine]:
        return [_Unverified(model, Plan("mnn", winograd=level)) for level in WINOGRAD_LEVELS]

    # Other orders of summing, and Winograd's convolution, stay a hundred times below both tolerances.
    form = ConvertedForm("mnn", metadata.version("MNN"), convert, unverified, 1e-3, 1e-2)
    return converted_file.converted(path, card, form)


def convert(path: Path, target: Path) -> None:
    """Run MNN's converter in a process of its own: it prints, and on some files it aborts.

    Its module is called directly. The package around it, `MNN.tools`, installs a logging service with pip when it is
    imported and reports each conversion to its makers.
    """
    import subprocess
    import tempfile

    files = ("--modelFile", str(path.absolute()), "--MNNModel", str(target.absolute()))
    arguments = ["MNNConvert", "-f", "ONNX", *files]
    code = "import sys, _tools; _tools.mnnconvert(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments, "--bizCode", "vertebra"]
    with tempfile.TemporaryDirectory(prefix="vertebra-") as folder:  # it leaves files in the current one
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder)  # noqa: S603
    if done.returncode != 0 or "Converted Success" not in done.stdout or not target.stat().st_size:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        stopped = -done.returncode in (2, 9, 15)  # interrupted, for want of memory, ended
        raise (InterruptedConversionError if stopped else EngineError)(
            f"MNN cannot convert {path} ({lines[-1] if lines else f'exit code {done.returncode}'}). "
            "Use --engine onnxruntime."
        )


# --- its import -----------------------------------------------------------------------------------------------------


def import_mnn() -> Any:
    """Import the package, without what it prints."""
    with require_extra("fast", "the engine MNN"), _silent_stdout():
        import MNN
    return MNN


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Keep what MNN prints, from C, out of standard output, where JSON may be expected."""
    try:
        sys.stdout.flush()
        libc = ctypes.CDLL(None)
        kept = os.dup(1)
    except (OSError, ValueError, TypeError, AttributeError):  # no standard output, or no C library to ask
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
