"""`vertebra train`: a folder of labelled photos → a classifier with its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.errors import UsageError

if TYPE_CHECKING:
    from vertebra.train import Classifier

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A folder of class folders, a table (.csv, .parquet), or a name."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="A new folder for what is made.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A network that `vertebra models` lists.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Published weights to start from, or a weight file.")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="probe, finetune or scratch.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Draws the held-out parts.")] = None,
    precision: Annotated[
        float | None, typer.Option(metavar="SHARE", help="How often an answer must be right, else it is “unsure”.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings; flags go before them.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data with problems.")] = False,
) -> None:
    """Train a classifier, measure it on photos that it has not seen, and export it."""
    given = {
        "data": data,
        "model": model,
        "weights": weights,
        "method": method,
        "seed": seed,
        "precision": precision,
        "strict": strict or None,
    }
    run({name: value for name, value in given.items() if value is not None}, out, config)


def run(given: dict[str, Any], out: Path | None, config: Path | None) -> None:
    """Train with the given settings, and those of a file where they are not given.

    Raises:
        VertebraError: as `vertebra.train` does.
    """
    from vertebra.cli._progress import progress_bar
    from vertebra.train import read_toml
    from vertebra.train import train as do

    settings = (read_toml(config) if config is not None else {}) | given
    if "data" not in settings:
        raise UsageError("there is nothing to train on. Give DATA: a folder of class folders, a table or a name.")
    data = settings.pop("data")
    with progress_bar() as tell:
        classifier = do(data, out, tell=tell, **settings)
    _show(classifier)


def _show(classifier: Classifier) -> None:
    m = classifier.metrics
    low, high = m["top1_interval"]
    typer.echo(
        f"top-1 {100 * m['top1']:.1f} % ({100 * low:.1f} – {100 * high:.1f}), top-5 {100 * m['top5']:.1f} %, balanced "
        f"{100 * m['balanced_accuracy']:.1f} %, ECE {100 * m['ece']:.1f} % on {m['n']:,} held-out photos"
    )
    for name, seconds in m["seconds"].items():
        typer.echo(f"  {seconds:6.1f} s  {name}")
    typer.echo(f"classifier: {classifier.run / 'model.onnx'}")
    typer.echo(f"report:     {classifier.report}")
