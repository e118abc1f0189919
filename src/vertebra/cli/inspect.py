"""`vertebra inspect`: the cost of each part of a network, as a table and a summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.cli._options import model_help, options_of
from vertebra.cli._output import bar, console, print_json, print_table, print_task, wrapped
from vertebra.errors import UsageError
from vertebra.units import count, duration, size, three_figures

if TYPE_CHECKING:
    from vertebra.anatomy import Group, Latency, Measurement, Row, TrainingMemory
    from vertebra.graph.profile import Profile

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Depth(StrEnum):
    """What one line of the table is."""

    STAGE = "stage"
    BLOCK = "block"
    LAYER = "layer"


class Executor(StrEnum):
    """What runs the network on this machine."""

    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


@dataclass(frozen=True)
class Settings:
    """What to analyse, and what to show of it."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help=model_help("inspect"))]
    depth: Annotated[Depth, typer.Option(help="What one line stands for.")] = Depth.STAGE
    size: Annotated[
        str | None, typer.Option(metavar="SIDE|HxW", help="Pixels of the input (default: as the weights or the file).")
    ] = None
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images in the batch; all sums are for all.")] = 1
    device: Annotated[
        str, typer.Option(metavar="here|h100|…|none", help="Predict times on this machine, or bounds on another.")
    ] = "here"
    executor: Annotated[Executor, typer.Option(help="What runs it on this machine.")] = Executor.ONNXRUNTIME
    measure: Annotated[bool, typer.Option("--measure", help="Time each operation here too.")] = False
    train: Annotated[bool, typer.Option("--train", help="Forecast the memory of a training step too.")] = False
    json: Annotated[bool, typer.Option("--json", help="Print JSON, always with every operation.")] = False
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page that shows it.")] = None
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw stages and roofline.")] = None


@app.command()
@options_of(Settings)
def inspect(settings: Settings) -> None:
    """Show where a network or an ONNX file spends parameters, MACs and memory traffic, and a network time.

    MACs are multiply-accumulates, half the FLOPs. Memory traffic is the bytes of weights, inputs and results, if
    nothing stays in a cache. The first prediction for this machine calibrates it, once, in about 10 s; other devices
    are a100, h100, laptop, orin, phone, raspberrypi5, rtx4090 and t4.
    """
    if settings.model.lower().endswith(".onnx"):
        _inspect_file(settings)
        return
    from vertebra.anatomy import anatomy as analyse
    from vertebra.anatomy import predict
    from vertebra.files import wrap_write_errors, write_durably

    for option, path in (("--html", settings.html), ("--png", settings.png)):
        if path is not None:
            check_output_path(option, path, f".{option[2:]}")
    anatomy = analyse(settings.model, parse_size(settings.size), settings.batch)
    latency = None
    if settings.device != "none":
        latency = predict(
            anatomy, settings.device, settings.executor if settings.device == "here" else None, print_task
        )
    measurement = anatomy.measure(settings.executor) if settings.measure else None
    training = [anatomy.training_memory(checkpointing=on) for on in (False, True)] if settings.train else []
    if settings.html is not None:
        page = anatomy.to_html(latency=latency, measurement=measurement, training=training)
        with wrap_write_errors(settings.html):
            write_durably(settings.html, page.encode("utf-8", "backslashreplace"))
    if settings.png is not None:
        anatomy.to_png(settings.png, latency=latency, measurement=measurement)
    if settings.json:
        print_json(anatomy.to_dict(latency=latency, measurement=measurement, training=training))
        return
    _print_table(anatomy, settings.depth, latency, measurement)
    typer.echo(wrapped(anatomy.verdict(latency)))
    if measurement is not None:
        typer.echo(_measured(measurement, latency))
    for forecast in training:
        typer.echo(_training(forecast))


def _inspect_file(settings: Settings) -> None:
    """Print the table and the notes of an ONNX file, without torch."""
    from vertebra.graph.file_profile import profile_file
    from vertebra.model_argument import resolve_model

    path = resolve_model(settings.model, "inspect").path
    refused = {"--measure": settings.measure, "--train": settings.train, "--html": settings.html, "--png": settings.png}
    refused["--device"] = settings.device not in ("here", "none")
    for option, given in refused.items():
        if given:
            raise UsageError(f"{option} needs a network, and {path} is a file. Leave it out, or give a network's name.")
    profile = profile_file(path, parse_size(settings.size), settings.batch)
    if settings.json:
        print_json(profile.to_dict())
        return
    _print_table(profile, settings.depth, None, None)
    for note in profile.notes:
        typer.echo(wrapped(note))


