"""The time of a kernel from compute, memory traffic and launch, on a device of devices.toml or on this machine.

For a device only the peaks are known, so the time is a lower bound: max(compute, memory) + launch (Williams et al.
2009, https://doi.org/10.1145/1498765.1498785). On this machine each kind of operation is measured, and the sum of the
three parts fits better than the maximum: in one kernel on a CPU they hardly overlap.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vertebra.errors import UsageError, suggest
from vertebra.graph.cost import CONVOLUTIONS, Kind

from .kernels import COMPILED, Kernel

# Matrix products, for which hardware may have matrix units. A depthwise convolution is not one.
_MATRIX = frozenset({Kind.DENSE, Kind.POINTWISE, Kind.GROUPED, Kind.MATMUL})


@dataclass(frozen=True, slots=True)
class Time:
    """The time of one kernel and its parts, in ms."""

    ms: float
    arithmetic: float
    memory: float
    launch: float

    @property
    def bound_by(self) -> str:
        """The largest part: "compute", "memory" or "launch"."""
        parts = {"compute": self.arithmetic, "memory": self.memory, "launch": self.launch}
        return max(parts, key=parts.__getitem__)

    @property
    def bound(self) -> str:
        """`bound_by` with the older name of compute, "arithmetic"."""
        return "arithmetic" if self.bound_by == "compute" else self.bound_by

    def __add__(self, other: Time) -> Time:
        return Time(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Device:
    """A device with the peaks that its vendor states, in operations and bytes per second."""

    key: str
    name: str
    matrix: Mapping[str, float]  # dtype -> operations per second in convolutions and matrix products
    vector: Mapping[str, float]  # dtype -> operations per second in everything else
    bandwidth: float  # bytes per second
    launch: float  # seconds per kernel
    sources: Mapping[str, str]  # "matrix.float32" -> source of the number

    executor = COMPILED  # a bound assumes the best software
    is_bound = True

    def time(self, kernel: Kernel, dtype: str) -> Time:
        """A lower bound of the time of a kernel."""
        peaks = self.matrix if kernel.main.kind in _MATRIX else self.vector
        if dtype not in peaks:
            raise UsageError(f"{self.name} has no figures for {dtype}, only for {', '.join(peaks)}. Choose dtype=.")
        arithmetic = 1e3 * kernel.operations / peaks[dtype]
        memory = 1e3 * kernel.bytes / self.bandwidth
        launch = 1e3 * self.launch
        return Time(max(arithmetic, memory) + launch, arithmetic, memory, launch)

    def peaks(self, dtype: str) -> dict[str, float]:
        """Operations per second by hardware unit."""
        return {"matrix units": self.matrix[dtype], "vector units": self.vector[dtype]}

    def to_dict(self) -> dict[str, Any]:
        """All numbers and sources, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rate:
    """The fitted cost of one kind of kernel on this machine; 0 for a part without effect."""

    launch: float  # ms per kernel
    operations: float  # ms per 10⁶ operations
    weights: float  # ms per 10⁶ bytes of weights
    activations: float  # ms per 10⁶ bytes of activations, read or written


# Above this spread of repeated runs, or share of the CPU for other programs, a calibration is provisional.
MAX_BUSY_SHARE = 0.15


@dataclass(frozen=True)
class Calibration:
    """The measured rates of this machine, for one executor and float32."""

    executor: str
    machine: Mapping[str, Any]
    rates: Mapping[str, Rate]  # label of a kernel, or name of a kind -> rate
    between: float  # ms between two kernels; negative if profiling itself took longer
    seconds: float  # duration of the calibration
    noise: float  # spread of repeated runs, as a share of their median
    others: float  # share of the CPU that other programs used meanwhile

    key = "here"
    is_bound = False

    @property
    def busy_share(self) -> float:
        """The larger of `noise` and `others`."""
        return max(self.noise, self.others)

    @property
    def is_provisional(self) -> bool:
        """Whether the machine was busy, so that predicted times are probably too long."""
        return self.busy_share > MAX_BUSY_SHARE

    @property
    def name(self) -> str:
        """The machine and the executor, for people."""
        threads = self.machine["threads"]
        return f"this machine ({self.machine['cpu']}, {threads} thread{'s' * (threads != 1)}, {self.executor})"

    @property
    def bandwidth(self) -> float:
        """Bytes of activations per second, in kernels that only copy."""
        cost = self._rate("concat", Kind.COPY).activations
        return 1e9 / cost if cost else float("inf")

    def time(self, kernel: Kernel, dtype: str) -> Time:
        """The predicted time of a kernel."""
        if dtype != "float32":
            raise UsageError(f"this machine is calibrated for float32, not for {dtype}. Choose a device, such as t4.")
        rate = self._rate(label(kernel), kernel.main.kind)
        arithmetic = rate.operations * kernel.operations / 1e6
        memory = (rate.weights * kernel.weight_bytes + rate.activations * (kernel.bytes - kernel.weight_bytes)) / 1e6
        launch = max(rate.launch + self.between, 0.0)
        return Time(arithmetic + memory + launch, arithmetic, memory, launch)

    def _rate(self, label: str, kind: Kind) -> Rate:
        """The rate of this kind of kernel, or of the most similar measured one."""
        for name in (label, kind.value, Kind.ELEMENTWISE.value):
            if name in self.rates:
                return self.rates[name]
        return next(iter(self.rates.values()))

    def peaks(self, dtype: str) -> dict[str, float]:
        """Operations per second by kind of convolution."""
        return {
            kind.value: 1e9 / self.rates[kind.value].operations
            for kind in (Kind.DENSE, Kind.POINTWISE, Kind.GROUPED, Kind.DEPTHWISE)
            if kind.value in self.rates and self.rates[kind.value].operations
        }

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON and `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` returned."""
        rates = {name: Rate(**rate) for name, rate in values["rates"].items()}
        return cls(**{**values, "rates": rates})


def label(kernel: Kernel) -> str:
    """The key of a kernel's rate: its kind for convolutions, products and norms, else its operation."""
    row = kernel.main
    return row.kind.value if row.kind in CONVOLUTIONS | {Kind.MATMUL, Kind.NORM} else row.op


@cache
def devices() -> Mapping[str, Device]:
    """The devices of devices.toml, by key."""
    table = tomllib.loads(files(__package__).joinpath("devices.toml").read_text(encoding="utf-8"))
    return {key: _device(key, entry) for key, entry in table.items()}


def _device(key: str, entry: Mapping[str, Any]) -> Device:
    numbers = {f"{unit}.{dtype}": number for unit in ("matrix", "vector") for dtype, number in entry[unit].items()}
    numbers |= {name: entry[name] for name in ("bandwidth", "launch")}
    return Device(
        key=key,
        name=entry["name"],
        matrix={dtype: float(number["value"]) for dtype, number in entry["matrix"].items()},
        vector={dtype: float(number["value"]) for dtype, number in entry["vector"].items()},
        bandwidth=float(entry["bandwidth"]["value"]),
        launch=float(entry["launch"]["value"]),
        sources={name: number["source"] for name, number in numbers.items()},
    )


def find_device(key: str) -> Device:
    """The device of that key."""
    known = devices()
    if key.lower() not in known:
        names = ["here", "none", *known]
        raise UsageError(f"there is no device {key!r}; there are {', '.join(names)}. {suggest(key, names)}".rstrip())
    return known[key.lower()]
