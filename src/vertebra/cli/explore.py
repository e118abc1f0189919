"""`vertebra explore`: a page that shows a network at work on a photo."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vertebra.cli._options import model_help, options_of
from vertebra.cli._output import echo, require_html_suffix
from vertebra.cli._standard_streams import open_stdin
from vertebra.errors import UsageError

STANDARD_INPUT = "-"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Language(StrEnum):
    """Of the page when it opens."""

    EN = "en"
    JA = "ja"


@dataclass(frozen=True)
class Settings:
    """What to look at, and where the page goes."""

    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A photo, or - for one on standard input.")]
    photo2: Annotated[
        str | None, typer.Argument(metavar="PHOTO2", help="Another, to be shown beside it in the same network.")
    ] = None
    model: Annotated[str, typer.Option(metavar="MODEL", help=model_help("explore"))] = "efficientnet_lite0"
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|none", help="For a network's name: published weights, a weight file, or random ones."
        ),
    ] = "DEFAULT"
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="untrained|plain|MODEL",
            help="Show beside it: the network with random weights, without its shortcuts, or another.",
        ),
    ] = None
    photos: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Show which patches of these photos excite each channel most."),
    ] = None
    channels: Annotated[
        list[str] | None,
        typer.Option(metavar="N|PART:5,17", help="How many channels of each part, or which of one; may be repeated."),
    ] = None
    value: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER,C,Y,X",
            help="Work out this value too: channel, row and column from 0; LAYER,C of a linear layer; may be repeated.",
        ),
    ] = None
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="The page (default: PHOTO-MODEL.html here).")] = None
    lang: Annotated[Language, typer.Option(help="Language of the page when it opens.")] = Language.EN


@app.command()
@options_of(Settings)
def explore(settings: Settings) -> None:
    """Look inside a network at work on a photo: from its stages down to one multiplication, in a page."""
    from vertebra.explore import explore as look
    from vertebra.explore.page import check_page_path
    from vertebra.progress import progress_bar

    if settings.photo == settings.photo2 == STANDARD_INPUT:
        raise UsageError("PHOTO and PHOTO2 are both -, and standard input has one photo. Give the other one's path.")
    path = settings.html or _default_path(settings)
    require_html_suffix(path)
    check_page_path(path)
    # What a network prints is not what this command is asked for.
    with redirect_stdout(sys.stderr), progress_bar("explore") as progress:
        found = look(
            _source(settings.photo),
            settings.model,
            other_photo=None if settings.photo2 is None else _source(settings.photo2),
            compare=settings.compare,
            weights=settings.weights,
            photos=settings.photos,
            channels=settings.channels,
            values=settings.value or (),
            language=settings.lang,
            progress=progress,
        )
    echo(str(found.save(path)))


def _source(photo: str) -> str | bytes:
    return open_stdin().read() if photo == STANDARD_INPUT else photo


def _default_path(settings: Settings) -> Path:
    """PHOTO-MODEL.html, PHOTO-PHOTO2-MODEL.html or PHOTO-MODEL-OTHER.html in the current folder."""
    from vertebra.model_argument import resolve_model

    photos = [settings.photo] if settings.photo2 is None else [settings.photo, settings.photo2]
    names = ["photo" if photo == STANDARD_INPUT else Path(photo).stem for photo in photos]
    names.append(resolve_model(settings.model, "explore").name)
    if settings.compare in ("untrained", "plain"):
        names.append(settings.compare)
    elif settings.compare is not None:
        names.append(resolve_model(settings.compare, "explore").name)
    # A name must not begin like an option, nor be longer than file systems allow.
    text = re.sub(r"[^\w .+()-]", "_", "-".join(name[:60] for name in names)).lstrip("-. ")
    return Path(f"{text}.html")
