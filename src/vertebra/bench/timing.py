"""Times networks with each backend.

Each backend runs in its own process and is measured in turns with the others, so that a slow minute of the machine
affects all alike, and spinning threads of one do not slow down another.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError, VertebraError
from vertebra.machine import require_threads, usable_cores
from vertebra.progress import Progress, silent
from vertebra.synthetic_photos import synthetic_photos

from .backends import Backend, installed_backends
from .network_files import NetworkFiles, network_files

# torch's compiler may take minutes for a deep network.
MAX_SECONDS_TO_START = 600
# Of the probabilities of two backends; a larger one is not rounding.
MAX_DIFFERENCE = 1e-3
# Threads of a library may spin for a while after a call; wait until they sleep.
_REST_SECONDS = 0.25


@dataclass(frozen=True)
class Timing:
    """Time per image of one backend in ms (median, minimum and maximum of `n` calls), or its error."""

    network: str
    batch: int
    backend: str
    median_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    n: int = 0
    detail: str = ""  # the version, or the engine that Vertebra chose
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


def compare(
    models: Sequence[str],
    backends: Mapping[str, Backend] | None = None,
    *,
    batches: Sequence[int] = (1, 16),
    turns: int = 3,
    seconds: float = 0.5,
    threads: int | None = None,
    progress: Progress = silent,
) -> Iterator[Timing]:
    """Time each model at each batch size with each backend.

    Args:
        models: names of networks, which run with random weights, or exported files.
        backends: by name; None: all that are installed.
        batches: batch sizes.
        turns: how often each backend is measured, alternating with the others.
        seconds: duration of each turn, of at least three calls.
        threads: None: as many as the cores that this process may use.
        progress: called with the current task, the steps done and their total.

    Raises:
        UsageError: an argument is invalid, or there is no such network.
        VertebraError: a model cannot be used.
    """
    threads = usable_cores() if threads is None else require_threads(threads)
    backends = installed_backends() if backends is None else backends
    for name, value in (("turns", turns), ("seconds", seconds), *(("a batch size", batch) for batch in batches)):
        if not value > 0:
            raise UsageError(f"{name} is {value}; it must be above 0.")
    total = len(models) * (1 + len(batches) * len(backends) * (1 + turns))
    done = itertools.count()

    def step(what: str) -> None:
        progress(what, next(done), total)

    with tempfile.TemporaryDirectory(prefix="vertebra-bench-") as folder:
        for model in models:
            step(f"{model}: exporting")
            files = network_files(model, Path(folder))
            for batch in batches:
                yield from _compare(files, batch, backends, turns, seconds, threads, step)


def _compare(
    files: NetworkFiles,
    batch: int,
    backends: Mapping[str, Backend],
    turns: int,
    seconds: float,
    threads: int,
    step: Callable[[str], None],
) -> Iterator[Timing]:
    calls: dict[str, list[float]] = {}
    firsts: dict[str, dict[str, Any]] = {}  # first answers: detail, and a sample of the probabilities
    errors: dict[str, str] = {}
    with ExitStack() as stack:
        workers: dict[str, Callable[[float | None], dict[str, Any]]] = {}
        for name, backend in backends.items():
            step(f"{files.name}, batch {batch}: starting {name}")
            worker = stack.enter_context(_start_worker(backend, files, batch, threads))
            answer = worker(None)
            if "error" in answer:
                errors[name] = answer["error"]
            else:
                workers[name], calls[name], firsts[name] = worker, [], answer
        for turn in range(turns):
            # The order is reversed at every turn.
            for name in list(workers)[:: 1 if turn % 2 else -1]:
                step(f"{files.name}, batch {batch}: {name}")
                answer = workers[name](seconds)
                if "error" in answer:
                    errors[name] = answer["error"]
                    del workers[name]
                else:
                    calls[name] += answer["seconds"]
    for name, first in firsts.items():
        reference = next(iter(firsts.values()))["sample"]
        difference = max(abs(a - b) for a, b in zip(first["sample"], reference, strict=True))
        if not difference <= MAX_DIFFERENCE:
            errors[name] = f"gives other probabilities (they differ by {difference:.1g})"
    for name in backends:
        if name in errors:
            yield Timing(files.name, batch, name, error=errors[name])
            continue
        each = [1000 * value / batch for value in calls[name]]
        middle, least, most = (round(value, 3) for value in (statistics.median(each), min(each), max(each)))
        yield Timing(files.name, batch, name, middle, least, most, len(each), firsts[name]["detail"])


@contextmanager
def _start_worker(
    backend: Backend, files: NetworkFiles, batch: int, threads: int
) -> Iterator[Callable[[float | None], dict[str, Any]]]:
    """Start a process with a backend, and yield a function that sends it seconds to measure, or None at first."""
    spawning = multiprocessing.get_context("spawn")  # a fork would inherit loaded engines
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=serve_backend, args=(theirs, backend, files, batch, threads), daemon=True)
    process.start()
    theirs.close()  # so that recv() fails when the process ends

    def answer(seconds: float | None) -> dict[str, Any]:
        try:
            if seconds is not None:
                ours.send(seconds)
            if ours.poll(MAX_SECONDS_TO_START):
                found: dict[str, Any] = ours.recv()
                return found
        except (EOFError, OSError):
            process.join()
            return {"error": f"its process has ended (exit code {process.exitcode})"}
        return {"error": f"gives no answer within {MAX_SECONDS_TO_START} s"}

    try:
        yield answer
    finally:
        process.kill()
        process.join()
        ours.close()


def serve_backend(pipe: Connection, backend: Backend, files: NetworkFiles, batch: int, threads: int) -> None:
    """Load a backend, then answer each message (seconds to measure) with the seconds of each call."""
    with Path(os.devnull).open("w") as nowhere:  # discards what libraries print
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        call, detail = backend.make(files, batch, threads)
        pixels = synthetic_photos(batch, files.preprocessing.crop_size)
        for _ in range(3):
            found = call(pixels)
        time.sleep(_REST_SECONDS)
        # The first probabilities of the last image, by which the backends are compared.
        pipe.send({"detail": detail, "sample": [float(value) for value in found[-1][:8]]})
        while True:
            seconds = measure(lambda: call(pixels), pipe.recv())
            time.sleep(_REST_SECONDS)
            pipe.send({"seconds": seconds})
    except EOFError:
        pass  # the parent has closed the pipe
    except VertebraError as error:
        pipe.send({"error": str(error)})
    except Exception as error:
        # Whatever a library raises, the other backends are still timed.
        pipe.send({"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


def measure(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for `seconds` and at least three calls, after one that wakes up threads."""
    call()
    found: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found
