"""`vertebra choose`: the networks that fit a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._options import options_of
from vertebra.cli._output import print_json, print_table, print_task, wrapped
from vertebra.cli.inspect import Executor
from vertebra.progress import progress_bar
from vertebra.units import count, duration, three_figures

if TYPE_CHECKING:
    from vertebra.anatomy import Candidate, Choice

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Settings:
    """The budget, and the device it is for."""

    max_ms: Annotated[float | None, typer.Option(metavar="MS", help="Time limit for one image.")] = None
    max_mb: Annotated[float | None, typer.Option(metavar="MB", help="Size limit of the weight file.")] = None
    min_top1: Annotated[float | None, typer.Option(metavar="PERCENT", help="Lowest top-1 accuracy on ImageNet.")] = None
    max_params: Annotated[float | None, typer.Option(metavar="M", help="Limit of parameters, in millions.")] = None
    device: Annotated[
        str, typer.Option(metavar="here|h100|…|none", help="The device of the time limit; none: no times.")
    ] = "here"
    executor: Annotated[Executor, typer.Option(help="What runs it on this machine.")] = Executor.ONNXRUNTIME
    size: Annotated[
        int | None,
        typer.Option(metavar="SIDE", min=1, help="Pixels of the input (default: as the weights)."),
    ] = None
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Time at most this many that fit.")] = 5
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@app.command()
@options_of(Settings)
def choose(settings: Settings) -> None:
    """Find the networks that fit a budget, and why others do not.

    Best first, by the best published accuracy on ImageNet. On this machine the finalists are timed, with random
    weights, which take as long as real ones; for other devices there are lower bounds of the time.
    """
    from vertebra.anatomy import Limits
    from vertebra.anatomy import choose as choose_networks

    with progress_bar("choosing", bar=False) as count_networks:

        def progress(task: str, done: int = 0, total: int | None = None) -> None:
            print_task(task) if total is None else count_networks(task, done, total)

        choice = choose_networks(
            Limits(settings.max_ms, settings.max_mb, settings.min_top1, settings.max_params),
            settings.device,
            settings.executor if settings.device == "here" else None,
            settings.size,
            finalists=settings.top,
            progress=progress,
        )
    if settings.json:
        print_json(choice.to_dict())
    else:
        _print_choice(choice, settings)
    if not choice.fits:
        raise typer.Exit(1)


def _print_choice(choice: Choice, settings: Settings) -> None:
    measured = any(candidate.measured_ms is not None for candidate in choice.fits)
    timed = settings.device != "none"
    columns = ["top-1", "parameters", "MB", "pixels"]
    columns += ["at least" if choice.is_bound else "predicted"] if timed else []
    columns += ["measured"] if measured else []
    if choice.fits:
        rows = [_row(candidate, timed, measured) for candidate in choice.fits]
        print_table(["fits", *columns, "weights"], rows, numbers=columns)
        typer.echo(f"Times on {choice.device}, one image at a time." if timed else "By size and accuracy alone.")
    else:
        typer.echo(wrapped(f"Nothing fits. {choice.tightest}"))
    if settings.size is not None:
        typer.echo(f"Accuracies are those at the published sizes, not at {settings.size} pixels.")
    if choice.out:
        typer.echo("")
        reasons = [(candidate.published.name, reason) for candidate, reason in choice.out]
        print_table(["excluded", "reason"], reasons)


def _row(candidate: Candidate, timed: bool, measured: bool) -> list[str]:
    known = candidate.published
    times = [candidate.predicted_ms] * timed + [candidate.measured_ms] * measured
    return [
        known.name,
        f"{known.top1:.2f}",
        count(known.parameters),
        three_figures(known.mb),
        str(candidate.size),
        *("" if ms is None else duration(ms) for ms in times),
        known.weights,
    ]
