"""Calibrates this machine: times random networks, and fits the cost of each kind of kernel."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import metadata
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra.cache import cache_dir, creation_lock, read_json, write_json
from vertebra.errors import UsageError
from vertebra.graph import trace as tracer
from vertebra.graph.cost import Kind
from vertebra.graph.rows import build_rows
from vertebra.machine import processor_name
from vertebra.progress import Progress, silent

from . import calibration_networks
from .kernels import Kernel, build_kernels
from .measurement import EXECUTORS, Measurement, measure
from .network_input import prepare
from .roofline import Calibration, Rate, label

SEEDS = (2, 4, 5, 7, 8, 10)  # of the networks that are timed
SECONDS_EACH = 0.6
RETRY_SECONDS = 3 * 3600.0  # after which a provisional calibration is repeated
_FORMAT = 2


def load_or_calibrate(executor: str, progress: Progress = silent, *, force: bool = False) -> Calibration:
    """Load the calibration of this machine from the cache, or calibrate.

    A calibration made while the machine was busy is provisional: `predict` warns of it, and after three hours the
    machine is calibrated again. The calibration with less interference is kept.
    """
    if executor not in EXECUTORS:
        raise UsageError(f"executor is {executor!r}; it must be one of {', '.join(EXECUTORS)}.")
    found, is_current = _load(executor)
    if found is not None and is_current and not force:
        return found
    # One process at a time: two would slow each other down.
    with creation_lock(
        cache_path(executor), lambda: progress("Waiting for another process that calibrates this machine …")
    ):
        found, is_current = _load(executor)
        if found is not None and is_current and not force:
            return found
        when = "once" if found is None else "again"
        progress(f"Calibrating this machine for {executor}, {when}; this takes about 10 s …")
        result = calibrate(executor)
        if found is not None and not force and found.busy_share < result.busy_share:
            result = found
        made = {"made": time.time()} if result.is_provisional else {}
        write_json(cache_path(executor), {"format": _FORMAT} | made | result.to_dict())
        return result


def recalibrate(executor: str, progress: Progress = silent) -> Calibration:
    """Calibrate this machine for "onnxruntime" or "torch", and replace the cached calibration."""
    return load_or_calibrate(executor, progress, force=True)


def load_calibration(executor: str) -> Calibration | None:
    """The cached calibration, if it is of this machine and of the installed versions."""
    return _load(executor)[0]


def _load(executor: str) -> tuple[Calibration | None, bool]:
    """The cached calibration, and whether it is still valid: not provisional, or recent."""
    try:
        found = read_json(cache_path(executor)) or {}
        age = time.time() - float(found.pop("made", "-inf"))
        if found.pop("format") == _FORMAT and found["machine"] == describe_machine(executor):
            calibration = Calibration.from_dict(found)
            return calibration, not calibration.is_provisional or 0 <= age < RETRY_SECONDS  # the clock may be set back
    except (ValueError, KeyError, TypeError):
        pass  # there is none, or another version wrote it
    return None, False


def calibrate(executor: str) -> Calibration:
    """Time random networks for a few seconds and fit the cost of each kind of kernel."""
    begin, busy = time.perf_counter(), busy_seconds()
    runs: list[tuple[list[Kernel], Measurement]] = []
    for seed in SEEDS:
        with torch.device("meta"):
            network, size = calibration_networks.random_network(seed)
        subject = prepare(network, size, 1, None, None)
        rows = build_rows(tracer.trace_network(subject.network, subject.args, subject.kwargs))
        runs.append((build_kernels(rows, executor), measure(subject, rows, executor, SECONDS_EACH)))
    seconds = time.perf_counter() - begin
    return Calibration(
        executor=executor,
        machine=describe_machine(executor),
        rates=fit_rates(runs),
        between=statistics.median((run.total_ms - sum(run.rows.values())) / len(kernels) for kernels, run in runs),
        seconds=seconds,
        noise=statistics.median((run.quartiles_ms[1] - run.quartiles_ms[0]) / run.total_ms for _, run in runs),
        others=max(0.0, busy_seconds() - busy) / seconds / (os.cpu_count() or 1),
    )


def busy_seconds() -> float:
    """Processor seconds of other programs since the machine started; 0 if the system does not count them."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:4])
        own = os.times()
        return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own.user - own.system
    except (OSError, ValueError):
        return 0.0


def fit_rates(runs: Iterable[tuple[Sequence[Kernel], Measurement]]) -> dict[str, Rate]:
    """Fit the rates by label, and by kind for operations that were not timed."""
    samples: dict[str, list[tuple[tuple[float, ...], float]]] = defaultdict(list)
    for kernels, measured in runs:
        for kernel in kernels:
            ms = measured.rows.get(kernel.main.index)
            if ms is None:
                continue
            # The profiler's clock has a resolution of 1 µs.
            sample = (_features(kernel), max(ms, 1e-3))
            for name in {label(kernel), kernel.main.kind.value}:
                samples[name].append(sample)
    rates = {name: _fit(found, _FITTED_PARTS.get(name, (0, 3))) for name, found in samples.items()}
    if Kind.MATMUL.value in rates and Kind.POINTWISE.value in rates:
        # With one image a matrix product is bound by reading its weights, which hides its arithmetic. With more images
        # it has the rate of a 1×1 convolution, which is a matrix product too.
        fitted = rates[Kind.MATMUL.value]
        rates[Kind.MATMUL.value] = Rate(
            fitted.launch, rates[Kind.POINTWISE.value].operations, fitted.weights, fitted.activations
        )
    return rates


# Indices of the fitted parts: launch, operations, weights, activations. For other kinds: launch, activations.
_FITTED_PARTS: dict[str, tuple[int, ...]] = {
    Kind.DENSE: (0, 1, 2, 3),
    Kind.POINTWISE: (0, 1, 2, 3),
    Kind.GROUPED: (0, 1, 2, 3),
    Kind.DEPTHWISE: (0, 1, 2, 3),
    Kind.MATMUL: (0, 2),
    Kind.NORM: (0, 2, 3),
}


def _features(kernel: Kernel) -> tuple[float, ...]:
    activations = kernel.bytes - kernel.weight_bytes
    return 1.0, kernel.operations / 1e6, kernel.weight_bytes / 1e6, activations / 1e6


def _fit(samples: Sequence[tuple[tuple[float, ...], float]], parts: Sequence[int]) -> Rate:
    """Least squares of the relative error with nonnegative parts."""
    times = np.array([ms for _, ms in samples])
    scaled = np.array([features for features, _ in samples]) / times[:, None]
    best, least = np.zeros(4), np.inf
    # With few parts, the exact solution is the best one of all subsets with nonnegative parts.
    for chosen in chain.from_iterable(combinations(parts, count) for count in range(1, len(parts) + 1)):
        found, *_ = np.linalg.lstsq(scaled[:, chosen], np.ones(len(times)), rcond=None)
        error = float(np.square(scaled[:, chosen] @ found - 1).sum())
        if error < least and (found >= 0).all():
            best, least = np.zeros(4), error
            best[list(chosen)] = found
    return Rate(*map(float, best))


def describe_machine(executor: str) -> dict[str, Any]:
    """The processor, threads and version that a calibration is valid for."""
    package = {"torch": "torch"}.get(executor, "onnxruntime")
    return {
        "cpu": processor_name() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "version": f"{package} {metadata.version(package)}",
    }


def cache_path(executor: str) -> Path:
    """The file of the cached calibration."""
    return cache_dir() / f"roofline-{executor}.json"
