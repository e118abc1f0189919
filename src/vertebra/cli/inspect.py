"""`vertebra inspect`: a network taken apart, as a table and a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._output import bar, print_json, print_table, wrapped
from vertebra.errors import UsageError
from vertebra.units import count, size, three_figures

if TYPE_CHECKING:
    from vertebra.anatomy import Anatomy, Group, Row, TrainingMemory

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Depth(StrEnum):
    """What one line of the table stands for."""

    STAGE = "stage"
    BLOCK = "block"
    LAYER = "layer"


@dataclass(frozen=True)
class Settings:
    """What to take apart, and what to show of it."""

    model: str
    depth: Depth = Depth.STAGE
    size: str | None = None
    batch: int = 1
    train: bool = False
    json: bool = False


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="NAME", help="A network, as `vertebra models` lists them.")],
    depth: Annotated[Depth, typer.Option(help="What one line stands for.")] = Settings.depth,
    size: Annotated[
        str | None, typer.Option(metavar="SIDE|HxW", help="Pixels of the input; the weights' own size without.")
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time; all sums are for all.")] = (
        Settings.batch
    ),
    train: Annotated[bool, typer.Option("--train", help="Forecast the memory of a training step too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, always with every operation.")] = False,
) -> None:
    """Show where a network spends parameters, MACs and bytes.

    MACs are multiply-accumulates, half the FLOPs. Bytes moved are those of weights, inputs and results, if nothing
    stays in a cache.
    """
    run(Settings(model, depth, size, batch, train, json))


def run(settings: Settings) -> None:
    """Take it apart and print it.

    Raises:
        UsageError: an unknown network, or an input that it does not take.
    """
    from vertebra.anatomy import take_apart

    anatomy = take_apart(settings.model, parse_size(settings.size), settings.batch)
    training = [anatomy.training_memory(checkpointing=on) for on in (False, True)] if settings.train else []
    if settings.json:
        print_json(anatomy.to_dict(training))
        return
    typer.echo(f"{anatomy.name}, {anatomy.input}")
    columns = ("", "output", "parameters", "", "MACs", "", "moved", "", "ops/B", "sees")
    print_table(columns, _lines(anatomy, settings.depth), numbers=("parameters", "MACs", "moved", "ops/B"))
    typer.echo(wrapped(anatomy.verdict()))
    for forecast in training:
        typer.echo(_training(forecast))


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


def parts(anatomy: Anatomy, depth: Depth) -> tuple[Group, ...] | tuple[Row, ...]:
    """The lines of the table."""
    if depth is Depth.LAYER:
        return anatomy.layers
    return anatomy.stages if depth is Depth.STAGE else anatomy.blocks


def _lines(anatomy: Anatomy, depth: Depth) -> Iterator[tuple[str, ...]]:
    whole = anatomy.parameters, anatomy.macs, anatomy.bytes
    for part in (*parts(anatomy, depth), anatomy):
        shares = [value / total if total else 0.0 for value, total in zip(_costs(part), whole, strict=True)]
        bars = [bar(share) for share in shares] if part is not anatomy else [""] * 3
        yield (
            part.name if part is not anatomy else "total",
            "×".join(map(str, part.output_shape[1:])),
            count(part.parameters),
            bars[0],
            count(part.macs),
            bars[1],
            size(part.bytes),
            bars[2],
            three_figures(part.intensity),
            "×".join(map(str, part.receptive_field or ())),
        )


def _costs(part: Group | Row) -> tuple[int, int, int]:
    return part.parameters, part.macs, part.bytes


def _training(forecast: TrainingMemory) -> str:
    how = "with checkpointing" if forecast.checkpointing else "a training step"
    return (
        f"{how}: {size(forecast.total)} = {size(forecast.parameters + forecast.buffers)} weights + "
        f"{size(forecast.gradients)} gradients + {size(forecast.optimizer_state)} optimiser ({forecast.optimizer}) + "
        f"{size(forecast.peak_activations)} activations at the peak"
    )
