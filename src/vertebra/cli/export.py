"""`vertebra export`: a network → one ONNX file that predicts without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.cli.card import check_markdown, write_markdown
from vertebra.errors import UsageError

if TYPE_CHECKING:
    from vertebra.card import Preprocessing

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Settings:
    """What to export, and where to."""

    model: str
    out: Path
    weights: str = "DEFAULT"
    architecture: str | None = None
    classes: Path | None = None
    images: Path | None = None
    card: Path | None = None


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A network, or a .pth or .safetensors file.")],
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="The file to write.")],
    weights: Annotated[
        str, typer.Option(metavar="NAME|FILE|none", help="Published weights or a file; none draws them.")
    ] = Settings.weights,
    architecture: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The network that FILE is for.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names, one a line, in the order of the logits.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos to compare with torch on; drawn ones without.")
    ] = None,
    card: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Also write a model card to read.")] = None,
) -> None:
    """Export a network as one ONNX file, after proof that it predicts what torch does.

    Input `image`: uint8 (N, H, W, 3), RGB, at the card's crop size. Outputs: `probabilities`, `embedding`, `features`.
    """
    run(Settings(model, out, weights, architecture, classes, images, card))


def run(settings: Settings) -> None:
    """Prepare, prove, write, and say what was found.

    Raises:
        VertebraError: what is wrong; nothing was written.
    """
    from vertebra.export import export as write
    from vertebra.export import prepare
    from vertebra.units import size

    if settings.card is not None:
        check_markdown(settings.card)
    options: dict[str, Any] = {"architecture": settings.architecture}
    if settings.classes is not None:
        options["classes"] = _lines(settings.classes)
    weights = None if settings.weights.lower() == "none" else settings.weights
    prepared = prepare(settings.model, weights=weights, **options)
    photos = None if settings.images is None else _photos(settings.images, prepared.card.preprocessing)
    report = write(prepared, settings.out, images=photos)
    if settings.card is not None:
        write_markdown(report.card, settings.card)
    seconds = sum(report.timings.values())
    typer.echo(
        f"{report.path}: {size(report.size)}, proven on batches of 1, 2 and 7: probabilities differ from torch by at "
        f"most {report.max_difference:.1e} ({seconds:.1f} s)"
    )


def _lines(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--classes {path} cannot be read ({error}). Give a text file with one name a line."
        ) from error
    if not names:
        raise UsageError(f"--classes {path} holds no names. Give a text file with one name a line.")
    return names


def _photos(folder: Path, preprocessing: Preprocessing, most: int = 10) -> list[Any]:
    """The first photos of a folder as the network sees them: uint8 (crop, crop, 3)."""
    import numpy as np
    from PIL import Image

    from vertebra.card import centre_crop_box, resized_size
    from vertebra.runtime.image import SUFFIXES, open_image

    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:most]
    if not found:
        raise UsageError(f"--images {folder} has no photos. Give a folder with some, or leave it out.")
    photos = []
    for path in found:
        picture = open_image(path)
        height, width = resized_size(picture.height, picture.width, preprocessing.resize_size)
        picture = picture.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])
        photos.append(np.asarray(picture.crop(centre_crop_box(height, width, preprocessing.crop_size))))
    return photos
