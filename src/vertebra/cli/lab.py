"""`vertebra lab`: the claims about these networks, as experiments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._options import model_help, options_of
from vertebra.cli._output import echo, line_width, note, print_json, print_table
from vertebra.errors import UsageError, VertebraError, require_packages
from vertebra.files import check_writable, make_folder, wrap_write_errors
from vertebra.progress import progress_bar
from vertebra.units import counted

if TYPE_CHECKING:
    from vertebra.lab.result import Result
    from vertebra.lab.runs import NotRun, Run
    from vertebra.lab.translation import Translation

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
_TOLD_FROM = 10.0  # seconds: what takes longer is told before


class Device(StrEnum):
    """Where experiments run."""

    CPU = "cpu"
    CUDA = "cuda"


class Language(StrEnum):
    """Of claims, verdicts, pictures and the page."""

    EN = "en"
    JA = "ja"


Lang = Annotated[Language, typer.Option(help="Language of claims, verdicts, pictures and the page.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def lab() -> None:
    """Test what is claimed of these networks: each claim is an experiment with a verdict that can go either way."""


@dataclass(frozen=True)
class RunSettings:
    """What to run, and how."""

    names: Annotated[list[str], typer.Argument(metavar="NAME|NUMBER…|all", help="See: vertebra lab list")]
    quick: Annotated[bool, typer.Option("--quick", help="Count only; train next to nothing. Under 90 s in all.")] = (
        False
    )
    data: Annotated[str | None, typer.Option(metavar="DIR|TABLE", help="Labelled photos to train on.")] = None
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL[,MODEL…]", help=f"Networks to ask it of. {model_help('lab')}"),
    ] = None
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.CPU
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Of what is random (default: as each says).")] = None
    out: Annotated[str, typer.Option(metavar="DIR", help="Where pictures, JSON and index.html go.")] = "lab"
    lang: Lang = Language.EN
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again where a result is kept.")] = False
    json: Json = False


@app.command("list")
def list_(json: Json = False, lang: Lang = Language.EN) -> None:
    """List the experiments: number, name, family, what decides them, and about how long they take."""
    _require_packages()
    from vertebra.lab.experiment import takes_networks
    from vertebra.lab.registry import entries
    from vertebra.lab.translation import Translation

    t = Translation(lang)
    rows = [(entry, entry.load().CLAIM) for entry in entries()]
    if json:
        found = [
            {
                "number": entry.number,
                "name": entry.name,
                "family": claim.family,
                "stated_by": claim.stated_by,
                "claim": claim.claim,
                "claim_ja": claim.claim_ja,
                "decided_by": list(claim.decided_by),
                "seconds": claim.seconds,
                "quick": claim.is_quick,
                "takes_data": claim.least_data is not None,
                "least_data": claim.least_data and dict(zip(("classes", "photos"), claim.least_data, strict=True)),
                "takes_models": takes_networks(entry.load()) is not None,
            }
            for entry, claim in rows
        ]
        print_json(found)
        return
    columns = [t(name) for name in ("#", "name", "family", "decided by", "s", "claim")]
    cells = [
        (
            *(entry.number, entry.name, t(claim.family), ", ".join(t(kind) for kind in claim.decided_by)),
            *(f"{claim.seconds:.0f}", claim.claim_ja if lang is Language.JA else claim.claim),
        )
        for entry, claim in rows
    ]
    print_table(columns, cells, numbers=(columns[0], columns[4]), texts=(columns[5],))


@app.command("run")
@options_of(RunSettings)
def run_(settings: RunSettings) -> None:
    """Run experiments, and write the picture and the figures of each; of several also a page of all."""
    from vertebra.lab.registry import find

    find(settings.names)  # what is wrong with the call is told before torch is loaded
    out = _out_folder(settings.out)
    _require_packages()
    from vertebra.lab import terminal_text
    from vertebra.lab.job import Options
    from vertebra.lab.page import is_page, write_page
    from vertebra.lab.runs import Run
    from vertebra.lab.translation import Translation

    options = Options(settings.quick, settings.data, settings.device, settings.seeds, settings.fresh)
    plan = Run(settings.names, options, settings.model or ())
    page = out / "index.html"
    if len(plan.jobs) > 1 and os.path.lexists(page) and not is_page(page):
        raise UsageError(f"{page} is no page of vertebra lab, and would be overwritten. Give another --out.")
    with wrap_write_errors(out):
        make_folder(out)
        check_writable(page)
    if plan.seconds >= _TOLD_FROM or plan.without or plan.with_data:
        note(terminal_text.what_will_run(plan))
    t = Translation(settings.lang)
    several = len(plan.jobs) > 1
    found: list[Result | NotRun] = []
    try:
        _run(plan, settings, out, found, t)
    except KeyboardInterrupt as stop:
        if found and several:
            write_page(page, found, t)
        stop.add_note(terminal_text.how_to_go_on(plan, found, page))
        raise
    if several:
        write_page(page, found, t)
    if settings.json:
        print_json(terminal_text.document(found))
    elif several:
        columns = [t(name) for name in ("#", "name", "verdict", "what decided", "s")]
        rows = terminal_text.verdict_rows(found, t)
        print_table(columns, rows, numbers=(columns[0], columns[4]), texts=(columns[3],))
        echo(f"\n{terminal_text.count_of_verdicts(found, t)}\n{page}")
    if failed := [each.name for each in terminal_text.not_run(found) if each.failed]:
        raise VertebraError(f"{counted(len(failed), 'experiment')} of {len(plan.jobs)} failed: {', '.join(failed)}.")


def _run(plan: Run, settings: RunSettings, out: Path, found: list[Result | NotRun], t: Translation) -> None:
    """Run what is planned, add each result to `found`, save it and print it."""
    from vertebra.lab.result import Result
    from vertebra.lab.terminal_text import block

    alone = len(plan.jobs) == 1
    with progress_bar("experiments") as progress:
        for result in plan.results(progress):
            picture = result.save(out, settings.lang)[1] if isinstance(result, Result) else None
            found.append(result)
            if not settings.json:
                echo(block(result, picture, t, line_width(), alone=alone) + ("" if alone else "\n"))


def _out_folder(text: str) -> Path:
    """The folder to write to, which need not exist; a `UsageError` if it cannot, since it or a parent is a file."""
    if not text:
        raise UsageError("--out is empty, as an unset variable would be. Give a folder.")
    for place in (Path(text), *Path(text).parents):
        if os.path.isfile(place):  # noqa: PTH113 - that of `Path` may raise
            what = "which is a file" if place == Path(text) else f"and {place} is a file"
            raise UsageError(f"--out is '{text}', {what}. Give a folder.")
    return Path(text)


def _require_packages() -> None:
    require_packages("train", "vertebra lab", "torch", "sklearn", "matplotlib")
