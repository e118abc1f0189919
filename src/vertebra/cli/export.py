"""`vertebra export`: a network → one ONNX file that predicts without torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.cli._options import Bits, model_help, options_of
from vertebra.cli._output import note
from vertebra.cli.card import check_markdown, write_markdown
from vertebra.errors import ImageError, UsageError
from vertebra.progress import Progress, progress_bar
from vertebra.units import size, three_figures

if TYPE_CHECKING:
    from vertebra.card import Card, Preprocessing
    from vertebra.export import Calibration, Int8Report
    from vertebra.pixels import Pixels

app = typer.Typer(add_completion=False, rich_markup_mode=None)

# About 200 photos set the ranges and choose the layers; the others measure the accuracy. All pixels are in memory, and
# without --require-proof more photos only take time.
MAX_CALIBRATION_PHOTOS = 2_048
MAX_CALIBRATION_BYTES = 600_000_000
VERIFICATION_PHOTOS = 10


class Precision(StrEnum):
    """Type of the weights and activations of a file."""

    FLOAT32 = "float32"
    INT8 = "int8"


@dataclass(frozen=True)
class Settings:
    """What to export, and where to."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help=model_help("export"))]
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="The file to write.")]
    weights: Annotated[
        str, typer.Option(metavar="NAME|FILE|none", help="Published weights or a file; none draws them.")
    ] = "DEFAULT"
    architecture: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The network that FILE is for.")
    ] = None
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Class names, one a line in the order of the logits; or imagenet."),
    ] = None
    # Overrides of what a file says about its network; None: keep.
    crop_size: Annotated[
        int | None, typer.Option("--size", metavar="PIXELS", min=1, help="Side of the network's input.")
    ] = None
    resize_size: Annotated[
        int | None, typer.Option("--resize", metavar="PIXELS", min=1, help="Shorter side before the middle is cut out.")
    ] = None
    interpolation: Annotated[
        str | None, typer.Option(metavar="NAME", help="nearest, bilinear or bicubic, for resizing.")
    ] = None
    mean: Annotated[str | None, typer.Option(metavar="R,G,B", help="Taken from the values, which are from 0 to 1.")] = (
        None
    )
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="What they are divided by then.")] = None
    bits: Bits = None
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="What the logits are divided by before softmax.")
    ] = None
    threshold: Annotated[
        float | None, typer.Option(metavar="P", min=0, max=1, help="Least probability of an answer; 0: none.")
    ] = None
    transform_input: Annotated[
        bool | None, typer.Option(help="GoogLeNet: the weights expect a mean and deviation of 0.5 inside.")
    ] = None
    low_resolution: Annotated[
        bool | None, typer.Option(help="FILE was trained from scratch on pictures of at most 64 pixels.")
    ] = None
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos to compare with torch on; else synthetic ones.")
    ] = None
    precision: Annotated[Precision, typer.Option(help="int8 is smaller and faster; it needs --calibration.")] = (
        Precision.FLOAT32
    )
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="100 or more photos like those to come; in class folders if classes are known."
        ),
    ] = None
    max_drop: Annotated[
        float, typer.Option(metavar="POINTS", min=0, help="Accuracy that int8 may lose, in points.")
    ] = 1.0
    force: Annotated[bool, typer.Option("--force", help="Write int8 even if it is slower or loses more.")] = False
    require_proof: Annotated[
        bool, typer.Option("--require-proof", help="Write int8 only if the photos show that it loses no more.")
    ] = False
    card: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Also write a model card to read.")] = None


@app.command()
@options_of(Settings)
def export(settings: Settings) -> None:
    """Export a network as one ONNX file, verified to predict what torch does.

    Input `image`: uint8 (N, H, W, 3), RGB, at the card's crop size. Outputs: `probabilities`, `embedding`, `features`.
    An int8 file is written only if it is faster on this machine and is not shown to lose more accuracy than allowed.
    """
    from vertebra.export import export as write
    from vertebra.export import prepare

    if (settings.precision == Precision.INT8) != (settings.calibration is not None):
        raise UsageError("--precision int8 and --calibration DIR belong together: int8 needs photos, float32 none.")
    if settings.require_proof and (settings.force or settings.precision != Precision.INT8):
        raise UsageError(
            "--require-proof writes an int8 file only where its loss is shown to be small: it needs --precision int8 "
            "and cannot go with --force. Leave one out."
        )
    if settings.card is not None:
        check_markdown(settings.card)
    network_options = {"transform_input": settings.transform_input, "low_resolution": settings.low_resolution}
    with progress_bar("loading") as progress:
        prepared = prepare(
            settings.model,
            weights=None if settings.weights.lower() == "none" else settings.weights,
            architecture=settings.architecture,
            classes=settings.classes,
            preprocessing=_preprocessing_options(settings),
            temperature=settings.temperature,
            threshold=settings.threshold,
            network_options={name: value for name, value in network_options.items() if value is not None},
        )
        card = prepared.card
        images, calibration = None, None
        if settings.calibration is not None:
            calibration = _load_calibration(
                settings.calibration, card, prepared.network.num_classes, settings.require_proof, progress
            )
            images = list(calibration.images[:VERIFICATION_PHOTOS])
        if settings.images is not None:
            paths = _sample_photos("--images", settings.images, VERIFICATION_PHOTOS)
            images = _read_pixels(paths, card.preprocessing, progress)[0]
        report = write(
            prepared,
            settings.out,
            images=images,
            calibration=calibration,
            max_drop=settings.max_drop,
            force=settings.force,
            require_proof=settings.require_proof,
            progress=progress,
        )
    if settings.card is not None:
        write_markdown(report.card, settings.card)
    seconds = sum(report.timings.values())
    what = "" if report.int8 is None else "its float network was "
    typer.echo(
        f"{report.path}: {size(report.size)}, {what}verified against torch on batches of 1, 2 and 7: probabilities "
        f"differ from torch by at most {report.max_difference:.1e} ({seconds:.1f} s)"
    )
    if report.int8 is not None:
        _print_int8_report(report.int8)


