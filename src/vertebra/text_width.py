"""How wide text is in a terminal, and paragraphs in lines of a width, Japanese too, which has no spaces to break at."""

from __future__ import annotations

import re
import unicodedata

# Characters that begin no line, and those that end none.
_NOT_FIRST = frozenset("、。，．・:：;；!！?？)）]］」』】〕ーゝゞ々％%×")
_NOT_LAST = frozenset("(（[［「『【〔")
# What stays in one piece: a wide character alone, or a word of others.
_PIECES = re.compile(r"\s+|[\u2e80-\u9fff\uf900-\ufaff\uff00-\uff9f]|[^\s\u2e80-\u9fff\uf900-\ufaff\uff00-\uff9f]+")


def cells(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fill(text: str, width: int, indent: str = "") -> str:
    """A paragraph in lines of at most `width` columns, each after `indent`; a word that is longer has its own line."""
    lines: list[str] = []
    line = ""
    for piece in _unbroken(_PIECES.findall(" ".join(text.split()))):
        if line and cells(indent + line + piece.rstrip()) > width:
            lines.append(indent + line.rstrip())
            line = piece.lstrip()
        else:
            line += piece if line else piece.lstrip()
    return "\n".join([*lines, indent + line.rstrip()])


def _unbroken(pieces: list[str]) -> list[str]:
    """Join what no line break may stand between."""
    found: list[str] = []
    for piece in pieces:
        if found and (piece[0] in _NOT_FIRST or found[-1][-1] in _NOT_LAST):
            found[-1] += piece
        else:
            found.append(piece)
    return found
