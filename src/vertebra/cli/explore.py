"""`vertebra explore`: a page that shows a network at work on a photo."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vertebra.cli._options import model_help, options_of
from vertebra.cli._output import echo

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Language(StrEnum):
    """Of the page when it opens."""

    EN = "en"
    JA = "ja"


@dataclass(frozen=True)
class Settings:
    """What to look at, and where the page goes."""

    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo.")]
    model: Annotated[str, typer.Option(metavar="MODEL", help=model_help("explore"))] = "efficientnet_lite0"
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="The page (default: PHOTO-MODEL.html here).")] = None
    value: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER,C,Y,X",
            help="Work out this value too: channel, row and column from 0; LAYER,C of a linear layer; may be repeated.",
        ),
    ] = None
    lang: Annotated[Language, typer.Option(help="Language of the page when it opens.")] = Language.EN


@app.command()
@options_of(Settings)
def explore(settings: Settings) -> None:
    """Look inside a network at work on a photo: from its stages down to one multiplication, in a page."""
    from vertebra.explore import explore as look
    from vertebra.model_argument import resolve_model
    from vertebra.progress import progress_bar

    name = resolve_model(settings.model, "explore").name
    path = settings.html or Path(f"{settings.photo.stem}-{name}.html")
    with progress_bar("explore") as progress:
        found = look(
            settings.photo, settings.model, language=settings.lang, values=settings.value or (), progress=progress
        )
    echo(str(found.save(path)))
