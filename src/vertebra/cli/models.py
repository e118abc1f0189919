"""`vertebra models`: the networks in one table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from vertebra.cli._output import print_json, print_table
from vertebra.errors import nearest
from vertebra.units import MEGA, count, three_figures

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Sort(StrEnum):
    """Columns to sort by, and the fields of a row that they stand for."""

    NAME = "name"
    FAMILY = "family"
    PARAMETERS = "parameters"
    GMACS = "gmacs"
    MB = "mb"
    TOP1 = "top1"


@dataclass(frozen=True)
class Filters:
    """Which networks to list; None lets all pass."""

    pattern: str | None = None
    family: str | None = None
    max_parameters: float | None = None
    max_gmacs: float | None = None
    max_mb: float | None = None
    min_top1: float | None = None
    pretrained_here: bool = False


@app.command()
def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern such as 'resne?t*'.")
    ] = None,
    family: Annotated[str | None, typer.Option(metavar="NAME", help="One family, such as resnet.")] = None,
    max_params: Annotated[float | None, typer.Option(metavar="M", help="At most that many million parameters.")] = None,
    max_gmacs: Annotated[
        float | None, typer.Option(metavar="G", help="At most that many 10⁹ multiply-accumulates an image.")
    ] = None,
    max_mb: Annotated[float | None, typer.Option(metavar="MB", help="At most that large a weight file.")] = None,
    min_top1: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="At least that top-1 accuracy on ImageNet.")
    ] = None,
    pretrained_here: Annotated[
        bool, typer.Option("--pretrained-here", help="Only those with weights on this machine.")
    ] = False,
    sort: Annotated[Sort, typer.Option(help="The column to sort by.")] = Sort.NAME,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks with their size, cost and accuracy.

    GMACs (10⁹ multiply-accumulates, half the FLOPs), MB and the smallest image side belong to the default weights;
    top-1 is the best that any published weights of the network reach on ImageNet, and the last column names them.
    """
    filters = Filters(
        pattern=pattern,
        family=family,
        max_parameters=None if max_params is None else max_params * MEGA,
        max_gmacs=max_gmacs,
        max_mb=max_mb,
        min_top1=min_top1,
        pretrained_here=pretrained_here,
    )
    rows = sorted(list_rows(filters), key=lambda row: (row[sort.value], row["name"]))
    if json:
        print_json(rows)
        return
    if not rows:
        typer.echo(f"No network passes these filters. {_hint(pattern)}".rstrip(), err=True)
        return
    columns = ("name", "family", "parameters", "GMACs", "MB", "smallest", "top-1", "best weights")
    cells = [
        (
            row["name"],
            row["family"],
            count(row["parameters"]),
            three_figures(row["gmacs"]),
            three_figures(row["mb"]),
            str(row["min_size"]),
            f"{row['top1']:.2f}",
            row["weights"],
        )
        for row in rows
    ]
    print_table(columns, cells, numbers=("parameters", "GMACs", "MB", "smallest", "top-1"))


def list_rows(filters: Filters) -> list[dict[str, Any]]:
    """One dict for each network that passes: name, family, parameters, gmacs, mb, min_size, top1, weights.

    Raises:
        UsageError: there is no such family.
        MissingExtraError: torch is not installed.
    """
    from vertebra import list_models

    names = list_models(
        include=_as_pattern(filters.pattern),
        family=filters.family,
        max_params=filters.max_parameters,
        max_gmacs=filters.max_gmacs,
        min_top1=filters.min_top1,
    )
    rows = [_row(name) for name in names if not filters.pretrained_here or _is_here(name)]
    return [row for row in rows if filters.max_mb is None or row["mb"] <= filters.max_mb]


def _row(name: str) -> dict[str, Any]:
    from vertebra.cli.weights import megabytes
    from vertebra.models import best_top1, get_family, get_model_weights

    enum = get_model_weights(name)
    meta = enum["DEFAULT"].meta
    top1 = best_top1(enum)
    best = next(member for member in enum if member.meta["_metrics"]["ImageNet-1K"]["acc@1"] == top1)
    return {
        "name": name,
        "family": get_family(name),
        "parameters": meta["num_params"],
        "gmacs": meta["_ops"],
        "mb": megabytes(enum["DEFAULT"]),
        "min_size": max(meta["min_size"]),
        "top1": top1,
        "weights": repr(best),
    }


def _is_here(name: str) -> bool:
    from vertebra.cli.weights import is_here
    from vertebra.models import get_model_weights

    return any(is_here(member) for member in get_model_weights(name))


def _as_pattern(text: str | None) -> str | None:
    """`resnet` means any name with "resnet" in it; what has a wildcard is taken as it is."""
    if text is None or any(character in text for character in "*?["):
        return text
    return f"*{text.lower()}*"


def _hint(pattern: str | None) -> str:
    from vertebra import list_models

    return nearest(pattern, list_models()) if pattern else ""
