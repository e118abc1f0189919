"""Lower bounds of the times of networks on the devices of anatomy/devices.toml, and what limits them there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from vertebra.anatomy import Latency, devices
from vertebra.anatomy.kernels import EAGER
from vertebra.anatomy.machine_calibration import load_or_calibrate
from vertebra.anatomy.roofline import Calibration, Device
from vertebra.progress import Progress, silent

from .experiment import Figure

DTYPE = "float32"


def flops_per_byte(device: Device) -> float:
    """FLOPs that a device computes in the time in which it moves one byte: the ridge point of its roofline."""
    return device.matrix[DTYPE] / device.bandwidth


def devices_by_flops_per_byte(known: Mapping[str, Device] | None = None) -> list[Device]:
    """The devices, those first that compute least for each byte."""
    return sorted((devices() if known is None else known).values(), key=flops_per_byte)


def is_gpu(device: Device) -> bool:
    """Whether kernels have to be launched."""
    return device.launch > 0


def machine_profile(device: str, progress: Progress = silent) -> Device | Calibration | None:
    """What predicts times on the machine at hand: its calibration for torch on "cpu", which takes some seconds once;
    on "cuda" the device of that name, or None if there is none.
    """
    if device == "cpu":
        return load_or_calibrate(EAGER, progress)
    name = torch.cuda.get_device_name().lower()
    return next((known for key, known in devices().items() if key in name), None)


def stage_ms(latency: Latency) -> dict[str, float]:
    """The predicted time of each stage, in ms."""
    times: dict[str, float] = {}
    for kernel, time in latency.kernels:
        times[kernel.main.stage] = times.get(kernel.main.stage, 0.0) + time.ms
    return times


def memory_bound_share(latency: Latency, stages: Iterable[str] | None = None) -> float:
    """The share of the predicted time, of these stages or of all, in kernels that are bound by memory: 0 to 1."""
    chosen = None if stages is None else set(stages)
    times = [(time.ms, time.bound_by) for k, time in latency.kernels if chosen is None or k.main.stage in chosen]
    total = sum(ms for ms, _ in times)
    return sum(ms for ms, bound in times if bound == "memory") / total if total else 0.0


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Figure:
    """Spearman's rank correlation with its 95 % interval (Bonett & Wright 2000); 0, and no interval narrower than
    (-1, 1), where one of them does not vary or there are fewer than four.
    """
    n = len(x)
    if n < 4 or len(set(x)) == 1 or len(set(y)) == 1:
        return Figure(0.0, n=n, interval=(-1.0, 1.0))
    r = float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])
    # Of a perfect correlation the interval would be a point: take half a step less, a swap of two neighbours.
    inner = math.copysign(min(abs(r), 1 - 6 / (n * (n * n - 1))), r)
    half = 1.959964 * math.sqrt((1 + inner * inner / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(inner) + side * half) for side in (-1, 1))
    return Figure(r, n=n, interval=(min(low, r), max(high, r)))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]
