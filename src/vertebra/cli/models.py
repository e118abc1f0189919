"""`vertebra models`: the networks in one table."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.cli._output import print_json, print_table
from vertebra.cli.weights import is_here
from vertebra.errors import suggest
from vertebra.units import MEGA, count, three_figures

if TYPE_CHECKING:
    from vertebra.model_table import PublishedNetwork

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Sort(StrEnum):
    """Columns to sort by; the values are keys of a row."""

    NAME = "name"
    FAMILY = "family"
    PARAMETERS = "parameters"
    GMACS = "gmacs"
    MB = "mb"
    TOP1 = "top1"


@app.command()
def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern such as 'resne?t*'.")
    ] = None,
    family: Annotated[str | None, typer.Option(metavar="NAME", help="One family, such as resnet.")] = None,
    max_params: Annotated[float | None, typer.Option(metavar="M", help="Limit of parameters, in millions.")] = None,
    max_gmacs: Annotated[
        float | None, typer.Option(metavar="G", help="Limit of 10⁹ multiply-accumulates per image.")
    ] = None,
    max_mb: Annotated[float | None, typer.Option(metavar="MB", help="Size limit of the weight file.")] = None,
    min_top1: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Lowest top-1 accuracy on ImageNet.")
    ] = None,
    pretrained_here: Annotated[
        bool, typer.Option("--pretrained-here", help="Only those with weights on this machine.")
    ] = False,
    sort: Annotated[Sort, typer.Option(case_sensitive=False, help="The column to sort by.")] = Sort.NAME,
    reverse: Annotated[bool, typer.Option("--reverse", help="The largest first; of names, the last.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks with their size, cost and accuracy.

    GMACs (10⁹ multiply-accumulates, half the FLOPs), MB and the smallest image side belong to the default weights;
    top-1 is the best that any published weights of the network reach on ImageNet, and the last column names them.
    """
    from vertebra.model_table import check_family, networks

    if family is not None:
        check_family(family)
    found = [n for n in networks().values() if fnmatch(n.name, _as_pattern(pattern)) and family in (None, n.family)]
    if pretrained_here:
        found = [network for network in found if any(map(is_here, network.weights))]
    rows = sorted(map(_row, found), key=lambda row: row["name"])
    limits = {"parameters": None if max_params is None else max_params * MEGA, "gmacs": max_gmacs, "mb": max_mb}
    for column, limit in limits.items():
        rows = [row for row in rows if limit is None or row[column] <= limit]
    rows = [row for row in rows if min_top1 is None or (row["top1"] or 0.0) >= min_top1]
    rows.sort(key=lambda row: row[sort.value], reverse=reverse)  # stable: equal rows stay sorted by name
    if json:
        print_json(rows)
        return
    if not rows:
        hint = suggest(pattern, networks()) if pattern else ""
        typer.echo(f"No network passes these filters. {hint}".rstrip(), err=True)
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


def _row(network: PublishedNetwork) -> dict[str, Any]:
    default, best = network.default, network.best
    return {
        "name": network.name,
        "family": network.family,
        "parameters": default.parameters,
        "gmacs": default.gmacs,
        "mb": default.mb,
        "min_size": default.min_size,
        "top1": best.top1,
        "weights": best.name,
    }


def _as_pattern(text: str | None) -> str:
    """`resnet` → `*resnet*`; text with a wildcard is a pattern already."""
    if text is not None and any(character in text for character in "*?["):
        return text
    return f"*{(text or '').lower()}*"
