"""`vertebra predict --ray`: what goes with it, and what is printed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vertebra.cli._output import echo, note
from vertebra.errors import ImageError, UsageError, VertebraWarning, printable
from vertebra.progress import progress_bar
from vertebra.units import counted

if TYPE_CHECKING:
    from vertebra.cli._prediction import Settings
    from vertebra.cluster.prediction_run import RunResult


def require_local(settings: Settings) -> None:
    """Raise a `UsageError` for what --ray alone reads and writes."""
    for name, value in (("--path-column", settings.path_column), ("--image-root", settings.image_root)):
        if value is not None:
            raise UsageError(f"{name} is for a table of paths, which is read with --ray alone. Add --ray and --out.")
    addresses = [text for text in [*settings.photos, settings.out or ""] if "://" in text]
    if not addresses:
        return
    from vertebra.photo_download import is_url
    from vertebra.storage import Location

    for text in addresses:
        if not is_url(text) and Location(text).is_remote:
            raise UsageError(f"{text} is read and written with --ray alone. Add --ray, and --out TARGET.parquet.")


def predict_on_cluster(settings: Settings) -> None:
    """Run the command on a Ray cluster.

    Raises:
        UsageError: options do not go together.
        ImageError: some photos could not be classified.
    """
    _validate(settings)
    from vertebra.cluster.prediction_run import RunSettings, predict_on_ray
    from vertebra.cluster.ray_connection import ray_output_silenced

    with ray_output_silenced(), _noted_warnings() as notes, progress_bar("starting") as progress:
        result = predict_on_ray(
            RunSettings(
                source=settings.photos,
                target=settings.out or "",
                model=settings.model,
                weights=settings.weights,
                address=settings.ray or "local",
                top=settings.top,
                embed=settings.embed,
                resume=settings.resume,
                engine=settings.engine,
                batch=settings.batch,
                threads=settings.threads or 1,
                fast_jpeg=settings.fast_jpeg,
                bits=settings.bits,
                path_column=settings.path_column,
                image_root=settings.image_root,
            ),
            progress,
            note,
        )
    for text in notes:  # reported even if photos fail
        note(text)
    echo(printable(f"{settings.out}: {_summary(result)}"))
    if result.failed:
        raise ImageError(
            f"{result.failed:,} of {result.photos:,} photos could not be classified. Their column 'error' in "
            f"{settings.out} says why."
        )


@contextmanager
def _noted_warnings() -> Iterator[list[str]]:
    """Collect what is warned of in the block, each once: of files that are left out, of how a table was read."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", VertebraWarning)
        yield notes
    notes += dict.fromkeys(str(warning.message) for warning in noted)


def _summary(result: RunResult) -> str:
    text = f"{counted(result.photos, 'photo')}{f', {result.failed:,} failed' if result.failed else ''}"
    if not result.made:
        return f"{text}; all were there already" if not result.failed else text
    rate = f"in {result.seconds:.1f} s, {result.made / result.seconds:.0f} images/s"
    earlier = result.photos - result.made
    if not earlier and not result.again:
        return f"{text} {rate}"
    again = f", {result.again:,} of them made again" if result.again else ""
    return f"{text}; {result.made:,} now {rate} ({earlier + result.again:,} were there already{again})"


def _validate(settings: Settings) -> None:
    if settings.out is None:
        raise UsageError("--ray writes a folder of results. Add --out, such as --out results.parquet")
    if settings.json:
        raise UsageError("--ray writes a folder of results, and --json prints them. Leave one of the two out.")
    if "-" in settings.photos:
        raise UsageError("--ray reads no list on stdin. Write it to a .csv file with a column path, and give that.")
