"""`vertebra train`: a folder of labelled photos → a classifier with its report."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.cli._options import AllowUnseen, Bits, Ignore, ImageRoot, LabelColumn, PathColumn, SplitColumn
from vertebra.cli._ray_option import OptionalAddress
from vertebra.errors import UsageError, VertebraError, printable
from vertebra.units import counted

if TYPE_CHECKING:
    from vertebra.train import Classifier

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=OptionalAddress)
def train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Class folders, a table, shards or Parquet, here or on s3://, or a name."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A new folder for the run; without it, one below runs/.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A network that `vertebra models` lists.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Published weights to start from, or a weight file.")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="probe, finetune or scratch.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="A published recipe, such as resnet.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the training photos.")] = None,
    lr: Annotated[str | None, typer.Option(metavar="RATE|auto", help="Learning rate; auto: by a range test.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Photos in a step.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time budget of the whole run: 45s, 20m, 1h30m.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of splits, folds and everything random.")] = None,
    precision: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Target precision, from 0 to 1; below its threshold an answer is “unsure”."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; may be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings; flags override them.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Resume a run that was stopped.")] = None,
    ignore: Ignore = None,
    allow_unseen: AllowUnseen = False,
    bits: Bits = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    image_root: ImageRoot = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]", help="Compute features on a Ray cluster: here (none given), auto, HOST:PORT."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse data with problems; exit 1 where the precision is not reached.")
    ] = False,
) -> None:
    """Train a classifier, measure it on held-out photos, and export it."""
    given = dict(locals())
    settings = {
        name: value
        for name, value in given.items()
        if name not in ("out", "set_", "config", "resume") and value is not None and value is not False and value != []
    }
    if lr is not None:
        settings["lr"] = _parse_value(lr)
    for entry in set_ or []:
        name, equals, value = entry.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, got {entry!r}. For example: --set ema=0.999")
        name, parsed = name.strip(), _parse_value(value.strip())
        if name == "out":
            raise UsageError(f"out is not a setting. Give --out {value.strip()}.")
        if name in settings and settings[name] != parsed:
            raise UsageError(f"{name} is given twice: {settings[name]!r}, and --set {entry}. Leave one of them out.")
        settings[name] = parsed
    if config is not None:
        from vertebra.train import read_toml

        kept = read_toml(config)
        if "out" in kept:
            raise UsageError(f"{config} has out, which is not a setting. Remove it, and give --out {kept['out']}.")
        settings = kept | settings
    run(settings, out, resume)


def run(settings: dict[str, Any], out: Path | None, resume: Path | None) -> None:
    """Train with the given settings, or resume a run.

    Raises:
        VertebraError: as `vertebra.train` does.
    """
    from vertebra.progress import progress_bar
    from vertebra.train import PrecisionError
    from vertebra.train import resume as resume_run
    from vertebra.train import train as train_run

    if resume is not None and ("data" in settings or out is not None):
        raise UsageError("--resume takes data and folder from the run. Leave DATA and --out out.")
    if resume is None and "data" not in settings:
        raise UsageError("there is nothing to train on. Give DATA: a folder of class folders, a table or a name.")
    finished = resume is not None and (resume / "metrics.json").is_file()
    quiet: AbstractContextManager[None] = nullcontext()
    if "ray" in settings:
        from vertebra.cluster.ray_connection import ray_output_silenced

        quiet = ray_output_silenced()
    try:
        with quiet, progress_bar("finding the photos") as progress:
            if resume is not None:
                classifier = resume_run(resume, progress=progress, **settings)
            else:
                classifier = train_run(settings.pop("data"), out, progress=progress, **settings)
    except PrecisionError as error:
        _show(error.classifier)
        raise
    except VertebraError as error:
        if getattr(error, "is_reported_by_first", False):
            # Rank 0 reports it; if this process ended first, torchrun would kill rank 0 before it does.
            time.sleep(1.0)
            raise SystemExit(error.exit_code) from error
        raise
    if finished and os.environ.get("RANK", "0") == "0":
        typer.echo(f"{printable(str(resume))} is finished already. Its metrics:")
    _show(classifier)


def _parse_value(text: str) -> Any:
    """Parse a TOML value; anything else is a string."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _show(classifier: Classifier) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # rank 0 prints it
    m = classifier.metrics
    # Names the split, if the data set has one.
    which = f": {m['held_out']}" if m["held_out"].startswith("the ") else ""
    if m["n"]:
        low, high = m["top1_interval"]
        five = f"top-5 {100 * m['top5']:.1f} %, " if m["top5"] is not None else ""
        ece = "not measured" if m["ece"] is None else f"{100 * m['ece']:.1f} %"
        typer.echo(
            f"top-1 {100 * m['top1']:.1f} % ({100 * low:.1f} – {100 * high:.1f}), {five}balanced "
            f"{100 * m['balanced_accuracy']:.1f} %, ECE {ece} on {counted(m['n'], 'held-out photo')}{which}"
        )
    else:
        typer.echo("top-1 not measured: no held-out photos")
    target = m.get("target")
    if target is not None and target["target"] > 0:
        typer.echo(_describe_threshold(target))
    for note in m["notes"]:
        typer.echo(printable(note))
    for name, seconds in m["seconds"].items():
        typer.echo(f"  {seconds:6.1f} s  {name}")
    typer.echo(f"classifier: {classifier.run / 'model.onnx'}")
    typer.echo(f"report:     {classifier.report}")


def _describe_threshold(target: dict[str, Any]) -> str:
    # Runs of earlier versions have no "why".
    why = f"; {target['why']}" if target.get("why") else ""
    if target["threshold"] is None:
        return f"{target['text']}: no threshold, so every photo is answered"
    if target["precision"] is None:
        return (
            f"{target['text']}; “unsure” below {target['threshold']:.3f}, which answers none of the held-out "
            f"photos{why}"
        )
    low, high = target["precision_interval"]
    return (
        f"{target['text']}; “unsure” below {target['threshold']:.3f}: coverage {100 * target['coverage']:.1f} %, "
        f"precision {100 * target['precision']:.1f} % ({100 * low:.1f} – {100 * high:.1f})"
        f"{why}"
    )
