"""`vertebra lab`: the claims about these networks, as experiments."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._options import model_help, options_of
from vertebra.cli._output import echo, print_json, print_table, wrapped
from vertebra.progress import progress_bar

if TYPE_CHECKING:
    from vertebra.lab import NotRun, Result

SCHEMA = 1

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


class Device(StrEnum):
    """Where experiments run."""

    CPU = "cpu"
    CUDA = "cuda"


class Language(StrEnum):
    """Of claims and verdicts."""

    EN = "en"
    JA = "ja"


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
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of labelled photos to train on.")] = None
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL[,MODEL…]", help=f"Networks to ask it of. {model_help('lab')}"),
    ] = None
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.CPU
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Of what is random (default: as each says).")] = None
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where pictures, JSON and index.html go.")] = Path("lab")
    lang: Annotated[Language, typer.Option(help="Language of claims and verdicts.")] = Language.EN
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again where a result is kept.")] = False
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the experiments: number, name, family, what decides them, and about how long they take."""
    from vertebra.lab import entries

    rows = [(entry, entry.load().CLAIM) for entry in entries()]
    if json:
        print_json([{"number": e.number, "name": e.name, "claim": c.claim, "seconds": c.seconds} for e, c in rows])
        return
    cells = [(e.number, e.name, c.family, ", ".join(c.decided_by), f"{c.seconds:.0f}", c.claim) for e, c in rows]
    print_table(("#", "name", "family", "decided by", "s", "claim"), cells, numbers=("#", "s"))


@app.command("run")
@options_of(RunSettings)
def run_(settings: RunSettings) -> None:
    """Run experiments, and write the picture and the figures of each."""
    from vertebra.lab import Result, run_all

    results: list[Result | NotRun] = []
    with progress_bar("experiments") as progress:
        for result in run_all(
            settings.names,
            quick=settings.quick,
            data=settings.data,
            device=settings.device,
            seeds=settings.seeds,
            models=settings.model or (),
            fresh=settings.fresh,
            progress=progress,
        ):
            results.append(result)
            if isinstance(result, Result):
                paths = result.save(settings.out, settings.lang)
                if not settings.json:
                    _print_result(result, paths[-1])
    if settings.json:
        print_json({"schema": SCHEMA, "results": [r.to_dict() for r in results if isinstance(r, Result)]})


def _print_result(result: Result, picture: Path) -> None:
    echo(wrapped(f"{result.number}. {result.claim.claim}"))
    echo(wrapped(f"   {result.verdict}: {result.reason}"))
    for name in result.decided_by:
        echo(f"   {name}: {result.figures[name].value:g} {result.figures[name].unit}")
    echo(f"   {picture} ({result.seconds:.1f} s)")
