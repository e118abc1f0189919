"""`vertebra evaluate`: measure a classifier on labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._options import BitsOverCard, Ignore, ImageRoot, LabelColumn, PathColumn, SplitColumn, model_help
from vertebra.cli._output import print_json, require_html_suffix
from vertebra.errors import printable

if TYPE_CHECKING:
    from vertebra.train import Evaluation

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=model_help("evaluate"))],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Labelled photos: class folders, a table, shards, or a name.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON; shares are fractions from 0 to 1.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a report.")] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto (fastest), onnxruntime, mnn or kernels.")] = "auto",
    ignore: Ignore = None,
    allow_unseen: Annotated[
        bool, typer.Option("--allow-unseen", help="Leave out classes that the model does not know.")
    ] = False,
    bits: BitsOverCard = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    image_root: ImageRoot = None,
) -> None:
    """Measure a classifier: accuracy with its uncertainty, calibration, and its confusions.

    Where the data has a split, its test photos are measured.
    """
    from vertebra.progress import progress_bar

    require_html_suffix(html)
    from vertebra.train import evaluate as measure

    with progress_bar("finding the photos", bar=not json) as progress:
        found = measure(
            model,
            data,
            engine=engine,
            ignore=ignore or (),
            allow_unseen=allow_unseen,
            bits=bits,
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
            image_root=image_root,
            progress=progress,
        )
    if json:
        print_json(found.to_dict())
    else:
        _show(found)
    if html is not None:
        found.write(html)
        typer.echo(f"report: {html}", err=json)


def _show(found: Evaluation) -> None:
    m = found.held.metrics
    shares = [
        ("top-1", m.top1, m.top1_interval),
        ("top-5", m.top5, m.top5_interval),
        ("balanced accuracy", m.balanced_accuracy, m.balanced_accuracy_interval),
    ]
    for name, value, interval in shares:
        if value is not None and interval is not None:
            typer.echo(f"{name:18} {100 * value:5.1f} %  ({100 * interval[0]:.1f} – {100 * interval[1]:.1f})")
    error = "not measured: too few photos" if m.ece is None else f"{100 * m.ece:5.1f} %"
    typer.echo(f"{'calibration error':18} {error}")
    if found.threshold is not None:
        answered = found.answered
        share = answered.coverage or 0.0
        of_which = "none"
        if answered.precision is not None and answered.precision_interval is not None:
            low, high = answered.precision_interval
            of_which = f"{100 * answered.precision:.1f} % ({100 * low:.1f} – {100 * high:.1f})"
        typer.echo(f"{'coverage':18} {100 * share:5.1f} %  precision {of_which}; the rest is “unsure”")
    typer.echo(f"{'photos':18} {m.n:5,}")
    for true, predicted, count in m.most_confused(5):
        typer.echo(printable(f"  {true} predicted as {predicted}: {count}"))
    for note in found.notes:
        typer.echo(printable(note))
