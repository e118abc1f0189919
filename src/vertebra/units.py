"""Numbers with their units, as text: counts, bytes, times. MB is 10⁶ bytes. Standard library only."""

from __future__ import annotations

MEGA = 1_000_000
GIGA = 1_000_000_000


def count(number: float) -> str:
    """A count with three figures: `"25.6 M"`, `"138 M"`, `"1.28 k"`, `"999"`."""
    return _scaled(number, "")


def counted(number: int, what: str) -> str:
    """A whole number of things: `"1 photo"`, `"2,000 photos"`, `"2 classes"`, `"2 sets of copies"`."""
    if number == 1:
        return f"1 {what}"
    noun, of, rest = what.partition(" of ")
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}{of}{rest}"


def size(number: float) -> str:
    """A number of bytes: `"102 MB"`, `"1.5 kB"`, `"12 B"`."""
    return _scaled(number, "B")


def duration(milliseconds: float) -> str:
    """A time with three figures: `"108 ms"`, `"3.40 µs"`, `"1.20 s"`."""
    if milliseconds >= 999.5:
        return f"{three_figures(milliseconds / 1_000)} s"
    # Compared after rounding: 0.9996 ms is 1.00 ms, not 1000 µs.
    if milliseconds >= 0.9995:
        return f"{three_figures(milliseconds)} ms"
    return f"{three_figures(milliseconds * 1_000)} µs"


def _scaled(number: float, unit: str) -> str:
    for scale, letter in ((GIGA, "G"), (MEGA, "M"), (1_000, "k")):
        # Compared after rounding to three figures: 999,950 is 1.00 M, not 1000 k.
        if abs(number) >= scale * 0.9995:
            return f"{three_figures(number / scale)} {letter}{unit}"
    return f"{number:.0f} {unit}".rstrip()


def three_figures(number: float) -> str:
    """A number with three significant figures and no exponent: `"138"`, `"25.6"`, `"0.39"`."""
    magnitude = abs(number)
    if magnitude >= 99.95:
        return f"{number:.0f}"
    if magnitude >= 9.995:
        return f"{number:.1f}"
    return f"{number:.2f}"
