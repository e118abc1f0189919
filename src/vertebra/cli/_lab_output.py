"""What `vertebra lab run` prints: a block for each result, a table of verdicts, JSON, and where the page is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vertebra.cli._output import echo, print_table, wrapped
from vertebra.errors import shortened
from vertebra.lab.experiment import Verdict
from vertebra.lab.result import SCHEMA, Result
from vertebra.lab.runs import NotRun, Run
from vertebra.lab.statement import FigureRow, claim_of, figure_rows, said_by
from vertebra.lab.translation import Translation
from vertebra.progress import duration
from vertebra.text_width import cells
from vertebra.units import counted

_MOST = 3  # figures that are shown of each


def not_run(found: Sequence[Result | NotRun]) -> list[NotRun]:
    """Those without a result."""
    return [each for each in found if isinstance(each, NotRun)]


def document(found: Sequence[Result | NotRun]) -> dict[str, Any]:
    """All as JSON data."""
    results = [each.to_dict() for each in found if isinstance(each, Result)]
    return {"schema": SCHEMA, "results": results, "not_run": [each.to_dict() for each in not_run(found)]}


def block(result: Result | NotRun, picture: Path | None, t: Translation, *, alone: bool) -> str:
    """The claim, the verdict, why, and the figures that decided it; of one result `alone` with their sources."""
    if isinstance(result, NotRun):
        return wrapped(f"{result.number} {result.name}: {t('failed' if result.failed else 'not run')}: {result.reason}")
    of = f" ({', '.join(result.networks)})" if result.networks else ""
    colon = "：" if t.language == "ja" else ": "
    says = said_by(result.claim.stated_by, t)
    lines = [
        f"{result.number} {result.name}{of}: {t(result.verdict)}",
        wrapped(f"{says[0].upper()}{says[1:]}{colon}{claim_of(result, t)}", "  "),
        wrapped(t(result.reason), "  "),
        *_figure_lines([row for row in figure_rows(result, t) if row.decides][:_MOST], t, alone),
    ]
    time = f"{result.seconds:.1f} s" if result.seconds < 60 else duration(result.seconds)
    kept = f", {t('kept from')} {result.date[:10]}" if result.kept else ""
    return "\n".join([*lines, f"  {picture} ({time}{kept})"])


def _figure_lines(rows: list[FigureRow], t: Translation, alone: bool) -> list[str]:
    widths = [max((cells(getattr(row, part)) for row in rows), default=0) for part in ("name", "value")]
    lines = []
    for row in rows:
        notes = [f"n = {row.n}"] if row.n else []
        notes += [f"95 %: {row.interval}"] if row.interval else []
        if row.expected and alone:
            notes.append(f"{t('expected')} {row.expected} ({row.source}): {t(row.comparison)}")
        elif row.expected:
            notes.append(f"{t('expected')} {row.expected}")
        padded = [text + " " * (width - cells(text)) for text, width in zip((row.name, row.value), widths, strict=True)]
        lines.append(f"  {'  '.join(padded)}  {', '.join(notes)}".rstrip())
    return lines


def print_verdicts(found: Sequence[Result | NotRun], index: Path, t: Translation) -> None:
    """The table of verdicts, how many there are of each, and where the page is."""
    columns = [t(name) for name in ("#", "name", "verdict", "what decided", "s")]
    rows = []
    for each in found:
        if isinstance(each, NotRun):
            rows.append((each.number, each.name, t("failed" if each.failed else "not run"), each.reason, ""))
            continue
        deciding = [row for row in figure_rows(each, t) if row.decides][:_MOST]
        figures = "; ".join(f"{shortened(row.name, 50)} {row.value}" for row in deciding)
        rows.append((each.number, each.name, t(each.verdict), figures, f"{each.seconds:.1f}"))
    print_table(columns, rows, numbers=(columns[0], columns[4]), texts=(columns[3],))
    echo(f"\n{_counts(found, t)}\n{index}")


def _counts(found: Sequence[Result | NotRun], t: Translation) -> str:
    """`"44 experiments: holds 30, holds in part 10, …"`."""
    names = [each.verdict if isinstance(each, Result) else "failed" if each.failed else "not run" for each in found]
    counts = Counter(names)
    parts = [f"{t(name)} {counts[name]}" for name in (*Verdict, "not run", "failed") if counts[name]]
    return f"{t('{} experiments').replace('{}', str(len(found)))}: {', '.join(parts)}"


def write_index(found: Sequence[Result | NotRun], folder: Path, t: Translation) -> Path:
    """Write the page of all results."""
    from vertebra.lab.page import write_page

    return write_page(folder / "index.html", found, t)


def how_to_go_on(plan: Run, found: Sequence[Result | NotRun], folder: Path) -> str:
    """What to say where Ctrl-C came: how much is done, and what the same command does."""
    done = f"{len(found)} of {counted(len(plan.jobs), 'experiment')} {'is' if len(found) == 1 else 'are'} done"
    if not found:
        return "Nothing was finished." if len(plan.jobs) > 1 else ""
    if all(job.is_kept for job in plan.jobs):
        return f"{done}, kept and shown in {folder / 'index.html'}. The same command goes on from there."
    return f"{done} and shown in {folder / 'index.html'}; with --data or --model none is kept."
