"""Chooses the networks that fit a budget, best first, with the reason why each other one does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vertebra.errors import UsageError
from vertebra.models import list_models
from vertebra.progress import Progress, silent
from vertebra.units import duration, three_figures

from .analysis import inspect
from .kernels import ONNXRUNTIME
from .latency import predict
from .published import Published, find_published
from .roofline import Calibration, find_device

# A network whose predicted time is above the limit by at most this share is timed.
_TIMING_MARGIN = 0.25


@dataclass(frozen=True)
class Limits:
    """Limits on cost and accuracy; None is no limit."""

    max_ms: float | None = None  # per image, at batch size 1
    max_mb: float | None = None  # of the weight file, 10⁶ bytes
    min_top1: float | None = None  # % on ImageNet
    max_params: float | None = None  # million


@dataclass(frozen=True)
class Candidate:
    """A network with its published figures and, if needed, its times."""

    published: Published
    size: int  # side of the image in pixels for which it is timed
    predicted_ms: float | None = None
    measured_ms: float | None = None

    @property
    def ms(self) -> float | None:
        """The measured time, or else the predicted one."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return self.published.to_dict() | {
            "size": self.size,
            "predicted_ms": self.predicted_ms,
            "measured_ms": self.measured_ms,
        }


@dataclass(frozen=True)
class Choice:
    """The networks that fit and those that do not."""

    device: str  # "this machine (…)"; "none" without times
    is_bound: bool  # whether the times are lower bounds, not predictions
    fits: tuple[Candidate, ...]  # best first
    out: tuple[tuple[Candidate, str], ...]  # each with the reason, best first
    tightest: str  # if nothing fits: the limit to relax, and what would fit then

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {
            "device": self.device,
            "is_bound": self.is_bound,
            "fits": [candidate.to_dict() for candidate in self.fits],
            "out": [candidate.to_dict() | {"reason": reason} for candidate, reason in self.out],
            "tightest": self.tightest,
        }


def choose(
    limits: Limits,
    device: str | Calibration | None = "here",
    executor: str | None = None,
    size: int | None = None,
    names: Sequence[str] | None = None,
    finalists: int = 5,
    progress: Progress = silent,
) -> Choice:
    """Find the networks within the limits.

    Args:
        limits: on cost and accuracy.
        device: as in `Anatomy.latency`. On this machine the finalists are timed, and the measured time decides. None
            or "none": no times, only size and accuracy.
        executor: on this machine "onnxruntime" (the default) or "torch".
        size: side of the image in pixels for times; None: that of the published accuracy.
        names: networks to choose from; None: all.
        finalists: at most how many of the networks that fit are timed.
        progress: called with the current task, the networks done and their total; with a long task alone.

    Raises:
        UsageError: a limit, device or name is invalid, or needs times and `device` is none.
    """
    device = None if device == "none" else device
    for name, limit in vars(limits).items():
        if limit is not None and not 0 < limit < float("inf"):
            raise UsageError(f"{name} is {limit}; it must be a number above 0.")
    if isinstance(device, str) and device != "here":
        find_device(device)
    for name, value in (("max_ms", limits.max_ms), ("size", size), ("executor", executor)):
        if device is None and value is not None:
            raise UsageError(
                f"{name} is {value!r}, and device is none: without a device there are no times. Leave one of them out."
            )
    found = [find_published(name) for name in names or list_models()]
    ranked = sorted(found, key=lambda entry: -entry.top1)
    selection = _Selection(limits, device, executor, progress, "none" if device is None else "")
    fits: list[Candidate] = []
    out: list[tuple[Candidate, str]] = []
    for number, entry in enumerate(ranked):
        progress(f"choosing: {entry.name}", number, len(ranked))
        candidate = Candidate(entry, size or entry.size)
        reasons = selection.missed_limits(candidate)
        if not reasons:
            candidate = selection.timed(candidate, measure=len(fits) < finalists)
            reasons = selection.missed_limits(candidate)
        if reasons:
            out.append((candidate, "; ".join(reasons.values())))
        else:
            fits.append(candidate)
    tightest = "" if fits else selection.tightest([candidate for candidate, _ in out])
    return Choice(selection.device_name, selection.is_bound, tuple(fits), tuple(out), tightest)


