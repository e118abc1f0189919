"""How fast a network runs here: Vertebra's choice beside each backend that is installed, used by hand.

Each backend is made ready in a process of its own and then asked in turns, so that a slow minute of the machine hits
all alike and no backend's waiting threads disturb another.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from vertebra.errors import UsageError, nearest
from vertebra.machine import usable_cores
from vertebra.progress import Progress, silent

from ._files import Files, files_of

# Backend -> packages that it needs. The first is Vertebra itself, as `vertebra.load` has it.
BACKENDS: dict[str, tuple[str, ...]] = {
    "vertebra": (),
    "torch": ("torch",),
    "torch-channels-last": ("torch",),
    "torch-compiled": ("torch",),
    "onnxruntime": (),
    "openvino": ("openvino",),
    "mnn": ("MNN",),
    "ncnn": ("ncnn", "pnnx"),
}
# torch's compiler may take minutes over a deep network.
MAX_SECONDS_TO_START = 600
# Between the probabilities of two backends; more is no rounding.
MAX_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Timing:
    """What one backend needs for one image, in ms: median, minimum and maximum of `n` calls; or why it cannot."""

    network: str
    batch: int
    backend: str
    median_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    n: int = 0
    detail: str = ""  # the engine that Vertebra chose
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def installed() -> list[str]:
    """The backends whose packages can be imported; none is imported for that."""
    return [name for name, needs in BACKENDS.items() if all(importlib.util.find_spec(package) for package in needs)]


def compare(
    models: Sequence[str],
    *,
    batches: Sequence[int] = (1, 16),
    backends: Sequence[str] | None = None,
    turns: int = 3,
    seconds: float = 0.5,
    threads: int | None = None,
    tell: Progress = silent,
) -> Iterator[Timing]:
    """Time each model at each batch size with each backend.

    Args:
        models: names that `vertebra models` lists, run with weights drawn at random, or exported files.
        batches: images of one call.
        backends: None: all that are installed.
        turns: how often each backend is asked, in turns with the others.
        seconds: of measuring in each turn; at least three calls.
        threads: None: as many as this process may run at once.
        tell: called with what is being done, the steps done and the steps in all.

    Raises:
        UsageError: an argument is not allowed, or there is no such network.
        VertebraError: a model cannot be used.
    """
    backends = _checked(backends)
    for name, value in (("turns", turns), ("seconds", seconds), *(("a batch size", batch) for batch in batches)):
        if not value > 0:
            raise UsageError(f"{name} is {value}; it must be above 0.")
    total = len(models) * (1 + len(batches) * len(backends) * (1 + turns))
    done = itertools.count()

    def step(what: str) -> None:
        tell(what, next(done), total)

    with tempfile.TemporaryDirectory(prefix="vertebra-bench-") as folder:
        for model in models:
            step(f"{model}: exporting")
            files = files_of(model, Path(folder))
            for batch in batches:
                yield from _compare(files, batch, backends, turns, seconds, threads or usable_cores(), step)


def _checked(backends: Sequence[str] | None) -> Sequence[str]:
    if backends is None:
        return installed()
    for name in backends:
        if name not in BACKENDS:
            hint = nearest(name, BACKENDS) or f"Allowed are {', '.join(BACKENDS)}."
            raise UsageError(f"there is no backend {name!r}. {hint}")
        if name not in installed():
            raise UsageError(f"the backend {name!r} is not installed. Run: pip install {' '.join(BACKENDS[name])}")
    return backends


def _compare(
    files: Files,
    batch: int,
    backends: Sequence[str],
    turns: int,
    seconds: float,
    threads: int,
    step: Callable[[str], None],
) -> Iterator[Timing]:
    calls: dict[str, list[float]] = {}
    details: dict[str, str] = {}
    errors: dict[str, str] = {}
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:
        workers: dict[str, _Worker] = {}
        for backend in backends:
            step(f"{files.name}, batch {batch}: starting {backend}")
            worker = stack.enter_context(_started(files, batch, backend, threads))
            answer = worker.read()
            if "error" in answer:
                errors[backend] = answer["error"]
                continue
            workers[backend], calls[backend], details[backend] = worker, [], answer["detail"]
            samples[backend] = answer["sample"]
        for turn in range(turns):
            # The order is turned round every time.
            for backend in list(workers)[:: 1 if turn % 2 else -1]:
                step(f"{files.name}, batch {batch}: {backend}")
                answer = workers[backend].ask(seconds)
                if "error" in answer:
                    errors[backend] = answer["error"]
                    del workers[backend]
                else:
                    calls[backend] += answer["seconds"]
    reference = next(iter(samples.values()), [])
    for backend, sample in samples.items():
        difference = max(abs(a - b) for a, b in zip(sample, reference, strict=True))
        if not difference <= MAX_DIFFERENCE:
            errors[backend] = f"gives other probabilities (they differ by {difference:.1g})"
    for backend in backends:
        if backend in errors:
            yield Timing(files.name, batch, backend, error=errors[backend])
            continue
        each = [1000 * value / batch for value in calls[backend]]
        middle, least, most = (round(value, 3) for value in (statistics.median(each), min(each), max(each)))
        yield Timing(files.name, batch, backend, middle, least, most, len(each), details[backend])


class _Worker:
    """A process with a backend that is ready to run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._questions, self._answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def ask(self, seconds: float) -> dict[str, Any]:
        """Measure for so long."""
        try:
            self._questions.write(f"{seconds}\n")
            self._questions.flush()
        except OSError:
            return {"error": "its process has ended"}
        return self.read()

    def read(self) -> dict[str, Any]:
        """One line of JSON."""
        timer = threading.Timer(MAX_SECONDS_TO_START, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            # A library may print lines of its own before.
            for line in self._answers:
                if line.startswith('{"vertebra": '):
                    found: dict[str, Any] = json.loads(line)["vertebra"]
                    return found
        except ValueError:
            pass
        finally:
            timer.cancel()
        return {"error": f"its process has ended (exit code {self._process.wait()})"}


@contextmanager
def _started(files: Files, batch: int, backend: str, threads: int) -> Iterator[_Worker]:
    task = json.dumps({"files": files.as_json(), "batch": batch, "backend": backend, "threads": threads})
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", f"{__name__}._worker", task],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield _Worker(process)
    finally:
        process.kill()
        process.communicate()
