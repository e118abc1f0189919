"""The predicted time of a network: that of each kernel of an executor on a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vertebra.errors import UsageError, warn
from vertebra.graph.profile import Profile
from vertebra.graph.rows import Row
from vertebra.progress import Progress, silent

from .kernels import ONNXRUNTIME, Kernel, kernels_of
from .machine_calibration import calibrated
from .roofline import Calibration, Device, Time, find_device


@dataclass(frozen=True)
class Latency:
    """Predicted times of a network on a device."""

    device: Device | Calibration
    dtype: str
    kernels: tuple[tuple[Kernel, Time], ...]

    @property
    def total_ms(self) -> float:
        """Time of the whole; where `is_bound`, it takes at least that."""
        return sum(time.ms for _, time in self.kernels)

    @property
    def is_bound(self) -> bool:
        """Is it the least time that the device's peaks allow, rather than a prediction from measurements?"""
        return self.device.is_bound

    @cached_property
    def rows(self) -> Mapping[int, Time]:
        """Index of a row -> time of the kernel that it leads. Rows fused into another's kernel are not in it."""
        return {kernel.main.index: time for kernel, time in self.kernels}

    def time(self, rows: Iterable[Row]) -> Time | None:
        """Time of the kernels that these rows lead; None where they lead none, being views or fused into others."""
        found = [self.rows[row.index] for row in rows if row.index in self.rows]
        return sum(found[1:], found[0]) if found else None

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON, with what a roofline plot needs."""
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
    """See `Anatomy.latency`; `progress` is called when this machine has to be calibrated first."""
    if isinstance(device, str):
        if device == "here":
            device = calibrated(executor or ONNXRUNTIME, progress)
        elif executor is not None:
            raise UsageError(f"executor is {executor!r}, which says how this machine runs it; {device} has no choice.")
        else:
            device = find_device(device)
    elif not isinstance(device, (Device, Calibration)):
        raise UsageError(f"device is {device!r}; give 'here', a name from vertebra.anatomy.devices(), or a Device.")
    if isinstance(device, Calibration) and device.is_provisional:
        warn(
            f"This machine was busy when it was calibrated for {device.executor} (other programs took "
            f"{device.others:.0%} of the processor, repeated runs differed by {device.noise:.0%}), so predicted times "
            "are provisional, and probably too long. It is calibrated again after 3 hours; when it is quiet, at once "
            "by: vertebra doctor --calibrate"
        )
    times = tuple((kernel, device.time(kernel, anatomy.dtype)) for kernel in kernels_of(anatomy.rows, device.executor))
    return Latency(device, anatomy.dtype, times)