@dataclass
class _Selection:
    """Times candidates and finds the limits that they miss."""

    limits: Limits
    device: str | Calibration | None
    executor: str | None
    progress: Progress
    device_name: str
    is_bound: bool = False

    def missed_limits(self, candidate: Candidate) -> dict[str, str]:
        """The limits that the candidate misses by its known figures, each with the reason."""
        limits, entry = self.limits, candidate.published
        missed = {}
        if limits.min_top1 is not None and entry.top1 < limits.min_top1:
            missed["min_top1"] = f"{entry.top1:.2f} % top-1, {limits.min_top1 - entry.top1:.2f} below the limit"
        if limits.max_mb is not None and entry.mb > limits.max_mb:
            missed["max_mb"] = f"{three_figures(entry.mb)} MB, {_times(entry.mb / limits.max_mb)} the limit"
        if limits.max_params is not None and entry.parameters > limits.max_params * 1e6:
            ratio = entry.parameters / (limits.max_params * 1e6)
            missed["max_params"] = f"{three_figures(entry.parameters / 1e6)} M parameters, {_times(ratio)} the limit"
        if limits.max_ms is not None and candidate.ms is not None and candidate.ms > limits.max_ms:
            how = "predicted" if candidate.measured_ms is None else "measured"
            words = f"{'at least' if self.is_bound else how} {duration(candidate.ms)}"
            missed["max_ms"] = f"{words}, {_times(candidate.ms / limits.max_ms)} the limit"
        return missed

    def timed(self, candidate: Candidate, measure: bool) -> Candidate:
        """The candidate with its predicted time, and a measured one if `measure` and it may decide."""
        if self.device is None:
            return candidate
        anatomy = inspect(candidate.published.name, candidate.size)
        latency = predict(anatomy, self.device, self.executor, self.progress)
        # One calibration for all networks, even if it cannot be cached.
        if isinstance(latency.device, Calibration):
            self.device, self.executor = latency.device, None
        self.device_name, self.is_bound = latency.device.name, latency.is_bound
        candidate = replace(candidate, predicted_ms=latency.total_ms)
        limit = self.limits.max_ms
        far_off = limit is not None and latency.total_ms > limit * (1 + _TIMING_MARGIN)
        if latency.is_bound or far_off or not measure:
            return candidate
        self.progress(f"Timing {candidate.published.name} …")
        executor = latency.device.executor or ONNXRUNTIME
        return replace(candidate, measured_ms=anatomy.measure(executor, seconds=1.0).total_ms)

    def tightest(self, candidates: Iterable[Candidate]) -> str:
        """A sentence on the limit that excludes most networks by itself, and the best of these."""
        given = [name for name, limit in vars(self.limits).items() if limit is not None]
        timed = [
            candidate if candidate.ms is not None or self.limits.max_ms is None else self.timed(candidate, False)
            for candidate in candidates
        ]
        missed = [(candidate, self.missed_limits(candidate)) for candidate in timed]
        alone = {name: [c for c, reasons in missed if reasons.keys() == {name}] for name in given}
        name = max(alone, key=lambda name: len(alone[name]))
        if alone[name]:
            best, count = alone[name][0], len(alone[name])
            return (
                f"{_flag(name)} is the tightest limit: without it {count} network{'s' * (count != 1)} would fit, the "
                f"best being {best.published.name} ({self.missed_limits(best)[name]})."
            )
        by_limit = {name: sum(name in reasons for _, reasons in missed) for name in given}
        name = max(by_limit, key=by_limit.__getitem__)
        return (
            f"No single limit excludes them all; {_flag(name)} is the tightest, which excludes {by_limit[name]} of "
            f"{len(missed)} networks."
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _times(ratio: float) -> str:
    """A ratio to a limit: `"1.3 ×"`, but `"1.003 ×"` instead of "1.0 ×"."""
    return f"{ratio:.1f} ×" if ratio >= 1.05 else f"{ratio:.3f} ×"
