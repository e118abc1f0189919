"""Runs of `vertebra predict SOURCE --out TARGET --ray ADDRESS` as processes, observed from outside, and their rows.

For the tests that kill nodes and drivers, and for bench/ray.py, which counts the same trials.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ray_cluster import kill_with_descendants

FORMATS = ("jsonl", "csv", "parquet")


@dataclass
class Finished:
    """What a run has said and when each part came to be."""

    code: int
    output: str
    errors: str
    seconds: float
    parts: dict[str, float]  # name -> seconds after the start


class Run:
    """The command as a process of a session of its own; a thread notes when parts appear in its target.

    `parts` maps the names of parts to seconds after the start; those that were there before are not in it.

    Args:
        arguments: of the command.
        listing: returns the names of the parts that are in the target.
        every: seconds between two listings.
    """

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        listing: Callable[[], Collection[str]],
        every: float = 0.02,
    ) -> None:
        self.parts: dict[str, float] = {}
        self._listing, self._every = listing, every
        self._before = set(listing())
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vertebra", *map(os.fspath, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._said: list[bytes] = [b"", b""]
        self._readers = [
            threading.Thread(target=self._collect, args=(number, pipe), daemon=True)
            for number, pipe in enumerate((self.process.stdout, self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self._look()

    def _look(self) -> None:
        found = self._listing()
        now = time.monotonic() - self.start
        for name in found:
            if name not in self._before:
                self.parts.setdefault(name, now)

    def _collect(self, number: int, pipe: Any) -> None:
        for piece in iter(lambda: pipe.read1(65536), b""):
            self._said[number] += piece

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        return self._said[1].decode("utf-8", "replace")

    def wait_until(self, condition: Callable[[], object], seconds: float = 120.0, every: float = 0.005) -> bool:
        """Wait until a condition holds; False where the run ends or the time is over before."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(every)
        return True

    def kill_driver(self, whole: bool = False) -> list[int]:
        """Kill the command's process, or it with all that come from it; it may have ended by itself."""
        if whole:
            return kill_with_descendants(self.process.pid)
        kill_all([self.process.pid])
        return [self.process.pid]

    def finish(self, seconds: float = 300.0) -> Finished:
        """Wait for the end; one that hangs is killed, which is an error."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as late:
            kill_with_descendants(self.process.pid)
            raise TimeoutError(f"no end after {seconds:.0f} s; it said:\n{self.errors[-2000:]}") from late
        finally:
            self._ended.set()
            self._watcher.join()
        taken = time.monotonic() - self.start
        self._look()
        for reader in self._readers:
            reader.join(5)
        output, errors = (said.decode("utf-8", "replace") for said in self._said)
        return Finished(code, output, errors, taken, dict(self.parts))


# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalTarget:
    """A folder that a run writes."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def parts(self) -> list[str]:
        """Return the names of the whole parts."""
        try:
            return [entry.name for entry in os.scandir(self.path) if entry.name.startswith("part-")]
        except OSError:
            return []

    def unfinished(self) -> list[Path]:
        """Return the files that are being written, or were when their writer was killed."""
        found = []
        for folder, _, names in os.walk(self.path):
            found += [Path(folder, name) for name in names if name.startswith(".") and not name.endswith(".lock")]
        return found

    def is_writing(self) -> bool:
        """Whether a part is being written."""
        with contextlib.suppress(OSError):
            return any(entry.name.startswith(".part-") for entry in os.scandir(self.path))
        return False

    def rows(self) -> Counter[str]:
        """Return its rows."""
        return read_rows(self.path)


@dataclass(frozen=True)
class S3Target:
    """A prefix of a bucket (s3_server.Bucket) that a run writes."""

    bucket: Any
    prefix: str

    def __str__(self) -> str:
        return f"{self.bucket.uri}/{self.prefix}"

    def parts(self) -> list[str]:
        """Return the names of the whole parts."""
        return [key.rpartition("/")[2] for key in self.bucket.keys(f"{self.prefix}/part-")]

    def unfinished(self) -> list[str]:
        """Return what was begun and not put."""
        return [key for key in self.bucket.unfinished_uploads() if key.startswith(f"{self.prefix}/")]

    def is_writing(self) -> bool:
        """An object is there as a whole or not at all."""
        return False

    def rows(self) -> Counter[str]:
        """Return its rows."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, self.prefix.rpartition("/")[2])
            folder.mkdir()
            for key in self.bucket.keys(f"{self.prefix}/part-"):
                (folder / key.rpartition("/")[2]).write_bytes(self.bucket.get(key))
            return read_rows(folder)


Target = LocalTarget | S3Target


def start(arguments: Sequence[str | os.PathLike[str]], target: Target) -> Run:
    """Start a run into a target."""
    every = 0.02 if isinstance(target, LocalTarget) else 0.25
    return Run([*arguments, "--out", str(target)], target.parts, every)


def longest_gap(times: Sequence[float], since: float) -> float:
    """Return the longest time between two finished parts, after a kill at `since`."""
    ordered = sorted(times)
    before = [moment for moment in ordered if moment <= since]
    after = [moment for moment in ordered if moment > since]
    moments = [before[-1] if before else since, *after]
    return max((late - early for early, late in pairwise(moments)), default=0.0)


# --- rows -------------------------------------------------------------------------------------------------------------


def read_rows(target: Path) -> Counter[str]:
    """Return the rows of a local target as people's tools read them: a row as JSON -> how many times it is there."""
    kind = target.suffix.lower().lstrip(".")
    files = sorted(path for path in target.iterdir() if path.is_file() and path.name[0] not in "._")
    rows: list[Any] = []
    if kind == "jsonl":
        rows = [json.loads(line) for path in files for line in path.read_bytes().splitlines()]
    elif kind == "csv":
        for path in files:
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows += list(csv.DictReader(file))
    else:
        import pyarrow.dataset

        rows = pyarrow.dataset.dataset([str(path) for path in files], format="parquet").to_table().to_pylist()
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


@dataclass
class Differences:
    """What is wrong with the rows of a disturbed run."""

    lost: list[str] = field(default_factory=list)  # rows that it has too few times, or not at all
    extra: list[str] = field(default_factory=list)  # rows that it has too often, or that are others

    def __bool__(self) -> bool:
        return bool(self.lost or self.extra)


def compare_rows(expected: Counter[str], found: Counter[str]) -> Differences:
    """Compare the rows of two runs, whatever their order."""
    return Differences(sorted((expected - found).elements()), sorted((found - expected).elements()))


# --- kills ------------------------------------------------------------------------------------------------------------


def kill_all(processes: Sequence[int]) -> None:
    """Kill processes, those that have ended left out."""
    for each in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
