"""Compares networks: totals, costs by resolution, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vertebra.errors import UsageError
from vertebra.graph.cost import Kind
from vertebra.graph.profile import Group
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.model_table import networks
from vertebra.progress import Progress, silent

from .analysis import Anatomy, inspect
from .latency import Latency, predict
from .plots import draw_front
from .published import Published, find_published
from .roofline import Calibration

HEAD = "head"  # the stages after the last feature map


@dataclass(frozen=True)
class Entry:
    """One network of a comparison."""

    anatomy: Anatomy
    latency: Latency | None
    published: Published | None  # None for a network that is not Vertebra's

    @property
    def cost(self) -> float:
        """Milliseconds, or GMACs without times."""
        return self.anatomy.macs / 1e9 if self.latency is None else self.latency.total_ms

    @property
    def top1(self) -> float:
        """Published top-1 accuracy on ImageNet in %, or 0."""
        return 0.0 if self.published is None else self.published.top1

    @property
    def levels(self) -> dict[str, Group]:
        """The rows by resolution: "1/4" has the stages whose output has a quarter of the input's side."""
        rows: dict[str, list[Any]] = {}
        for stage in self.anatomy.stages:
            if stage.rows[0].kind is not Kind.UNUSED:
                rows.setdefault(_level(stage, self.anatomy), []).extend(stage.rows)
        return {level: Group(level, tuple(found)) for level, found in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """Totals and levels, for JSON."""
        anatomy, latency = self.anatomy, self.latency

        def costs(group: Group) -> dict[str, Any]:
            time = None if latency is None else latency.time(group.rows)
            return {name: getattr(group, name) for name in ("parameters", "macs", "bytes")} | {
                name: getattr(time, name, None) for name in ("ms", "bound", "bound_by")
            }

        return {
            "name": anatomy.name,
            "input": anatomy.input,
            "published": None if self.published is None else self.published.to_dict(),
            "peak_activation_bytes": anatomy.peak_activation_bytes,
            **costs(anatomy),
            "levels": {level: costs(group) for level, group in self.levels.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    entries: tuple[Entry, ...]

    @property
    def front(self) -> tuple[Entry, ...]:
        """The Pareto front, cheapest first."""
        known = [entry for entry in self.entries if entry.published is not None]
        best: list[Entry] = []
        for entry in sorted(known, key=lambda entry: (entry.cost, -entry.top1)):
            if not best or entry.top1 > best[-1].top1:
                best.append(entry)
        return tuple(best)

    @property
    def levels(self) -> tuple[str, ...]:
        """All resolutions, finest first."""
        found = {level for entry in self.entries for level in entry.levels}
        return tuple(sorted(found, key=lambda level: (level == HEAD, float(level[2:]) if level != HEAD else 0)))

    @property
    def cost_label(self) -> str:
        """The label of the cost axis."""
        latency = self.entries[0].latency
        if latency is None:
            return "GMACs"
        return f"{'at least, ' if latency.is_bound else ''}ms on {latency.device.name}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {
            "networks": [entry.to_dict() for entry in self.entries],
            "front": [entry.anatomy.name for entry in self.front],
            "cost": self.cost_label,
        }

    def to_png(self, path: str | Path) -> None:
        """Plot accuracy against cost, with the Pareto front.

        Raises:
            MissingExtraError: matplotlib is not installed.
            UsageError: none of the networks has a published accuracy.
        """
        known = [entry for entry in self.entries if entry.published is not None]
        if not known:
            raise UsageError("none of these networks has a published accuracy to plot. Add one of Vertebra's networks.")

        def point(entry: Entry) -> tuple[str, float, float]:
            return entry.anatomy.name, entry.cost, entry.top1

        draw_front([point(entry) for entry in known], [point(entry) for entry in self.front], self.cost_label, path)


def compare(
    models: Sequence[nn.Module | str],
    input_size: int | Sequence[int] | None = None,
    batch_size: int = 1,
    device: str | Calibration | None = "here",
    executor: str | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Analyse networks and compare them.

    Args:
        models: names or modules, two or more.
        input_size: as in `vertebra.inspect`; None: that of each network's weights.
        batch_size: images in the batch.
        device: as in `Anatomy.latency`; None: no times.
        executor: as in `Anatomy.latency`.
        progress: called if this machine is calibrated first.

    Raises:
        UsageError: fewer than two networks, or a network, an input or a device is invalid.
    """
    if isinstance(models, str) or len(models) < 2:
        raise UsageError(f"models is {models!r}; compare needs a list of two networks or more.")
    names = [_published_name(model) for model in models]
    # Before calibration, so that a wrong name or input is reported at once.
    anatomies = [inspect(model, input_size, batch_size) for model in models]
    entries = []
    for name, anatomy in zip(names, anatomies, strict=True):
        latency = None if device is None else predict(anatomy, device, executor, progress)
        if latency is not None and isinstance(latency.device, Calibration):
            device, executor = latency.device, None  # one calibration for all, even if it cannot be cached
        entries.append(Entry(anatomy, latency, None if name is None else find_published(name)))
    return Comparison(tuple(entries))


def _published_name(model: nn.Module | str) -> str | None:
    """The name of a network with published accuracy; None for modules, files and other models."""
    if isinstance(model, nn.Module):
        return None
    found = resolve_model(model, "compare")
    return found.network if found.kind is ModelKind.NETWORK and found.network in networks() else None


def _level(stage: Group, anatomy: Anatomy) -> str:
    """The side of the stage's output relative to the input, as a power of two: "1/8"."""
    side = next((shape[-1] for shape in anatomy.input_shapes if len(shape) == 4), 0)
    maps = [row.output_shape[-1] for row in stage.rows if len(row.output_shape) == 4]
    if not maps or not side or maps[-1] == 1:
        return HEAD
    part = 1
    while part * maps[-1] * 1.5 < side:
        part *= 2
    return f"1/{part}"
