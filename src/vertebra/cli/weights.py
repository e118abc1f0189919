"""`vertebra weights`: the published weight files and the cache that they lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.cli._output import print_json, print_table
from vertebra.errors import VertebraError, WeightsError
from vertebra.units import three_figures

if TYPE_CHECKING:
    from vertebra.model_table import PublishedWeights

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Names = Annotated[
    list[str], typer.Argument(metavar="NAME", help="resnet50 (its default) or ResNet50_Weights.IMAGENET1K_V1.")
]
MaybeNames = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Networks or weights; all where none is named.")
]


@app.callback()
def weights() -> None:
    """List, fetch, verify and find pretrained weights.

    Files lie in torchvision's cache, so that neither library downloads what the other has. VERTEBRA_WEIGHTS_MIRROR
    names a folder or a base URL to take them from, and VERTEBRA_OFFLINE=1 forbids any download.
    """


@app.command("list")
def list_(names: MaybeNames = None, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what is published and what is here."""
    rows = [_row(member) for member in _members(names)]
    if json:
        print_json(rows)
        return
    cells = [(row["name"], three_figures(row["mb"]), "yes" if row["here"] else "-", row["origin"]) for row in rows]
    print_table(("weights", "MB", "here", "from"), cells, numbers=("MB",))


@app.command()
def fetch(names: Names) -> None:
    """Download what is not here yet, or is here and damaged; prints the paths."""
    from vertebra import weight_files

    for member in _members(names):
        typer.echo(str(weight_files.fetch_verified(member.url)))


@app.command()
def verify(names: MaybeNames = None) -> None:
    """Check the SHA-256 of files on this machine."""
    from vertebra import weight_files

    members = _members(names)
    if not names:
        members = [member for member in members if is_here(member)]
        if not members:
            typer.echo(f"There are no weights in {weight_files.hub_dir()}.", err=True)
    failures = 0
    for member in members:
        try:
            path = weight_files.cached_path(member.url)
            if not path.is_file():
                raise WeightsError(f"is not on this machine. Run: vertebra weights fetch {member!r}")
            weight_files.verify_hash(path, member.url)
            typer.echo(f"ok       {member!r}  {path}")
        except VertebraError as error:
            failures += 1
            typer.echo(f"FAILED   {member!r}  {' '.join(str(error).split())}")
    if failures:
        raise WeightsError(f"{failures} of {len(members)} weight files did not pass.")


@app.command()
def path(names: Names) -> None:
    """Print where weights lie or would lie."""
    from vertebra import weight_files

    members = _members(names)
    for member in members:
        typer.echo(str(weight_files.cached_path(member.url)))
    absent = [repr(member) for member in members if not is_here(member)]
    if absent:
        raise WeightsError(f"not on this machine yet. Run: vertebra weights fetch {' '.join(absent)}")


def is_here(member: PublishedWeights) -> bool:
    """Whether the file is on this machine: in the cache, or in an installed package."""
    from vertebra import weight_files

    try:
        return weight_files.cached_path(member.url).is_file()
    except WeightsError:  # its package is not installed
        return False


def _members(names: list[str] | None) -> list[PublishedWeights]:
    """The weights of those names: `resnet50` for its default, or a full name; all published ones where none is given.

    Raises:
        UsageError: there is no such network, or it has no such weights; the message has the nearest names.
    """
    from vertebra.model_table import find_weights, networks

    if names:
        return [find_weights(name) for name in names]
    return [weights for network in networks().values() for weights in network.weights]


def _row(member: PublishedWeights) -> dict[str, Any]:
    # The scheme "package:" names a file inside an installed Python package.
    scheme, _, rest = member.url.partition(":")
    package = rest.partition("/")[0].replace("_", "-")
    return {
        "name": repr(member),
        "mb": member.mb,
        "here": is_here(member),
        "origin": f"package {package}" if scheme == "package" else member.url,
    }
