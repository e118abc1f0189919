"""Predicts the time of a network on a device, kernel by kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vertebra.errors import UsageError, warn
from vertebra.graph.profile import Profile
from vertebra.graph.rows import Row
from vertebra.progress import Progress, silent

from .kernels import ONNXRUNTIME, Kernel, build_kernels
from .machine_calibration import load_or_calibrate
from .roofline import Calibration, Device, Time, find_device


@dataclass(frozen=True)
class Latency:
    """Predicted times of a network on a device."""

    device: Device | Calibration
    dtype: str
    kernels: tuple[tuple[Kernel, Time], ...]

    @property
    def total_ms(self) -> float:
        """Time of the network; a lower bound if `is_bound`."""
        return sum(time.ms for _, time in self.kernels)

    @property
    def is_bound(self) -> bool:
        """Whether it is a lower bound from the device's peaks, not a prediction from measurements."""
        return self.device.is_bound

    @cached_property
    def rows(self) -> Mapping[int, Time]:
        """Index of a kernel's main row -> time of the kernel. Rows fused into it are not included."""
        return {kernel.main.index: time for kernel, time in self.kernels}

    def time(self, rows: Iterable[Row]) -> Time | None:
        """Time of the kernels whose main rows these are; None if there is none."""
        found = [self.rows[row.index] for row in rows if row.index in self.rows]
        return sum(found[1:], found[0]) if found else None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON, with the data of a roofline plot."""
        return {
            "device": self.device.key,
            "name": self.device.name,
            "executor": self.device.executor,
            "dtype": self.dtype,
            "is_bound": self.is_bound,
            "is_provisional": isinstance(self.device, Calibration) and self.device.is_provisional,
            "total_ms": self.total_ms,
            "bandwidth": self.device.bandwidth,
            "peaks": self.device.peaks(self.dtype),
            "kernels": [
                {
                    "row": kernel.main.index,
                    "rows": [row.index for row in kernel.rows],
                    "operations": kernel.operations,
                    "bytes": kernel.bytes,
                    "ms": time.ms,
                    "arithmetic_ms": time.arithmetic,
                    "memory_ms": time.memory,
                    "launch_ms": time.launch,
                    "bound": time.bound,
                    "bound_by": time.bound_by,
                }
                for kernel, time in self.kernels
            ],
        }


def predict(
    anatomy: Profile,
    device: str | Device | Calibration,
    executor: str | None = None,
    progress: Progress = silent,
) -> Latency:
    """See `Anatomy.latency`; `progress` is called if this machine is calibrated first."""
    if isinstance(device, str):
        if device == "here":
            device = load_or_calibrate(executor or ONNXRUNTIME, progress)
        elif executor is not None:
            raise UsageError(f"executor is {executor!r}, which is for this machine, not for {device}. Leave it out.")
        else:
            device = find_device(device)
    elif not isinstance(device, (Device, Calibration)):
        raise UsageError(f"device is {device!r}; it must be 'here', a name in vertebra.anatomy.devices(), or a Device.")
    if isinstance(device, Calibration) and device.is_provisional:
        warn(
            f"This machine was busy when it was calibrated for {device.executor} (other programs took "
            f"{device.others:.0%} of the processor, repeated runs differed by {device.noise:.0%}), so predicted times "
            "are provisional, and probably too long. It is calibrated again after 3 hours. To do so now, when the "
            "machine is idle: vertebra doctor --calibrate"
        )
    kernels = build_kernels(anatomy.rows, device.executor)
    return Latency(device, anatomy.dtype, tuple((kernel, device.time(kernel, anatomy.dtype)) for kernel in kernels))
