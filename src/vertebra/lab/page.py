"""`index.html`: the verdicts of several experiments and each of them in full, in one page that opens offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vertebra.files import atomic_write, wrap_write_errors
from vertebra.report.page import render

from .each_network import REFUSED
from .experiment import Verdict
from .inline_svg import inline_svg
from .result import Result
from .runs import NotRun
from .statement import claim_of, command, figure_rows, refusals, said_by
from .translation import Translation

_CLASSES = {Verdict.HOLDS: "holds", Verdict.IN_PART: "part", Verdict.FAILS: "fails", Verdict.OPEN: "open"}
_NOT_RUN = (REFUSED, "not run", "failed")
MARKER = '<meta name="generator" content="vertebra lab">'  # near the start of the page
_MOST = 3  # figures of one experiment in the table of verdicts


def write_page(path: Path, found: Sequence[Result | NotRun], t: Translation) -> Path:
    """Write the page of these results.

    Raises:
        VertebraError: the file cannot be written.
    """
    with wrap_write_errors(path), atomic_write(path) as temporary:
        temporary.write_text(page(found, t), encoding="utf-8")
    return path


def is_page(path: Path) -> bool:
    """Whether a file is a page that `write_page` wrote."""
    try:
        with path.open("rb") as file:
            return MARKER.encode() in file.read(2000)
    except OSError:
        return False


def page(found: Sequence[Result | NotRun], t: Translation) -> str:
    """The page as HTML."""
    results = [each for each in found if isinstance(each, Result)]
    names = [each.verdict if isinstance(each, Result) else each.state for each in found]
    counts = Counter(names)
    return render(
        "lab.html",
        title=t("Claims about convolutional networks, tested"),
        kind=t("Lab"),
        data={},
        marker=MARKER,
        t=t,
        language=t.language,
        scripts=("theme.js", "lab.js"),
        styles=("style.css", "lab.css"),
        rows=[_row(each, t) for each in found],
        experiments=[_experiment(each, t) for each in results],
        counts=[(name, counts[name]) for name in (*Verdict, *_NOT_RUN) if counts[name]],
        families=list(dict.fromkeys(each.claim.family for each in results)),
        many=len(found),
    )


def _badge(each: Result | NotRun) -> tuple[str, str]:
    """CSS class and words, in English."""
    return (_CLASSES[each.verdict], each.verdict) if isinstance(each, Result) else ("none", each.state)


def _row(each: Result | NotRun, t: Translation) -> dict[str, Any]:
    """A line of the table of verdicts."""
    row: dict[str, Any] = {
        "number": each.number,
        "name": each.name,
        "badge": _badge(each),
        "figures": [],
        "seconds": "",
    }
    if isinstance(each, NotRun):
        return row | {"family": "", "claim": "", "reason": t(each.reason), "has_section": False}
    deciding = [figure for figure in figure_rows(each, t) if figure.decides][:_MOST]
    row |= {"family": each.claim.family, "claim": claim_of(each, t), "reason": t(each.reason), "has_section": True}
    return row | {"figures": deciding, "seconds": f"{each.seconds:.1f}"}


def _experiment(result: Result, t: Translation) -> dict[str, Any]:
    """All that a section shows."""
    claim = result.claim
    title, caption = t(result.title), t(result.caption)
    picture = inline_svg(result.picture("svg", t.language), f"{result.entry.stem}-", title, caption)
    return {
        "number": result.number,
        "name": result.name,
        "family": claim.family,
        "networks": result.networks,
        "badge": _badge(result),
        "says": said_by(claim.stated_by, t),
        "claim": claim_of(result, t),
        "should_hold": t(claim.should_hold),
        "source": t(claim.source),
        "rule": t(claim.rule),
        "reason": t(result.reason),
        "refused": refusals(result, t),
        "figures": figure_rows(result, t),
        "picture": picture,
        "caption": caption,
        "files": [(suffix[1:].upper(), result.file_name(suffix, t.language)) for suffix in (".svg", ".png", ".json")],
        "command": command(result),
        "settings": _settings(result, t),
        "environment": _environment(result, t),
    }


def _settings(result: Result, t: Translation) -> dict[str, str]:
    settings = result.settings
    found = {
        t("decided by"): ", ".join(t(kind) for kind in result.claim.decided_by),
        t("date"): result.date.replace("T", " ").removesuffix("+00:00") + " UTC",
        t("time taken"): f"{result.seconds:.1f} s",
    }
    if settings["seeds"]:
        found[t("seeds")] = str(settings["seeds"])
    if settings["quick"]:
        found[t("quick run")] = t("yes")
    found[t("device")] = settings["device"]
    if settings["data"]:
        found[t("data")] = settings["data"]
    if result.networks:
        found[t("networks")] = ", ".join(result.networks)
    return found


def _environment(result: Result, t: Translation) -> dict[str, str]:
    machine = {t(name): str(value) for name, value in result.environment["machine"].items()}
    return machine | {name: str(value) for name, value in result.environment["versions"].items()}
