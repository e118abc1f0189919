"""`vertebra audit`: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.card import Decoding
from vertebra.cli._options import AllowUnseen, Bits, Ignore, ImageRoot, LabelColumn, PathColumn, SplitColumn
from vertebra.cli._output import print_json
from vertebra.errors import UsageError, printable

if TYPE_CHECKING:
    from vertebra.data import Audit, Dataset, ImageInfo

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Settings:
    """What to audit, and where the result goes."""

    data: str
    json: bool = False
    html: Path | None = None
    strict: bool = False
    ignore: tuple[str, ...] = ()
    allow_unseen: bool = False
    bits: int | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """What was said of a table."""
        names = ("path_column", "label_column", "split_column", "image_root")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@app.command()
def audit(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder of class folders, a table (.csv, .parquet), or a name.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with thumbnails of what was found.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where there is any problem.")] = False,
    ignore: Ignore = None,
    allow_unseen: AllowUnseen = False,
    bits: Bits = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    image_root: ImageRoot = None,
) -> None:
    """Find the broken, duplicate and mislabelled photos of a data set: copies, contradictions, leakage, imbalance.

    Every photo is decoded, once: what has been seen before is known by its content. Copies that are rotated by a few
    degrees, cropped to less than 7/8 of a side or framed by a border are not found.
    """
    columns = (path_column, label_column, split_column, image_root)
    run(Settings(data, json, html, strict, tuple(ignore or ()), allow_unseen, bits, *columns))


def run(settings: Settings) -> None:
    """Audit, print or write what was found.

    Raises:
        UsageError: there is no such data set, or the page's name is not allowed.
        DataError: there are no photos to audit, the page cannot be written, or `strict` found a problem.
    """
    from vertebra.data import open_dataset, write_page

    if settings.html is not None and settings.html.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the page to write is {str(settings.html)!r}; its name must end in .html")
    dataset = open_dataset(
        settings.data, ignore=settings.ignore, allow_unseen=settings.allow_unseen, **settings.columns
    )
    found, facts = _look(dataset, settings)
    if settings.json:
        print_json(found.to_dict())
    else:
        for line in found.lines():
            typer.echo(printable(line))
    if settings.html is not None:
        write_page(dataset, found, settings.html, Decoding(bits=settings.bits), _command(settings), facts)
        if not settings.json:
            typer.echo(f"page: {settings.html}")
    if settings.strict:
        found.check()


def _command(settings: Settings) -> str:
    words = ["vertebra", "audit", settings.data, "--html", str(settings.html)]
    for folder in settings.ignore:
        words += ["--ignore", folder]
    words += ["--allow-unseen"] * settings.allow_unseen
    words += ["--bits", str(settings.bits)] if settings.bits is not None else []
    for name, value in settings.columns.items():
        words += [f"--{name.replace('_', '-')}", value]
    return shlex.join(words)


def _look(dataset: Dataset, settings: Settings) -> tuple[Audit, list[ImageInfo]]:
    from vertebra.data import DataError, read_image_info, usable_part
    from vertebra.data import audit as judge
    from vertebra.progress import progress_bar

    decoding = Decoding(bits=settings.bits)
    with progress_bar("auditing the photos", bar=not settings.json) as progress:
        facts = read_image_info(dataset, progress=progress, decoding=decoding)
    found = judge(dataset, facts, decoding=decoding)
    usable = [place for place, fact in enumerate(facts) if fact.broken is None]
    try:
        notes = usable_part(replace(dataset, notes=found.notes), usable, settings.allow_unseen)[0].notes
    except DataError as error:
        notes = (*found.notes, f"Training on these is refused: {error}")
    return replace(found, notes=notes), facts