def _print_table(anatomy: Profile, depth: Depth, latency: Latency | None, measurement: Measurement | None) -> None:
    """Print a line for each stage, block or layer, with the columns that fit the terminal."""
    typer.echo(f"{anatomy.name}, {anatomy.input}")
    columns = _columns(anatomy, latency, measurement)
    lines: Sequence[Group | Row] = getattr(anatomy, f"{depth}s")
    for rank in (3, 2, 1, 0):
        table = [_cells(column, lines, anatomy) for column in columns]
        if sum(max(map(len, cells)) + 2 for cells in table) - 2 <= console().width:
            break
        columns = [column for column in columns if not column.rank or column.rank < rank]
    numbers = [column.title for column in columns if column.is_number]
    print_table([column.title for column in columns], zip(*(cells[1:] for cells in table), strict=True), numbers)


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """`"224"` → 224, `"192x256"` → (192, 256).

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isascii() and side.isdecimal() and int(side) for side in sides):
        raise UsageError(f"--size is {text!r}; give one side in pixels (224) or height and width (192x256).")
    height, *width = map(int, sides)
    return (height, width[0]) if width else height


def check_output_path(option: str, path: Path, suffix: str) -> None:
    """Create the folder of an output file, and check before the work that the file can be written.

    Raises:
        UsageError: the suffix is wrong, or the path is a folder.
        VertebraError: the folder cannot be created.
    """
    from vertebra.files import make_folder, wrap_write_errors

    if path.suffix.lower() != suffix:
        raise UsageError(f"{option} is {str(path)!r}; its name must end in {suffix}.")
    if path.is_dir():
        raise UsageError(f"{option} is {str(path)!r}, which is a folder. Give the name of a file.")
    with wrap_write_errors(path):
        make_folder(path.parent)


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[Group | Row], str]
    is_number: bool = False
    sums: bool = True  # whether the total row has a value
    rank: int = 0  # columns of the highest rank are dropped first on a narrow terminal


def _cells(column: _Column, lines: Sequence[Group | Row], anatomy: Profile) -> list[str]:
    total = column.cell(anatomy) if column.sums else ""
    return [column.title, *map(column.cell, lines), total if column.title else total and "total"]


def _columns(anatomy: Profile, latency: Latency | None, measurement: Measurement | None) -> list[_Column]:
    """The columns: costs with bars for their shares, then times if known."""

    def with_bar(title: str, value: Callable[[Any], float | None], words: Callable[[float], str]) -> list[_Column]:
        whole = value(anatomy)

        def number(part: Group | Row) -> str:
            found = value(part)
            return "" if found is None else words(found)

        def share(part: Group | Row) -> str:
            return bar((value(part) or 0) / whole) if whole else ""

        return [_Column(title, number, is_number=True), _Column("", share, sums=False, rank=1)]

    columns = [
        _Column("", lambda part: part.name),
        _Column("output", lambda part: _times(part.output_shape[1:])),
        *with_bar("parameters", lambda part: part.parameters, count),
        *with_bar("MACs", lambda part: part.macs, count),
        *with_bar("traffic", lambda part: part.bytes, size),
        _Column("FLOPs/byte", lambda part: three_figures(part.intensity), is_number=True, rank=2),
        _Column("receptive field", lambda part: _times(part.receptive_field or ()), rank=3),
    ]
    if latency is not None:
        title = "at least" if latency.is_bound else "time"
        columns += with_bar(title, lambda part: getattr(latency.time(rows_in(part)), "ms", None), duration)
    if measurement is not None:
        columns += with_bar("measured", lambda part: measurement.ms(rows_in(part)), duration)
    if latency is not None:
        columns.append(_Column("bound by", lambda part: getattr(latency.time(rows_in(part)), "bound_by", "")))
    return columns


def rows_in(part: Group | Row) -> tuple[Row, ...]:
    """The rows of a line of the table."""
    return getattr(part, "rows", (part,))  # type: ignore[arg-type]


def _times(sides: tuple[int, ...]) -> str:
    return "×".join(map(str, sides))


def _measured(measurement: Measurement, latency: Latency | None) -> str:
    low, high = map(duration, measurement.quartiles_ms)
    words = (
        f"Measured here in {measurement.executor} with {measurement.threads} threads: "
        f"{duration(measurement.total_ms)} (quartiles {low}–{high}, {measurement.runs} runs)"
    )
    if latency is not None and not latency.is_bound:
        words += f"; predicted {duration(latency.total_ms)}, {latency.total_ms / measurement.total_ms - 1:+.0%}"
    return wrapped(f"{words}.")


def _training(forecast: TrainingMemory) -> str:
    how = "with checkpointing" if forecast.checkpointing else "a training step"
    return (
        f"{how}: {size(forecast.total)} = {size(forecast.parameters + forecast.buffers)} weights + "
        f"{size(forecast.gradients)} gradients + {size(forecast.optimizer_state)} optimiser ({forecast.optimizer}) + "
        f"{size(forecast.peak_activations)} activations at the peak"
    )
