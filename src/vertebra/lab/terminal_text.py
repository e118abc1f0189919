"""What the command line says of results: a block for each, the rows of a table of verdicts, counts, and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vertebra.errors import shortened
from vertebra.progress import duration
from vertebra.text_width import cells, fill
from vertebra.units import counted

from .each_network import REFUSED
from .experiment import Verdict
from .result import SCHEMA, Result
from .runs import NotRun, Run
from .statement import FigureRow, claim_of, figure_rows, figure_text, refusals, said_by
from .translation import Translation

_MOST = 3  # figures that are shown of each


def not_run(found: Sequence[Result | NotRun]) -> list[NotRun]:
    """Those without a result."""
    return [each for each in found if isinstance(each, NotRun)]


def document(found: Sequence[Result | NotRun]) -> dict[str, Any]:
    """All as JSON data."""
    results = [each.to_dict() for each in found if isinstance(each, Result)]
    return {"schema": SCHEMA, "results": results, "not_run": [each.to_dict() for each in not_run(found)]}


def block(result: Result | NotRun, picture: Path | None, t: Translation, width: int, *, alone: bool) -> str:
    """The claim, the verdict, why, and the figures that decided it; of one result `alone` with their sources."""
    if isinstance(result, NotRun):
        return fill(f"{result.number} {result.name}: {t(result.state)}: {t(result.reason)}", width)
    of = f" ({', '.join(result.networks)})" if result.networks else ""
    says = said_by(result.claim.stated_by, t)
    lines = [
        f"{result.number} {result.name}{of}: {t(result.verdict)}",
        fill(f"{says[0].upper()}{says[1:]}: {claim_of(result, t)}", width, "  "),
        fill(t(result.reason), width, "  "),
    ]
    table = _network_lines(result, t)
    if table and max(map(cells, table)) <= width:
        lines += table
    else:
        rows = [row for row in figure_rows(result, t) if row.decides]
        lines += _figure_lines(rows if result.networks else rows[:_MOST], t, alone)
    lines += [fill(line, width, "  ") for line in refusals(result, t)]
    time = f"{result.seconds:.1f} s" if result.seconds < 60 else duration(result.seconds)
    kept = f", {t('kept from')} {result.date[:10]}" if result.kept else ""
    return "\n".join([*lines, f"  {picture} ({time}{kept})"])


def _network_lines(result: Result, t: Translation) -> list[str]:
    """A table of what decides, with a column for each of the user's networks; "-" for what one does not have."""
    split = [name.partition(": ") for name in result.decided_by]
    wanted = list(dict.fromkeys(what for network, _, what in split if network in result.networks))
    networks = [network for network in result.networks if network not in result.refused]
    table = [["", *networks]] if wanted else []
    for what in wanted:
        found = [result.figures.get(f"{network}: {what}") for network in networks]
        # n and intervals are in the page and the JSON: there is no room for them side by side.
        values = [figure and figure_text(replace(figure, n=1, interval=None), t) for figure in found]
        table.append([t(what), *(value or "-" for value in values)])
    widths = [max(map(cells, column)) for column in zip(*table, strict=True)]
    return ["  " + "  ".join(map(_padded, row, widths)).rstrip() for row in table]


def _figure_lines(rows: list[FigureRow], t: Translation, alone: bool) -> list[str]:
    names, values = (max((cells(getattr(row, part)) for row in rows), default=0) for part in ("name", "value"))
    lines = []
    for row in rows:
        notes = [f"n = {row.n}"] if row.n else []
        notes += [f"95 %: {row.interval}"] if row.interval else []
        if row.expected and alone:
            notes.append(f"{t('expected')} {row.expected} ({row.source}): {t(row.comparison)}")
        elif row.expected:
            notes.append(f"{t('expected')} {row.expected}")
        padded = f"{_padded(row.name, names)}  {_padded(row.value, values)}"
        lines.append(f"  {padded}  {', '.join(notes)}".rstrip())
    return lines


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def verdict_rows(found: Sequence[Result | NotRun], t: Translation) -> list[tuple[str, str, str, str, str]]:
    """A table of verdicts: number, name, verdict, what decided, seconds."""
    rows = []
    for each in found:
        if isinstance(each, NotRun):
            rows.append((each.number, each.name, t(each.state), t(each.reason), ""))
            continue
        deciding = [row for row in figure_rows(each, t) if row.decides][:_MOST]
        figures = "; ".join(f"{shortened(row.name, 50)} {row.value}" for row in deciding)
        rows.append((each.number, each.name, t(each.verdict), figures, f"{each.seconds:.1f}"))
    return rows


def count_of_verdicts(found: Sequence[Result | NotRun], t: Translation) -> str:
    """`"44 experiments: holds 30, holds in part 10, …"`."""
    names = [each.verdict if isinstance(each, Result) else each.state for each in found]
    counts = Counter(names)
    parts = [f"{t(name)} {counts[name]}" for name in (*Verdict, REFUSED, "not run", "failed") if counts[name]]
    return f"{t(f'{len(found)} experiments')}: {', '.join(parts)}"


def what_will_run(plan: Run) -> str:
    """How many experiments, how many results are kept and about how long it takes, and what does without an option."""
    kept = f", {counted(len(plan.kept), 'result')} kept" if plan.kept else ""
    notes = [f"{counted(len(plan.to_run), 'experiment')} to run{kept}: about {duration(plan.seconds)}."]
    if plan.without:
        notes.append(f"{len(plan.without)} others are about networks of their own and are left out.")
    if plan.with_data:
        names = ", ".join(f"{entry.number} ({entry.name})" for entry in plan.with_data)
        notes.append(f"The data is for {names}; the others need none.")
    return " ".join(notes)


def how_to_go_on(plan: Run, found: Sequence[Result | NotRun], page: Path) -> str:
    """What to say where Ctrl-C came: how much is done, and what the same command does."""
    if len(plan.jobs) == 1:
        return ""
    done = f"{len(found)} of {counted(len(plan.jobs), 'experiment')} {'is' if len(found) == 1 else 'are'} done"
    if not found:
        return f"{done}."
    if all(job.is_kept for job in plan.jobs):
        return f"{done}, kept, and shown in {page}. The same command goes on from there."
    return f"{done} and shown in {page}; with --data or --model none of these is kept."
