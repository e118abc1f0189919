"""Measured and expected numbers as text: counts in full, all else with three significant figures."""

from __future__ import annotations

import math

from .experiment import Expected, Figure

NOT_MEASURED = "not measured"


def number(value: float | None, unit: str = "") -> str:
    """`"138,357,544"`, `"89.4 %"`, `"0.0678 %"`, `"6.8e-07"`; NaN and infinity in words."""
    text = _number(value, unit)
    return f"{text} {unit}" if unit else text


def _number(value: float | None, unit: str) -> str:
    if value is None or math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if isinstance(value, int) or (not unit and value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    if value == 0:
        return "0"
    # Rounded first: 99.96 has three figures as 100, not as 100.0.
    rounded = float(f"{value:.2e}")
    magnitude = math.floor(math.log10(abs(rounded)))
    if magnitude < -4 or magnitude > 9:
        return f"{value:.2e}"
    if magnitude >= 5:
        return f"{rounded:,.0f}"
    return f"{value:,.{max(0, 2 - magnitude)}f}"


def interval(figure: Figure) -> str:
    """`"88.1 to 90.2 %"`, or `""` where there is none."""
    if figure.interval is None:
        return ""
    low, high = (_number(end, figure.unit or " ").strip() for end in figure.interval)
    return f"{low} to {high} {figure.unit}".rstrip()


def agrees(figure: Figure, expected: Expected) -> bool:
    """Whether a measured number is the expected one, within its tolerance."""
    return abs(figure.value - expected.value) <= (expected.tolerance or 1e-9) * abs(expected.value)
