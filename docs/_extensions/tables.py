"""Tables of texts, in which backticks enclose code, as docutils nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from docutils import nodes


def table(rows: Sequence[Sequence[str]], kind: str = "") -> nodes.table:
    """A table whose first row is its head."""
    group = nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    head, body = nodes.thead(), nodes.tbody()
    for place, row in enumerate(rows):
        entries = [nodes.entry("", paragraph(cell)) for cell in row]
        (body if place else head).append(nodes.row("", *entries))
    group += [head, body]
    return nodes.table("", group, classes=[kind] if kind else [])


def paragraph(text: str, *classes: str) -> nodes.paragraph:
    """A paragraph, with code where backticks enclose it."""
    pieces = re.split(r"`([^`]+)`", text)
    made = [nodes.literal("", piece) if place % 2 else nodes.Text(piece) for place, piece in enumerate(pieces) if piece]
    return nodes.paragraph("", "", *made, classes=list(classes))
