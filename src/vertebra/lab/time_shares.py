"""Which kinds of operations have the MACs and the time of a network: counted, predicted by the roofline, measured."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from vertebra.anatomy import Latency, inspect
from vertebra.anatomy.measurement import EXECUTORS
from vertebra.errors import UsageError
from vertebra.graph.cost import Kind
from vertebra.graph.rows import Row
from vertebra.introspect.interleaved_timing import fastest_convolutions

from .experiment import Setup
from .forward_timing import GPU_BATCH
from .user_networks import image_shape, random_images

DEPTHWISE, POINTWISE, OTHER_CONVOLUTIONS = "depthwise convolutions", "1×1 convolutions", "other convolutions"
ELEMENTWISE, OTHERS = "norms, activations, sums", "others"
PARTS = (DEPTHWISE, POINTWISE, OTHER_CONVOLUTIONS, ELEMENTWISE, OTHERS)
_KINDS = {
    Kind.DEPTHWISE: DEPTHWISE,
    Kind.POINTWISE: POINTWISE,
    Kind.DENSE: OTHER_CONVOLUTIONS,
    Kind.GROUPED: OTHER_CONVOLUTIONS,
    Kind.NORM: ELEMENTWISE,
    Kind.ELEMENTWISE: ELEMENTWISE,
}
Shares = dict[str, float]  # by part, in %
_SLEEP = 200_000_000  # clock cycles, a tenth of a second


def shares_of(values: Iterable[tuple[Row, float]]) -> Shares:
    """The parts' shares of the sum, in %."""
    sums = dict.fromkeys(PARTS, 0.0)
    for row, value in values:
        sums[_KINDS.get(row.kind, OTHERS)] += value
    total = sum(sums.values())
    return {part: 100 * value / total if total else 0.0 for part, value in sums.items()}


def mac_shares(rows: Iterable[Row]) -> Shares:
    """Of the MACs."""
    return shares_of((row, row.macs) for row in rows)


def predicted_shares(latency: Latency) -> Shares:
    """Of a predicted time; a kernel counts with its main row, so that a fused activation is its convolution's."""
    return shares_of((kernel.main, time.ms) for kernel, time in latency.kernels)


def measured_shares(network: nn.Module, setup: Setup, rounds: int, seconds: float) -> dict[str, list[Shares]]:
    """Of the time on this machine, once a round: by executor, in turns, on a CPU; of torch on a GPU.

    An executor that cannot run the network (ONNX Runtime, where an operation cannot be written) is left out.
    """
    anatomy = inspect(network, image_shape(network))
    rows = {row.index: row for row in anatomy.rows}
    found: dict[str, list[Shares]] = {}
    on_cpu = setup.device == "cpu"
    executors = dict.fromkeys(EXECUTORS if on_cpu else ("torch on CUDA",))
    for number in range(rounds):
        setup.progress("timing", number, rounds)
        for executor in list(executors):
            try:
                times = (
                    anatomy.measure(executor, seconds).rows if on_cpu else _times_on_gpu(network, rows, setup.device)
                )
            except UsageError:
                if executor != "onnxruntime":
                    raise
                del executors[executor]
                continue
            found.setdefault(executor, []).append(shares_of((rows[i], ms) for i, ms in times.items()))
    return found


def _times_on_gpu(network: nn.Module, rows: Mapping[int, Row], device: str, warmup: int = 3) -> dict[int, float]:
    """Milliseconds of each module that is one operation, over all its calls, by events; in channels-last.

    A sleep goes before the pass, so that the GPU is behind with its work: events in a GPU that waits for the next
    kernel time Python's launches.
    """
    network = copy.deepcopy(network).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    leaves = {path: module for path, module in network.named_modules() if not any(module.children())}
    own = {row.module: index for index, row in rows.items() if row.module in leaves and row.kind is not Kind.VIEW}
    calls: list[tuple[str, Any, Any]] = []
    event = partial(torch.cuda.Event, enable_timing=True)

    def record(path: str, *_: Any) -> None:
        calls.append((path, event(), event()))
        calls[-1][1].record()

    def end(*_: Any) -> None:
        calls[-1][2].record()

    for path in own:
        leaves[path].register_forward_pre_hook(partial(record, path))
        leaves[path].register_forward_hook(end)
    images = random_images(network, GPU_BATCH).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), fastest_convolutions(torch.device(device)):
        for _ in range(warmup + 1):
            calls.clear()
            torch.cuda._sleep(_SLEEP)  # type: ignore[no-untyped-call]
            network(images)
        torch.cuda.synchronize()
    times = dict.fromkeys(own.values(), 0.0)
    for path, before, after in calls:
        times[own[path]] += before.elapsed_time(after)
    return times
