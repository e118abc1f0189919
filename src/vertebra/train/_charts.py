"""Small charts as SVG inside a page: nothing to load, sharp at any size, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ._measure import Bin

_SIZE = 240
_MARGIN = 34
_NAMED = 12  # classes whose confusion is a table with names


def _frame(title: str, x_label: str, y_label: str, content: str) -> str:
    inner = _SIZE - 2 * _MARGIN
    ticks = "".join(
        f'<text x="{_x(value):.1f}" y="{_SIZE - _MARGIN + 13}" text-anchor="middle">{value:g}</text>'
        f'<text x="{_MARGIN - 4}" y="{_y(value) + 3:.1f}" text-anchor="end">{value:g}</text>'
        for value in (0, 0.5, 1)
    )
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_SIZE} {_SIZE}" role="img" aria-label="{escape(title)}">'
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{inner}" height="{inner}" fill="none" stroke="#8886"/>'
        f"{content}{ticks}"
        f'<text x="{_SIZE / 2}" y="{_SIZE - 4}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="10" y="{_SIZE / 2}" text-anchor="middle" transform="rotate(-90 10 {_SIZE / 2})">{escape(y_label)}'
        f"</text></svg><figcaption>{escape(title)}</figcaption></figure>"
    )


def _x(value: float) -> float:
    return _MARGIN + value * (_SIZE - 2 * _MARGIN)


def _y(value: float) -> float:
    return _SIZE - _MARGIN - value * (_SIZE - 2 * _MARGIN)


def reliability_chart(title: str, bins: Sequence[Bin]) -> str:
    """Confidence against accuracy; the diagonal is where they agree, and a dot's area is the share of photos."""
    total = sum(b.photos for b in bins) or 1
    dots = "".join(
        f'<circle cx="{_x(b.confidence):.1f}" cy="{_y(b.accuracy):.1f}" r="{2.5 + 12 * (b.photos / total) ** 0.5:.1f}" '
        f'fill="var(--accent)" fill-opacity=".6"><title>{b.photos} photos: confidence {b.confidence:.3f}, accuracy '
        f"{b.accuracy:.3f}</title></circle>"
        for b in bins
    )
    diagonal = f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#888" stroke-dasharray="3 3"/>'
    return _frame(title, "confidence", "accuracy", diagonal + dots)


def line_chart(title: str, x_label: str, y_label: str, points: Sequence[tuple[float, float]]) -> str:
    """A line through points whose coordinates are from 0 to 1."""
    path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in points)
    line = f'<polyline points="{path}" fill="none" stroke="var(--accent)" stroke-width="2"/>'
    return _frame(title, x_label, y_label, line)


def curve(title: str, values: Sequence[float], lowest: float = 0.0) -> str:
    """A value over the epochs, from `lowest` to its largest."""
    top = max(max(values), lowest + 1e-9)
    span = top - lowest
    last = max(1, len(values) - 1)
    points = [(i / last, (value - lowest) / span) for i, value in enumerate(values)]
    return line_chart(f"{title}: {values[-1]:.3g} at the end, {top:.3g} at most", "share of training", title, points)


def confusion_chart(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """True classes in rows, predicted ones in columns; the darker, the larger the share of the row."""
    count = len(names)
    if count <= _NAMED:
        heads = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = "".join(
            f"<tr><th>{escape(name)}</th>"
            + "".join(
                f"<td>{'<b>' if j == i else ''}{photos or '·'}{'</b>' if j == i else ''}</td>"
                for j, photos in enumerate(confusion[i])
            )
            + "</tr>"
            for i, name in enumerate(names)
        )
        return f"<h3>Which is taken for which</h3><table><tr><th>is \\ taken for</th>{heads}</tr>{rows}</table>"
    cell = max(3.0, min(22.0, 640 / count))
    cells = []
    for true, row in enumerate(confusion):
        total = sum(row) or 1
        for predicted, photos in enumerate(row):
            if photos:
                colour = "var(--accent)" if true == predicted else "var(--bad)"
                cells.append(
                    f'<rect x="{predicted * cell:.1f}" y="{true * cell:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
                    f'fill="{colour}" fill-opacity="{0.15 + 0.85 * photos / total:.2f}"><title>'
                    f"{escape(names[true])} taken for {escape(names[predicted])}: {photos}</title></rect>"
                )
    side = count * cell
    return (
        f'<svg viewBox="0 0 {side:.0f} {side:.0f}" style="max-width:{side:.0f}px;border:1px solid #8886" role="img" '
        f'aria-label="confusion matrix">{"".join(cells)}</svg>'
    )
