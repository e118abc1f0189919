"""`vertebra bench`: how fast networks run here, with each backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._options import model_help, options_of
from vertebra.cli._output import print_json, print_table
from vertebra.errors import UsageError, VertebraError
from vertebra.progress import progress_bar

if TYPE_CHECKING:
    from vertebra.bench import Timing

app = typer.Typer(rich_markup_mode=None)


@dataclass(frozen=True)
class Settings:
    """The networks, the backends and how they are timed."""

    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help=model_help("bench"))] = None
    batch: Annotated[str, typer.Option(metavar="N,…", help="Images per call.")] = "1,16"
    backends: Annotated[str, typer.Option(metavar="NAME,…", help="Only these (all that are installed).")] = ""
    turns: Annotated[int, typer.Option(metavar="N", min=1, help="How often each is measured.")] = 3
    seconds: Annotated[float, typer.Option(metavar="S", help="Seconds of measuring in each turn.")] = 0.5
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Threads of each backend (all that may run).")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with one object a measurement.")] = False


@app.command()
@options_of(Settings)
def bench(settings: Settings) -> None:
    """Time networks with Vertebra's choice of engine beside each backend with default settings.

    Every backend turns the same pixels into probabilities, in turns with the others, each in a process of its own.
    Names run with random weights: speed does not depend on them.
    """
    from vertebra.bench import compare, find_backends

    try:
        batches = [int(value) for value in settings.batch.split(",")]
    except ValueError:
        raise UsageError(
            f"--batch is {settings.batch!r}; it must be whole numbers with commas, such as 1,16."
        ) from None
    names = [name.strip() for name in settings.backends.split(",")] if settings.backends else None
    backends = None if names is None else find_backends(names)
    with progress_bar("preparing") as advance:
        found = list(
            compare(
                settings.models or ["efficientnet_lite0"],
                backends,
                batches=batches,
                turns=settings.turns,
                seconds=settings.seconds,
                threads=settings.threads,
                progress=advance,
            )
        )
    if settings.json:
        print_json([timing.as_dict() for timing in found])
    else:
        _print_timings(found)
    if all(timing.error for timing in found):
        raise VertebraError("nothing could be measured.")


def _print_timings(found: list[Timing]) -> None:
    rows = []
    for timing in found:
        peers = [t for t in found if (t.network, t.batch) == (timing.network, timing.batch) and t.median_ms]
        if timing.median_ms is None:
            rows.append([timing.network, str(timing.batch), timing.backend, "", "", "", timing.error or ""])
            continue
        best = min(peer.median_ms or 0 for peer in peers)
        rows.append(
            [
                timing.network,
                str(timing.batch),
                timing.backend,
                f"{timing.median_ms:.2f}",
                f"{timing.min_ms:.2f}–{timing.max_ms:.2f}",
                f"{timing.median_ms / best:.2f}×",
                timing.detail,
            ]
        )
    columns = ("network", "batch", "backend", "ms/image", "spread", "to best", "")
    print_table(columns, rows, numbers=("batch", "ms/image", "spread", "to best"))
