"""Coordinates of charts, which the template draws as SVG, and the order of classes in the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vertebra.intervals import wilson
from vertebra.units import counted

WIDTH, HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 14, 12, 50


@dataclass(frozen=True)
class Axis:
    """Maps values to coordinates, with ticks at round values."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]  # value, text
    ends: tuple[float, float]  # coordinates of `low` and `high`

    def at(self, value: float) -> float:
        """Return the coordinate of a value, rounded to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.ends[0] + share * (self.ends[1] - self.ends[0]), 1)


@dataclass(frozen=True)
class Mark:
    """A dot with its tooltip, and the ends of its interval."""

    x: float
    y: float
    radius: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chart:
    """One chart; the caption explains how to read it."""

    title: str
    caption: str
    x: Axis
    y: Axis
    line: str = ""  # points of a polyline
    marks: tuple[Mark, ...] = ()
    diagonal: bool = False
    name: str = ""  # for `page.js`


def axis(
    title: str, low: float, high: float, *, vertical: bool = False, share: bool = False, max_ticks: int = 6
) -> Axis:
    """Return an axis that covers `low` to `high` in whole steps; with `share`, values are shown as percentages."""
    step = _step((high - low) or abs(high) or 1.0, max_ticks - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple((i * step, _number(i * step, step, share)) for i in range(first, last + 1))
    ends = (HEIGHT - _BOTTOM, _TOP) if vertical else (_LEFT, WIDTH - _RIGHT)
    return Axis(title, first * step, last * step, ticks, (float(ends[0]), float(ends[1])))


def _step(span: float, parts: int) -> float:
    """Return the least 1, 2 or 5 times a power of ten that splits the span into at most `parts`."""
    raw = span / parts
    power: float = 10.0 ** math.floor(math.log10(raw))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def _number(value: float, step: float, share: bool) -> str:
    if share:
        value, step = 100 * value, 100 * step
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 4:
        return f"{value:.1e}".replace("e-0", "e-") if value else "0"
    return f"{value:,.{digits}f}"


def reliability_chart(title: str, bins: Sequence[tuple[float, float, int]], caption: str = "") -> Chart:
    """Plot accuracy against confidence; `bins` are (mean confidence, accuracy, photos)."""
    total = sum(photos for *_, photos in bins) or 1
    x = axis("confidence, %", 0, 1, share=True)
    y = axis("accuracy, %", 0, 1, share=True, vertical=True)
    marks = []
    for confidence, accuracy, photos in bins:
        low, high = wilson(accuracy * photos, photos)
        text = (
            f"{counted(photos, 'photo')}: confidence {100 * confidence:.1f} %, accuracy {100 * accuracy:.1f} % "
            f"(95 % interval {100 * low:.1f} – {100 * high:.1f})"
        )
        radius = round(3 + 13 * (photos / total) ** 0.5, 1)
        marks.append(Mark(x.at(confidence), y.at(accuracy), radius, text, y.at(low), y.at(high)))
    return Chart(title, caption, x, y, marks=tuple(marks), diagonal=True)


def coverage_chart(title: str, points: Sequence[tuple[float, float]], caption: str = "") -> Chart:
    """Plot precision against coverage."""
    x = axis("coverage: share of photos answered, %", 0, 1, share=True)
    lowest = min((right for _, right in points), default=0.0)
    y = axis("precision: share of right answers, %", min(lowest, 0.95), 1, share=True, vertical=True)
    return Chart(title, caption, x, y, line=_polyline(x, y, points), name="coverage")


def line_chart(title: str, step: str, values: Sequence[float], caption: str = "", *, share: bool = False) -> Chart:
    """Plot a value per step, such as an epoch, from 1; NaN and infinite values are left out."""
    points = [(float(i), value) for i, value in enumerate(values, 1) if math.isfinite(value)]
    x = axis(step, 1, max(2, len(values)))
    found = [value for _, value in points] or [0.0]
    y = axis(f"{title}, %" if share else title, min(found), max(found), vertical=True, share=share)
    marks = [
        Mark(x.at(i), y.at(value), 3, f"{i:g}: {f'{100 * value:.1f} %' if share else f'{value:.4g}'}")
        for i, value in points
    ]
    return Chart(title, caption, x, y, line=_polyline(x, y, points), marks=tuple(marks if len(marks) <= 40 else ()))


def _polyline(x: Axis, y: Axis, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x.at(a):g},{y.at(b):g}" for a, b in points)


def cluster_classes(count: int, confusions: Iterable[tuple[int, int, int]]) -> list[int]:
    """Order the classes 0 to `count` - 1 so that confused ones are neighbours.

    Single linkage: chains of classes are joined at their ends, the most frequent confusion (true, predicted, photos)
    first. Classes without confusions follow in their own order.
    """
    both: dict[tuple[int, int], int] = {}
    for true, predicted, photos in confusions:
        if true != predicted:
            pair = (min(true, predicted), max(true, predicted))
            both[pair] = both.get(pair, 0) + photos
    chain_of = {index: [index] for index in range(count)}
    for one, other in sorted(both, key=lambda pair: (-both[pair], pair)):
        first, second = chain_of[one], chain_of[other]
        if first is second:
            continue
        if first.index(one) < len(first) // 2:
            first.reverse()
        if second.index(other) >= (len(second) + 1) // 2:
            second.reverse()
        first.extend(second)
        for index in second:
            chain_of[index] = first
    chains = {id(chain): chain for chain in chain_of.values()}
    # Largest clusters first.
    return [index for chain in sorted(chains.values(), key=lambda chain: (-len(chain), min(chain))) for index in chain]