def _print_int8_report(report: Int8Report) -> None:
    """Print float and int8 side by side, and which to ship."""
    verdict = report.verdict
    ratio = report.int8_ms / report.float_ms
    rows = (
        ("", "float32", "int8"),
        ("ms a photo", three_figures(report.float_ms), f"{three_figures(report.int8_ms)} ({ratio:.2f} ×)"),
        ("size", size(report.float_bytes), size(report.int8_bytes)),
        (verdict.measure, f"{verdict.float_score:.1f} %", f"{verdict.int8_score:.1f} %"),
    )
    for row in rows:
        typer.echo(f"{row[0]:12}{row[1]:>10}  {row[2]}")
    low, high = verdict.agreement_interval
    typer.echo(
        f"Judged on {verdict.photos:,} photos that neither set ranges ({report.calibrated_on} others) nor chose layers "
        f"({report.chosen_on} others): the same class as float on {verdict.agreement:.1f} % ({low:.1f} to {high:.1f}), "
        f"KL divergence {verdict.divergence:.4f}."
    )
    low, high = verdict.drop_interval
    typer.echo(
        f"Accuracy lost: {verdict.drop:.2f} points ({low:.2f} to {high:.2f})."
        if verdict.measure == "accuracy"
        else f"No folder names a class: of accuracy at most {high:.2f} points are lost, and {verdict.drop:.2f} by "
        "float's own probabilities."
    )
    typer.echo(f"A loss of at most {report.max_drop:g} point{'' if report.max_drop == 1 else 's'}: {report.claim}.")
    if report.kept_float:
        typer.echo(f"Put back to float: {', '.join(report.kept_float)}.")
    typer.echo(f"Ship: {report.ship}.")


def _preprocessing_options(settings: Settings) -> dict[str, Any]:
    """Return the preprocessing fields that are given as options."""
    from vertebra.card import Decoding

    found = {
        "crop_size": settings.crop_size,
        "resize_size": settings.resize_size,
        "interpolation": settings.interpolation,
        "mean": None if settings.mean is None else _parse_channels("--mean", settings.mean),
        "std": None if settings.std is None else _parse_channels("--std", settings.std),
        "decoding": None if settings.bits is None else Decoding(bits=settings.bits),
    }
    return {name: value for name, value in found.items() if value is not None}


def _parse_channels(option: str, text: str) -> tuple[float, ...]:
    """Parse `"0.5,0.5,0.5"`, or `"0.5"` for all three channels."""
    try:
        values = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise UsageError(f"{option} is {text!r}; give one number or three, as in {option} 0.485,0.456,0.406")
    return values * (3 // len(values))


def _sample_photos(option: str, folder: Path, most: int) -> list[Path]:
    """Sample at most `most` photos of a folder, recursively, evenly over their sorted paths."""
    from vertebra.runtime.photo_paths import photos

    if not folder.is_dir():
        raise UsageError(f"{option} {folder} is no folder. Give one with photos.")
    found = sorted(Path(photo.path) for photo in photos([str(folder)]) if photo.error is None)
    if not found:
        raise UsageError(f"{option} {folder} has no photos. Give a folder with some.")
    step = max(1, len(found) / most)
    return [found[int(i * step)] for i in range(min(most, len(found)))]


def _read_pixels(paths: list[Path], preprocessing: Preprocessing, progress: Progress) -> tuple[list[Any], list[Path]]:
    """Read photos as network input, uint8 (crop, crop, 3), with their paths; print notes on broken ones."""
    from vertebra.decoding_notes import DecodingNotes
    from vertebra.machine import usable_cores
    from vertebra.pixels import network_pixels
    from vertebra.prefetch import in_order

    pixels, read, notes = [], [], DecodingNotes(preprocessing.decoding)

    def decoded(some: Sequence[Path]) -> list[Pixels | ImageError]:
        try:
            return [network_pixels(path, preprocessing, notes=notes) for path in some]
        except ImageError as error:
            return [error]

    with closing(in_order(paths, decoded, workers=usable_cores(), chunk=1)) as results:
        for i, found in enumerate(results):
            progress("reading photos", i, len(paths))
            if isinstance(found, ImageError):
                note(f"left out: {found}")
            else:
                pixels.append(found)
                read.append(paths[i])
    if not read:
        raise ImageError(f"none of the {len(paths)} photos could be read.")
    for line in notes.lines():
        note(line)
    return pixels, read


def _load_calibration(folder: Path, card: Card, classes: int, proof: bool, progress: Progress) -> Calibration:
    import numpy as np

    from vertebra.export import Calibration, check_count, labels_of

    fitting = max(512, MAX_CALIBRATION_BYTES // (3 * card.preprocessing.crop_size**2))
    paths = _sample_photos("--calibration", folder, fitting if proof else min(MAX_CALIBRATION_PHOTOS, fitting))
    check_count(len(paths))
    pixels, read = _read_pixels(paths, card.preprocessing, progress)
    check_count(len(read))  # those that can be read
    labels = labels_of([path.relative_to(folder) for path in read], card.classes, classes)
    return Calibration(np.stack(pixels), labels)
