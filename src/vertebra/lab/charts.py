"""Charts that several experiments draw. Colours are those of the reports, told apart also without red and green."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .experiment import Measured

from .experiment import Figure

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7"),
    *("#56b4e9", "#d55e00", "#8a8a8a"),
)
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY)


def bar_text(value: float) -> str:
    """Three figures, or all digits before the point: "0.39", "18.4", "5,549"; nothing for NaN."""
    if value != value:
        return ""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def bars(axes: Any, values: Mapping[str, float], label: str, text: str | None = None, color: Any = BLUE) -> None:
    """Horizontal bars, one per name from the top down, each with its value written behind it."""
    drawn = axes.barh(list(values), list(values.values()), color=color)
    texts = [bar_text(value) if text is None else text.format(value) for value in values.values()]
    axes.bar_label(drawn, texts, padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.15)


def grouped_bars(
    axes: Any, groups: Sequence[str], series: Mapping[str, Sequence[float]], label: str, fontsize: float = 9
) -> None:
    """Horizontal bars, one for each series in each group; none for a NaN."""
    height = 0.8 / len(series)
    for i, ((name, values), color) in enumerate(zip(series.items(), COLORS, strict=False)):
        positions = [row + (i - (len(series) - 1) / 2) * height for row in range(len(groups))]
        drawn = axes.barh(positions, values, height, label=name, color=color)
        axes.bar_label(drawn, [bar_text(value) for value in values], padding=3, fontsize=fontsize)
    axes.set_yticks(range(len(groups)), groups, fontsize=min(10, fontsize + 1))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series))


def network_bars(axes: Any, measured: Measured, kinds: Mapping[str, str], label: str, scale: float = 1) -> None:
    """Bars for each network of `measure_each`: a label → the figure "NETWORK: what", divided by `scale`."""
    names = list(measured.series["networks"])
    series = {kind: [measured.value(f"{name}: {what}") / scale for name in names] for kind, what in kinds.items()}
    grouped_bars(axes, names, series, label, 9 if len(names) * len(kinds) < 16 else 7)


def seeds(axes: Any, arms: Mapping[str, Sequence[float]], label: str, colors: Sequence[str] = COLORS) -> None:
    """One row per arm: a dot for each seed, and a bar at their mean. `colors` are repeated."""
    for row, (values, color) in enumerate(zip(arms.values(), [*colors] * len(arms), strict=False)):
        axes.plot(values, [row] * len(values), "o", color=color, alpha=0.8)
        axes.plot([sum(values) / len(values)], [row], "|", color=color, markersize=22, markeredgewidth=2)
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(label)


def seed_lines(axes: Any, lines: Mapping[str, Mapping[float, Sequence[float]]], x_label: str, label: str) -> None:
    """Lines of means over x, with the range of the seeds."""
    for (name, points), color in zip(lines.items(), COLORS * len(lines), strict=False):
        x, seeds_of = list(points), list(points.values())
        means = [sum(values) / len(values) for values in seeds_of]
        axes.plot(x, means, "o-", color=color, markersize=4, label=name)
        axes.fill_between(x, list(map(min, seeds_of)), list(map(max, seeds_of)), color=color, alpha=0.2, linewidth=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(label)
    axes.legend(fontsize=9)


def norms_by_depth(axes: Any, networks: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """For each network one line per kind, the second dashed: norms from the first layer to the last, in logarithm."""
    for (name, kinds), color in zip(networks.items(), COLORS * len(networks), strict=False):
        for (kind, norms), style in zip(kinds.items(), ("-", "--"), strict=False):
            # A layer that nothing depends on, such as a projection without its skip, has none.
            shown = {place / max(1, len(norms) - 1): norm for place, norm in enumerate(norms) if norm}
            axes.plot(list(shown), list(shown.values()), style, color=color, linewidth=1.5, label=f"{kind}{name}")
    axes.set(xlabel="depth: 0 is the first layer, 1 the last", ylabel="gradient norm over the last convolution's")
    axes.set_yscale("log")
    axes.legend(fontsize=8)


def path_shares(axes: Any, networks: Mapping[str, Mapping[str, float]]) -> None:
    """One line per network: a share, in %, by number of branches on the path."""
    for (name, shares), color in zip(networks.items(), COLORS * len(networks), strict=False):
        blocks = max(1, len(shares) - 1)
        axes.plot(
            [100 * int(length) / blocks for length in shares],
            list(shares.values()),
            "o-",
            color=color,
            markersize=3,
            label=f"{name}, {blocks} branches",
        )
    axes.set(xlabel="branches on the path, % of all", ylabel="share of the input gradient, %")
    axes.legend(fontsize=8)


def stacked_bars(axes: Any, rows: Sequence[str], parts: Mapping[str, Sequence[float]], label: str) -> None:
    """Horizontal bars, one per row from the top down, each made of one piece for every part; wide ones are labelled."""
    lefts = [0.0] * len(rows)
    widest = max(map(sum, zip(*parts.values(), strict=True)), default=0)
    for (name, values), color in zip(parts.items(), COLORS * len(parts), strict=False):
        if not any(values):
            continue
        drawn = axes.barh(range(len(rows)), values, left=lefts, label=name, color=color)
        texts = [f"{value:.3g}" if value > 0.06 * widest else "" for value in values]
        axes.bar_label(drawn, texts, label_type="center", fontsize=8, color="white")
        lefts = [left + value for left, value in zip(lefts, values, strict=True)]
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, columnspacing=1)
    axes.margins(x=0)


def measured_and_predicted(
    axes: Any, measured: Mapping[str, Figure], predicted: Mapping[str, float], color: Any = BLUE
) -> None:
    """One column per name: a dot for what was measured, a bar for its interval, and a cross for what was predicted."""
    for column, figure in enumerate(measured.values()):
        axes.plot([column], [figure.value], "o", color=color)
        axes.plot([column] * 2, figure.interval or [figure.value] * 2, "-", color=color, linewidth=2)
    columns = {name: column for column, name in enumerate(measured)}
    crosses = {columns[name]: value for name, value in predicted.items() if name in columns}
    axes.plot(list(crosses), list(crosses.values()), "x", color=GREY)
    axes.set_xticks(range(len(measured)), list(measured))
    axes.set_xlim(-0.6, len(measured) - 0.4)
    axes.grid(axis="x", visible=False)


def ratio_scale(axes: Any, low: float, high: float) -> None:
    """A logarithmic y-axis from `low` to `high`, or as far as data go, with numbers at 1, 2 and 5, and a line at 1."""
    low, high = min(low, axes.dataLim.ymin), max(high, axes.dataLim.ymax)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_ticks(axes)
    axes.axhline(1, color="0.3", linewidth=1)


def log_ticks(axes: Any) -> None:
    """Numbers at 1, 2 and 5 of each decade on a logarithmic y-axis."""
    low, high = axes.get_ylim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    shown = [step * 10.0**decade for decade in decades for step in (1, 2, 5) if low <= step * 10.0**decade <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()


def device_axis(axes: Any, flops_per_byte: Mapping[str, float]) -> None:
    """A logarithmic x-axis of FLOPs per byte, with the devices' names at theirs along the bottom."""
    axes.set(xscale="log", xlabel="FLOPs per byte of the device")
    for i, (name, place) in enumerate(flops_per_byte.items()):
        axes.annotate(name, (place, 0.01 + 0.05 * (i % 3)), xycoords=("data", "axes fraction"), fontsize=8)


def losses_by_epoch(axes: Any, losses: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Training loss by epoch on a logarithmic axis: for each arm a line for its mean and a band for its seeds."""
    lines = {name: {i + 1.0: list(at) for i, at in enumerate(zip(*own, strict=True))} for name, own in losses.items()}
    seed_lines(axes, lines, "epoch", "training loss")
    axes.set_yscale("log")
