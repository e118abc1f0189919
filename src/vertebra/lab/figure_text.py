"""Measured and expected numbers as text: counts in full, all else with three significant figures."""

from __future__ import annotations

import math


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


def interval(ends: tuple[float, float] | None, unit: str = "") -> str:
    """`"88.1 to 90.2 %"`, or `""` where there is none."""
    if ends is None:
        return ""
    low, high = (_number(end, unit or " ") for end in ends)
    return f"{low} to {high} {unit}".rstrip()


def agrees(value: float, expected: float, tolerance: float) -> bool:
    """Whether a measured number is the expected one, within a relative tolerance; an absolute one where that is 0."""
    return abs(value - expected) <= (tolerance or 1e-9) * (abs(expected) or 1)


def comparison(value: float, expected: float, tolerance: float, ends: tuple[float, float] | None = None) -> str:
    """In words, in English: "in the interval" where only the 95 % interval reaches what is expected."""
    if agrees(value, expected, tolerance):
        return "agrees"
    return "in the interval" if ends is not None and ends[0] <= expected <= ends[1] else "differs"
