"""A result in words: who states the claim, what decided, and the command that repeats it. In any language."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from .each_network import REFUSED, by_reason
from .experiment import Expected, Figure
from .figure_text import comparison, interval, number
from .result import Result
from .translation import Translation

_SAYS = {"article": "the article says", "paper": "the paper says", "code": "the quoted code says"}
_NOT_FINITE = ("not a number", "minus infinite", "infinite")


def said_by(stated_by: str, t: Translation) -> str:
    """`"the article says (l.7)"`; of several sources each."""
    space, comma = ("", "、") if t.language == "ja" else (" ", ", ")
    found = []
    for part in stated_by.split(";"):
        source, _, place = part.strip().partition(" ")
        place = re.sub(r"[()]", "", place).replace(" comment", f", {t('comment')}").strip(", ")
        found.append(t(_SAYS[source]) + (f"{space}({place.replace(', ', comma)})" if place else ""))
    return comma.join(found)


def claim_of(result: Result, t: Translation) -> str:
    """The claim in this language."""
    return result.claim.claim_ja if t.language == "ja" else result.claim.claim


def refusals(result: Result, t: Translation) -> list[str]:
    """A line for each reason why it does not apply to some of the networks: `"does not apply: a, b: it has no …"`."""
    names = by_reason(result.refused)
    return [f"{t(REFUSED)}: {', '.join(own)}: {t(about)}" for about, own in names.items()]


@dataclass(frozen=True)
class FigureRow:
    """One line of a table of figures: measured beside expected, as text."""

    name: str
    value: str
    n: str
    interval: str
    expected: str
    source: str
    comparison: str  # in words, in English; empty where nothing is expected, or nothing was measured
    decides: bool


def figure_rows(result: Result, t: Translation) -> list[FigureRow]:
    """All figures, those that decided first, and last what is expected and was not measured."""
    names = dict.fromkeys([*result.decided_by, *result.figures, *_expected(result)])
    return [_row(result, name, t) for name in names]


def _expected(result: Result) -> dict[str, Expected]:
    """What is expected of the claim's own networks; of the user's nothing is."""
    return {} if result.networks else dict(result.claim.expected)


def _row(result: Result, name: str, t: Translation) -> FigureRow:
    figure: Figure | None = result.figures.get(name)
    expected = _expected(result).get(name)
    unit = "" if figure is None else figure.unit
    return FigureRow(
        t(name),
        t("not measured") if figure is None else _in_words(number(figure.value, t(unit)), t),
        "" if figure is None or figure.n == 1 else f"{figure.n:,}",
        "" if figure is None else _in_words(interval(figure.interval, t(unit)), t),
        "" if expected is None else number(expected.value, t(unit)),
        "" if expected is None else t(expected.source),
        "" if figure is None or expected is None else _compared(figure, expected),
        name in result.decided_by,
    )


def _compared(figure: Figure, expected: Expected) -> str:
    return comparison(figure.value, expected.value, expected.tolerance, figure.interval)


def figure_text(figure: Figure, t: Translation) -> str:
    """`Figure.text` in this language."""
    return _in_words(replace(figure, unit=t(figure.unit)).text(), t)


def _in_words(text: str, t: Translation) -> str:
    """The words of a number, or of an interval, in this language."""
    if t.language == "ja":
        text = text.replace(" to ", "〜")
        for word in _NOT_FINITE:
            text = text.replace(word, t(word))
    return text


def command(result: Result, out: Path | str | None = None) -> str:
    """The command line that repeats it."""
    words = ["vertebra", "lab", "run", result.name]
    settings = result.settings
    if settings["quick"]:
        words.append("--quick")
    if result.changed_seeds is not None:
        words += ["--seeds", str(result.changed_seeds)]
    if settings["device"] != "cpu":
        words += ["--device", settings["device"]]
    if settings["data"]:
        words += ["--data", settings["data"]]
    if result.networks:
        words += ["--model", ",".join(result.networks)]
    if out is not None:
        words += ["--out", str(out)]
    return shlex.join(words)
