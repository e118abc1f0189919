"""Plots of one network and of a comparison, with matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vertebra.errors import require_extra
from vertebra.files import atomic_write, wrap_write_errors
from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.profile import Profile

from .latency import Latency
from .measurement import Measurement


def draw_anatomy(anatomy: Profile, path: str | Path, latency: Latency | None, measurement: Measurement | None) -> None:
    """Plot the shares of the stages and, with times, the roofline, as a PNG."""
    stages = [stage for stage in anatomy.stages if stage.rows[0].kind is not Kind.UNUSED]
    timed = latency is not None and bool(latency.kernels)
    figure = _figure((13 if timed else 7.5, 2.2 + 0.42 * max(len(stages), 6)))
    panels = figure.subplots(1, 1 + timed, squeeze=False)[0]
    figure.suptitle(f"{anatomy.name}, {anatomy.input}")
    _draw_shares(panels[0], stages, latency, measurement)
    if latency is not None and timed:
        _draw_roofline(panels[1], latency, measurement)
    _write(figure, path, dpi=120)


def _draw_shares(axes: Any, stages: list[Any], latency: Latency | None, measurement: Measurement | None) -> None:
    """Plot the share of each stage in each cost as bars."""
    series = {
        "parameters": [stage.parameters for stage in stages],
        "MACs": [stage.macs for stage in stages],
        "memory traffic": [stage.bytes for stage in stages],
    }
    if latency is not None:
        times = [latency.time(stage.rows) for stage in stages]
        series["least time" if latency.is_bound else "time"] = [time.ms if time else 0.0 for time in times]
    if measurement is not None:
        series["measured time"] = [measurement.ms(stage.rows) or 0.0 for stage in stages]
    height = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        whole = sum(values) or 1
        positions = [row + (i - (len(series) - 1) / 2) * height for row in range(len(stages))]
        axes.barh(positions, [100 * value / whole for value in values], height, label=label)
    axes.set_yticks(range(len(stages)), [stage.name for stage in stages])
    axes.invert_yaxis()
    axes.set_xlabel("share of the whole, %")
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.legend()


def _draw_roofline(axes: Any, latency: Latency, measurement: Measurement | None) -> None:
    """Plot FLOP/s against FLOPs/byte: one point per kernel, and lines for the peaks."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    measured = measurement.rows if measurement is not None else {}
    for kernel, time in latency.kernels:
        ms = measured.get(kernel.main.index) or time.ms
        if kernel.operations and kernel.bytes and ms:
            kind = kernel.main.kind if kernel.main.kind in CONVOLUTIONS | {Kind.MATMUL} else "other"
            point = (kernel.operations / kernel.bytes, kernel.operations / ms * 1e3, ms)
            points.setdefault(str(kind), []).append(point)
    longest = max((ms for found in points.values() for *_, ms in found), default=1.0)
    for kind, found in points.items():
        x, y, sizes = zip(*((x, y, 12 + 120 * ms / longest) for x, y, ms in found), strict=True)
        axes.scatter(x, y, sizes, label=kind, alpha=0.75, zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs/byte", ylabel="FLOP/s")
    left, right = axes.get_xlim()
    low, bandwidth = axes.get_ylim()[0], latency.device.bandwidth
    peaks = _peaks(latency, points)
    end = max([right, *(2 * peak / bandwidth for _, peak in peaks)])
    for name, peak in peaks:
        knee, start = peak / bandwidth, max(left, low / bandwidth)
        axes.plot([start, knee, end], [start * bandwidth, peak, peak], color="0.3", lw=1)
        axes.annotate(name, (end, peak), (0, 3), textcoords="offset points", ha="right", fontsize=8)
    axes.set_title(latency.device.name, fontsize=10)
    axes.grid(color="0.92")
    axes.legend(loc="lower right", fontsize=8)


def _peaks(latency: Latency, kinds: Iterable[str]) -> list[tuple[str, float]]:
    """The peaks to plot: on this machine of the kinds in `kinds`, with similar ones merged."""
    lines: list[tuple[str, float]] = []
    for name, peak in sorted(latency.device.peaks(latency.dtype).items(), key=lambda item: item[1]):
        if not latency.is_bound and name not in kinds:
            continue
        if lines and peak < 1.1 * lines[-1][1]:
            lines[-1] = (f"{lines[-1][0]}, {name}", lines[-1][1])
        else:
            lines.append((name, peak))
    return lines


def draw_front(
    points: Sequence[tuple[str, float, float]],
    front: Sequence[tuple[str, float, float]],
    cost_label: str,
    path: str | Path,
) -> None:
    """Plot accuracy against cost with the Pareto front, as a PNG. A point is (name, cost, top-1 in %)."""
    figure = _figure((8, 5.5))
    axes = figure.add_subplot()
    _, costs, accuracies = zip(*front, strict=True)
    axes.step(costs, accuracies, where="post", color="tab:blue", linewidth=1, label="Pareto front")
    for point in points:
        name, cost, top1 = point
        axes.plot(cost, top1, "o", color="tab:blue" if point in front else "0.6")
        axes.annotate(name, (cost, top1), (5, -9), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel=cost_label, ylabel="top-1 on ImageNet, %")
    axes.margins(x=0.15, y=0.1)
    axes.grid(color="0.92", which="both")
    axes.legend(loc="upper left")
    _write(figure, path, dpi=130)


def _figure(inches: tuple[float, float]) -> Any:
    with require_extra("torch", "a picture"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Any, path: str | Path, dpi: int) -> None:
    with wrap_write_errors(Path(path)), atomic_write(Path(path), durable=True) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
