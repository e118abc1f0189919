"""Times each operation of a network on this machine, with random weights: times do not depend on values."""

from __future__ import annotations

import copy
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from vertebra.errors import UsageError, require_extra
from vertebra.graph import trace as tracer
from vertebra.graph.ir import Graph
from vertebra.graph.onnx_writer import serialize_for_timing
from vertebra.graph.rows import Row, rows_by_node

from .kernels import EAGER, ONNXRUNTIME, Kernel, build_kernels
from .network_input import Subject

EXECUTORS = (ONNXRUNTIME, EAGER)


@dataclass(frozen=True)
class Measurement:
    """Measured times in ms. A row that is fused into the kernel of another has none."""

    executor: str
    threads: int
    runs: int
    total_ms: float  # median of runs that are not profiled
    quartiles_ms: tuple[float, float]
    rows: Mapping[int, float]  # index of a row -> median of profiled runs

    def ms(self, rows: Iterable[Row]) -> float | None:
        """Time of these rows; None if none of them has one."""
        found = [self.rows[row.index] for row in rows if row.index in self.rows]
        return sum(found) if found else None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self) | {"rows": {str(index): value for index, value in self.rows.items()}}


def measure(subject: Subject, rows: Sequence[Row], executor: str, seconds: float) -> Measurement:
    """See `Anatomy.measure`; `rows` are those of the network."""
    if executor not in EXECUTORS:
        raise UsageError(f"executor is {executor!r}; it must be one of {', '.join(EXECUTORS)}.")
    return (_measure_in_onnxruntime if executor == ONNXRUNTIME else _measure_in_torch)(subject, rows, seconds)


def _measure_in_onnxruntime(subject: Subject, rows: Sequence[Row], seconds: float) -> Measurement:
    with require_extra("torch", "timing in ONNX Runtime"):
        import onnx  # noqa: F401
    import numpy as np
    import onnxruntime

    trace = tracer.trace_network(subject.network, subject.args, subject.kwargs)
    model = serialize_for_timing(trace)
    x = np.random.default_rng(0).standard_normal(trace.inputs[0].shape).astype(np.float32)

    def session(options: Any) -> Any:
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    plain = session(onnxruntime.SessionOptions())
    totals = _time_runs(partial(plain.run, None, {"input": x}), seconds / 2)
    del plain  # frees its memory before the next session is created
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        profiling = session(options)
        _time_runs(partial(profiling.run, None, {"input": x}), seconds / 2)
        events = json.loads(Path(profiling.end_profiling()).read_text(encoding="utf-8"))
    return _to_measurement(ONNXRUNTIME, totals, _events_by_row(events), build_kernels(rows, ONNXRUNTIME))


def _events_by_row(events: Sequence[Mapping[str, Any]]) -> list[dict[int, float]]:
    """Seconds of each row, for each run, from the profiler's events.

    A change from the blocked layout of convolutions counts to the row after it, and a change back to the row before.
    """
    runs: list[dict[int, float]] = []
    current: dict[int, float] = {}
    row, reorder_seconds = -1, 0.0
    for event in events:
        if event["name"] == "model_run":
            runs.append(current)
            current, row, reorder_seconds = {}, -1, 0.0
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        duration = event["dur"] / 1e6
        if event["args"]["op_name"] == "ReorderOutput":
            reorder_seconds += duration
            continue
        named = re.search(r"\brow(\d+)_", event["name"])
        row = int(named[1]) if named else row  # an unnamed node is a change back to the blocked layout
        current[row] = current.get(row, 0.0) + duration + reorder_seconds
        reorder_seconds = 0.0
    return runs[_WARM_UP_RUNS:]


def _measure_in_torch(subject: Subject, rows: Sequence[Row], seconds: float) -> Measurement:
    trace, run = _prepare_in_torch(subject)
    with torch.inference_mode():
        totals = _time_runs(run, seconds / 2)
    by_row = _time_operations(trace, run, seconds / 2, _WARM_UP_RUNS, _MIN_RUNS)
    return _to_measurement(EAGER, totals, by_row, build_kernels(rows, EAGER))


def operation_times(subject: Subject, seconds: float = 0.5) -> dict[int, float]:
    """Roughly the ms of each row in torch, by its index: the median of the runs of so many seconds after a first one.

    At least one, so a slow network runs twice: for when the operations are compared and the network is not timed.
    """
    trace, run = _prepare_in_torch(subject)
    return _medians(_time_operations(trace, run, seconds, 0, 1))


