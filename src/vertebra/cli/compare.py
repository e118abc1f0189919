"""`vertebra compare`: networks side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._options import model_help, options_of
from vertebra.cli._output import print_json, print_table, print_task
from vertebra.cli.inspect import Executor, check_output_path, parse_size
from vertebra.units import count, duration, size

if TYPE_CHECKING:
    from vertebra.anatomy import Comparison, Group
    from vertebra.anatomy.comparison import Entry

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Settings:
    """The networks, the input and the device."""

    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL…", help=f"Two or more. {model_help('compare')}")]
    size: Annotated[
        str | None, typer.Option(metavar="SIDE|HxW", help="Pixels of the input (default: as the weights).")
    ] = None
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images in the batch.")] = 1
    device: Annotated[
        str, typer.Option(metavar="here|h100|…|none", help="Predict times on this machine, or bounds on another.")
    ] = "here"
    executor: Annotated[Executor, typer.Option(help="What runs them on this machine.")] = Executor.ONNXRUNTIME
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw accuracy against cost.")] = None


@app.command()
@options_of(Settings)
def compare(settings: Settings) -> None:
    """Compare networks: cost, accuracy, and which are Pareto-optimal.

    Pareto-optimal is a network where none of the others is as cheap and more accurate. Costs are then split by
    resolution: 1/8 is where the feature maps have an eighth of the input's side.
    """
    from vertebra import compare as compare_networks

    if settings.png is not None:
        check_output_path("--png", settings.png, ".png")
    device = None if settings.device == "none" else settings.device
    comparison = compare_networks(
        tuple(settings.models),
        parse_size(settings.size),
        settings.batch,
        device,
        settings.executor if device == "here" else None,
        print_task,
    )
    if settings.png is not None:
        comparison.to_png(settings.png)
    if settings.json:
        print_json(comparison.to_dict())
        return
    _print_totals(comparison)
    for title, cell in _by_level(comparison):
        typer.echo(f"\n{title}")
        rows = []
        for entry in comparison.entries:
            groups = [entry.levels.get(level) for level in comparison.levels]
            rows.append([entry.anatomy.name, *("" if group is None else cell(entry, group) for group in groups)])
        print_table(["by resolution", *comparison.levels], rows, numbers=comparison.levels)
    if settings.png is not None:
        typer.echo(f"\nwritten: {settings.png}", err=True)


def _print_totals(comparison: Comparison) -> None:
    timed = comparison.entries[0].latency is not None
    rows = []
    for entry in comparison.entries:
        anatomy, latency, known = entry.anatomy, entry.latency, entry.published
        rows.append(
            [
                anatomy.name,
                "×".join(map(str, anatomy.input_shapes[0][2:])),
                count(anatomy.parameters),
                count(anatomy.macs),
                size(anatomy.bytes),
                size(anatomy.peak_activation_bytes),
                *([duration(latency.total_ms)] if latency is not None else []),
                f"{known.top1:.2f}" if known else "",
                "yes" if entry in comparison.front else "",
                known.weights if known else "",
            ]
        )
    time = ["at least" if comparison.cost_label.startswith("at least") else "time"] if timed else []
    numbers = ["parameters", "MACs", "traffic", "activations", *time, "top-1"]
    print_table(["", "pixels", *numbers, "Pareto-optimal", "weights"], rows, numbers)


Cell = Callable[["Entry", "Group"], str]


def _by_level(comparison: Comparison) -> list[tuple[str, Cell]]:
    def parameters(entry: Entry, group: Group) -> str:
        return f"{count(group.parameters)} {_percent(group.parameters, entry.anatomy.parameters)}"

    def macs(entry: Entry, group: Group) -> str:
        return f"{count(group.macs)} {_percent(group.macs, entry.anatomy.macs)}"

    def time(entry: Entry, group: Group) -> str:
        found = entry.latency.time(group.rows) if entry.latency is not None else None
        if found is None or entry.latency is None:
            return ""
        return f"{duration(found.ms)} {_percent(found.ms, entry.latency.total_ms)}"

    tables: list[tuple[str, Cell]] = [("Parameters", parameters), ("MACs", macs)]
    if comparison.entries[0].latency is not None:
        tables.append(("Time", time))
    return tables


def _percent(part: float, whole: float) -> str:
    return f"{part / whole if whole else 0:4.0%}"
