"""`vertebra predict`: photos → their most likely classes. Without typer, which a plain call does not load."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vertebra.cli._output import BOLD, CYAN, echo, note, print_json_list, styled
from vertebra.cli._ray import predict_on_cluster, require_local
from vertebra.cli._standard_streams import open_stdin
from vertebra.errors import ImageError, UsageError, VertebraWarning, printable
from vertebra.progress import Progress, progress_bar, silent
from vertebra.units import counted

if TYPE_CHECKING:
    import typer

    from vertebra.cli._options import BitsOverCard, ImageRoot, model_help
    from vertebra.runtime.photo import Photo
    from vertebra.runtime.predictor import Prediction, Predictor
    from vertebra.runtime.result_file import ResultFile

BAR_WIDTH = 30
# Up to this many photos get a bar per class; more get one line each, and a progress bar on a terminal.
FEW = 8
# Up to this many photos are done sooner by an engine that starts fast and runs slower.
FAST_START_PHOTOS = 3


@dataclass(frozen=True)
class Settings:
    """What to predict, with what, and where the results go."""

    photos: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO…", help="Photos, folders, patterns, web addresses, or - for a list on stdin."),
    ]
    model: Annotated[str, typer.Option(metavar="MODEL", help=model_help("predict"))] = "efficientnet_lite0"
    weights: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="For a NAME: published weights, or a weight file.")
    ] = "DEFAULT"
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many classes to show.")] = 5
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with one object a photo.")] = False
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the results to a .csv, .jsonl or .parquet file.")
    ] = None
    embed: Annotated[bool, typer.Option("--embed", help="Add the embedding, the classifier's input.")] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a run that wrote to --out before; what failed is tried again.")
    ] = False
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto (fastest), onnxruntime, mnn or kernels.")] = "auto"
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Photos at once.")] = 16
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg", help="Decode large JPEGs coarsely: 5 × sooner, slightly other results.")
    ] = False
    bits: BitsOverCard = None
    path_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --ray, of a table or Parquet: the paths or the photos.")
    ] = None
    image_root: ImageRoot = None
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Else as many as cores; with --ray of each actor, else 1."),
    ] = None
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="Predict on a Ray cluster: here (none given), auto or HOST:PORT."),
    ] = None


def predict(settings: Settings) -> None:
    """Classify photos.

    A photo that cannot be read is reported while the others are still predicted; the exit code is then 1.
    """
    _validate(settings)
    if settings.ray is not None:
        predict_on_cluster(settings)
        return
    given = _find_photos(settings)
    if not settings.resume and given.are_missing:  # a resumed file has earlier rows
        _report_missing(settings, given)
    predictor = _load_predictor(settings, given.count)
    classes = predictor.card.classes
    top = settings.top if classes is None else min(settings.top, len(classes))
    with _result_file(settings, top, predictor) as file:
        photos, count = given.photos, given.count
        if file is not None:
            if file.replaced:
                rows = f"{file.path} had {counted(file.replaced, 'row')} of an earlier run"
                note(f"{rows}, which this one replaces; --resume keeps them.")
            photos = file.remaining(photos)
            if count is not None:
                photos = list(photos)
                count = len(photos)
            if file.engine_note and count != 0:
                note(file.engine_note)
        with progress_bar("predicting", bar=count is None or count > FEW) as progress:
            start = time.perf_counter()
            results = predictor.predict_many(photos, top=top, embed=settings.embed, count=count)
            tally = _write_results(results, settings, count, file, progress)
            seconds = time.perf_counter() - start
    for text in [*given.skipped, *predictor.notes.lines()]:
        note(text)
    if file is not None and not settings.json:
        echo(printable(_summarise(file, tally, seconds)))
    # A resumed file counts as a whole: earlier rows with an error make this run fail.
    total, failed = (tally.total, tally.failed) if file is None else (file.total, file.failed)
    if failed:
        where = f" Their column 'error' in {settings.out} says why." if file is not None else ""
        raise ImageError(f"{failed:,} of {total:,} photos could not be classified.{where}")


def _validate(settings: Settings) -> None:
    if "" in settings.photos:
        raise UsageError(
            "a PHOTO argument is empty; perhaps a shell variable is not set. Give a file or a folder, such as `.`."
        )
    if settings.ray is None:
        require_local(settings)
    if settings.resume and settings.out is None:
        raise UsageError("--resume continues a file, so it needs --out FILE.")
    if settings.embed and settings.out is None and not settings.json:
        raise UsageError("--embed gives a thousand numbers a photo. Add --json or --out FILE.")


@dataclass(frozen=True)
class _InputPhotos:
    """The photos that the arguments stand for."""

    photos: Iterable[Photo]
    count: int | None = None  # None: read from standard input
    skipped: tuple[str, ...] = ()  # notes on skipped files; reported even if photos fail

    @property
    def are_missing(self) -> bool:
        """Whether no photo exists: then no model is loaded, which may download half a gigabyte of weights."""
        return self.count is not None and not any(photo.exists() for photo in self.photos)


def _find_photos(settings: Settings) -> _InputPhotos:
    from vertebra.runtime.photo_paths import STANDARD_INPUT, photos

    if STANDARD_INPUT in settings.photos:
        return _InputPhotos(photos(settings.photos, open_stdin()))
    found = photos(settings.photos)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", VertebraWarning)
        listed = list(found)
    return _InputPhotos(listed, len(listed), tuple(dict.fromkeys(str(warning.message) for warning in noted)))


def _report_missing(settings: Settings, given: _InputPhotos) -> None:
    """Report an error for each photo, without loading a model."""
    from vertebra.runtime.prediction import Prediction

    count = given.count or 0
    errors = (Prediction(photo.path, error=photo.error or f"{photo.path}: no such file") for photo in given.photos)
    _write_results(errors, settings, count, None)
    raise ImageError(f"{count} of {count} photos could not be classified.")


def _load_predictor(settings: Settings, count: int | None) -> Predictor:
    from vertebra.loading import load

    with progress_bar("loading the model", bar=False) as progress:

        def say(task: str, done: int = 0, total: int | None = None) -> None:
            if sys.stderr.isatty():  # where there is no bar
                note(f"{task} …")
            progress(task)

        return load(
            settings.model,
            weights=settings.weights,
            engine=settings.engine,
            batch=settings.batch,
            scaled=settings.fast_jpeg,
            bits=settings.bits,
            threads=settings.threads,
            fast_start=count is not None and count <= FAST_START_PHOTOS,
            progress=say,
        )


def _summarise(file: ResultFile, tally: _Tally, seconds: float) -> str:
    """Summarise the rows of the file, and which of them are new."""
    text = f"{file.path}: {counted(file.total, 'photo')}{f', {file.failed:,} failed' if file.failed else ''}"
    rate = f"in {seconds:.1f} s, {tally.total / seconds:.0f} images/s" if tally.total else ""
    if not file.done:
        return f"{text}{',' if file.failed else ''} {rate}".rstrip(" ,")
    notes = [f"{file.done:,} were there already"]
    notes += [f"{file.again:,} of them made again"] if file.again else []
    notes += [f"{file.absent:,} of them not given now"] if file.absent else []
    return f"{text}{f'; {tally.total:,} now {rate}' if rate else ''} ({', '.join(notes)})"


@dataclass
class _Tally:
    total: int = 0
    failed: int = 0


def _write_results(
    results: Iterator[Prediction],
    settings: Settings,
    count: int | None,
    file: ResultFile | None,
    progress: Progress = silent,
) -> _Tally:
    """Write each result to the file, as JSON to standard output, or as text for people."""
    tally = _Tally()

    def track_progress() -> Iterator[Prediction]:
        for result in results:
            tally.total += 1
            tally.failed += result.error is not None
            progress("predicting", tally.total, count)
            if file is not None:
                file.write(result)
            yield result

    if settings.json:
        from vertebra.runtime.formats import to_row

        print_json_list(to_row(result) for result in track_progress())
    elif file is not None:
        for _ in track_progress():
            pass
    else:
        few = count is not None and count <= FEW
        for result in track_progress():
            _print_prediction(result, few)
    return tally


@contextmanager
def _result_file(settings: Settings, top: int, predictor: Predictor) -> Iterator[ResultFile | None]:
    if settings.out is None:
        yield None
        return
    from vertebra.cache import fingerprint
    from vertebra.runtime.result_file import ResultFile

    with ResultFile(
        Path(settings.out),
        model=settings.model,
        sha256=fingerprint(predictor.path),
        top=top,
        embed=settings.embed,
        options={"--fast-jpeg": settings.fast_jpeg, "--bits": settings.bits or False},
        engine=settings.engine,
        unsure=predictor.card.threshold is not None,
        resume=settings.resume,
    ) as output:
        try:
            yield output
        except KeyboardInterrupt as stop:
            stop.add_note("Resume with the same command and --resume.")
            raise


def _print_prediction(result: Prediction, bars: bool) -> None:
    """Print one photo's classes as bars or on one line; an error goes to stderr."""
    if result.error is not None:
        note(result.error)
        return
    path = printable(result.path)
    unsure = "  unsure: none of these is likely enough" if result.unsure else ""
    if not bars:
        best = result.predictions[0]
        echo(f"{best['probability']:>6.1%}  {printable(best['class'])}  {path}{unsure}")
        return
    # Terminals without UTF-8 cannot show block characters.
    sign = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    echo(styled(path, BOLD) + unsure)
    for entry in result.predictions:
        bar = styled(f"{sign * round(entry['probability'] * BAR_WIDTH):<{BAR_WIDTH}}", CYAN)
        echo(f"{entry['probability']:>7.1%}  {bar}  {printable(entry['class'])}")