def _prepare_in_torch(subject: Subject) -> tuple[Graph, Callable[[], Any]]:
    """The operations of the network, and a function that runs it; it has run once."""
    trace = tracer.trace_network(subject.network, subject.args, subject.kwargs)
    network = _materialize(subject.network)
    args, kwargs = tree_map_only(Tensor, _random_like, (subject.args, subject.kwargs))
    try:
        with torch.inference_mode():
            network(*args, **kwargs)
    except Exception as error:
        raise UsageError(
            f"{subject.name} runs on shapes, but not on random values: {type(error).__name__}: {error} Register its "
            "tensors as buffers, and avoid operations that depend on values."
        ) from error
    return trace, lambda: network(*args, **kwargs)


def _time_operations(
    trace: Graph, run: Callable[[], Any], seconds: float, warm_up: int, least: int
) -> list[dict[int, float]]:
    """Seconds of each row, for each run after the first `warm_up`."""
    runs: list[list[float]] = []
    names: list[str] = []
    with torch.no_grad():
        end = time.perf_counter() + seconds
        while len(runs) < warm_up + least or time.perf_counter() < end:
            with _OperationTimer() as timer:
                run()
            names = timer.names
            runs.append(timer.seconds)
    row_of = _rows_of_calls(names, trace)
    return [_sum_by_key(row_of, seconds_of_calls) for seconds_of_calls in runs[warm_up:]]


class _OperationTimer(tracer.OperationMode):  # type: ignore[no-untyped-call]
    """Times each operation without the Python code between them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.seconds: list[float] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        begin = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        self.seconds.append(time.perf_counter() - begin)
        self.names.append(str(func))
        return out


def _rows_of_calls(names: Sequence[str], trace: Graph) -> list[int]:
    """The row of each ATen call of a run on real tensors.

    These differ slightly from the trace: with channels last, flattening copies. A call without a counterpart counts
    to the row before it.
    """
    kept = rows_by_node(trace)
    # Operations without a row (an empty tensor, the view of a weight) count to the row after them.
    rows, following = [], len(kept) - 1
    for op in reversed(trace.nodes):
        following = kept.get(id(op), following)
        rows.append(following)
    rows.reverse()
    expected = [op.name for op in trace.nodes]
    found = [-1] * len(names)
    for block in SequenceMatcher(None, expected, names, autojunk=False).get_matching_blocks():
        found[block.b : block.b + block.size] = rows[block.a : block.a + block.size]
    last = 0
    for call, row in enumerate(found):
        last = found[call] = last if row < 0 else row
    return found


def _sum_by_key(keys: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    sums: dict[int, float] = {}
    for key, value in zip(keys, values, strict=True):
        sums[key] = sums.get(key, 0.0) + value
    return sums


def _materialize(network: nn.Module) -> nn.Module:
    """Allocate the network on the CPU, channels last, with constant values."""
    real = copy.deepcopy(network).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*real.parameters(), *real.buffers()]:
            # No zeros or denormals, and a positive variance. Random values would take seconds to generate.
            tensor.fill_(_fill_value(tensor))
    for module in real.modules():  # tensors that are neither parameter nor buffer
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_meta:
                setattr(module, name, torch.full(value.shape, _fill_value(value), dtype=value.dtype))
    return real.to(memory_format=torch.channels_last)


def _fill_value(tensor: Tensor) -> float:
    return 0.01 if tensor.is_floating_point() else 0


def _random_like(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return torch.zeros(value.shape, dtype=value.dtype)
    random = torch.randn(value.shape).to(value.dtype)
    return random.contiguous(memory_format=torch.channels_last) if random.ndim == 4 else random


_WARM_UP_RUNS, _MIN_RUNS = 2, 3


def _time_runs(run: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each run, after a warm-up."""
    for _ in range(_WARM_UP_RUNS):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _MIN_RUNS or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times


def _to_measurement(
    executor: str, totals: Sequence[float], by_row: Sequence[Mapping[int, float]], kernels: Sequence[Kernel]
) -> Measurement:
    low, middle, high = statistics.quantiles(totals, n=4, method="inclusive")
    # An executor may name a fused kernel after any of its rows.
    main = {row.index: kernel.main.index for kernel in kernels for row in kernel.rows}
    runs = [_sum_by_key([main.get(row, row) for row in run], list(run.values())) for run in by_row]
    return Measurement(
        executor=executor,
        threads=torch.get_num_threads(),
        runs=len(totals),
        total_ms=middle * 1e3,
        quartiles_ms=(low * 1e3, high * 1e3),
        rows=_medians(runs),
    )


def _medians(runs: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """ms of each row, from seconds of each run."""
    rows = sorted({row for run in runs for row in run})
    return {row: statistics.median(run.get(row, 0.0) for run in runs) * 1e3 for row in rows}
