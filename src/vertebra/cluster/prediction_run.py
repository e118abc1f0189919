"""`vertebra predict --ray`: drives a run on a Ray cluster and keeps its manifest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from vertebra.cache import cache_dir, fingerprint
from vertebra.errors import InUseError, UsageError, VertebraError
from vertebra.loading import exported_file
from vertebra.model_argument import resolve_model
from vertebra.progress import Progress, silent
from vertebra.runtime.run_record import describe_engine_change
from vertebra.sources import Source
from vertebra.sources.listing import ListedSource
from vertebra.storage import Location
from vertebra.units import counted

from .lease import Lease, only_driver
from .manifest import PartRecord
from .node_model import NodeModel
from .nodes import nodes_watched, require_usable_nodes
from .part_plan import PartPlan, PartSource, open_for_parts
from .parts import SUFFIXES, PartFormat
from .prediction_actor import PredictionTask
from .prediction_pipeline import made_parts
from .ray_connection import LOCAL, connected
from .run_description import RunDescription
from .run_target import RunTarget
from .source_sample import Sample, sample_of

MEASURED = 2_000  # photos from which on finding the fastest engine first pays off
MAX_FAILURES = 10  # chunks that cannot be read; with more, the run stops


@dataclass(frozen=True)
class RunSettings:
    """What to predict, with what, and where the results go."""

    source: Sequence[str]  # as `sources.open_source` takes it
    target: str
    model: str
    weights: str = "DEFAULT"
    address: str = LOCAL
    top: int = 5
    embed: bool = False
    resume: bool = False
    engine: str = "auto"
    batch: int = 16
    threads: int = 1
    fast_jpeg: bool = False
    bits: int | None = None
    path_column: str | None = None
    image_root: str | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run has made."""

    photos: int  # in all parts
    failed: int  # of them
    made: int  # by this run
    again: int  # of those, made by earlier runs, too
    seconds: float


def predict_on_ray(
    settings: RunSettings, progress: Progress = silent, tell: Callable[[str], None] = lambda text: None
) -> RunResult:
    """Predict a SOURCE on a Ray cluster into a folder of parts; `tell` is called with what does not stop the run.

    Raises:
        UsageError: an argument is not allowed, or the target holds another run.
        InUseError: another process drives the run.
        VertebraError: the model cannot be used, the target cannot be written, no cluster answers, or chunks cannot be
            read.
    """
    start = time.perf_counter()
    target = RunTarget(Location(settings.target))
    if target.location.suffix not in SUFFIXES:
        raise UsageError(f"the results' folder is {settings.target!r}; its name must end in {' or '.join(SUFFIXES)}.")
    earlier = target.read_description()
    if earlier is not None and not settings.resume:
        if target.has_parts():
            raise UsageError(
                f"{settings.target} has the results of a run. Add --resume to go on with it, or give another --out."
            )
        earlier = None  # that run has come to nothing
    try:
        return _run(settings, target, earlier, progress, tell, start)
    except VertebraError:
        target.clear()
        raise


def _run(
    settings: RunSettings,
    target: RunTarget,
    earlier: RunDescription | None,
    progress: Progress,
    tell: Callable[[str], None],
    start: float,
) -> RunResult:
    """Begin the run, or go on with the `earlier` one."""
    with only_driver(target.state) as lease:
        progress("listing")
        # A resumed run goes on with the list that it began with.
        index = target.state if earlier is None else None
        source = open_for_parts(settings.source, index, progress, settings.path_column, settings.image_root)
        model, wanted = _described(settings, source, progress)
        run = earlier or wanted
        if earlier is None:
            target.begin(run)
        else:
            earlier.require_same(wanted, settings.target)
            target.resume()
        numbers = target.missing(run)
        listed = source if earlier is None else _resumed(earlier, wanted, source, target, bool(numbers), tell)
        made = 0
        if numbers:
            sample = () if settings.address == LOCAL else sample_of(source)
            task = _task(settings, run, target, model, listed, sample)
            target.write_token()
            try:
                made = _make(settings.address, run.photos, target, task, numbers, lease, progress, tell)
            except KeyboardInterrupt as stop:
                stop.add_note("Resume with the same command and --resume.")
                raise
            finally:
                target.end()
        target.finish(run)
    manifest = target.manifest
    return RunResult(manifest.rows, manifest.errors, made, target.again, time.perf_counter() - start)


def _described(settings: RunSettings, source: Source, progress: Progress) -> tuple[Path, RunDescription]:
    """Return the model's file, and what the run is started with."""
    from vertebra.runtime.predictor import Predictor

    path = exported_file(resolve_model(settings.model, "predict"), settings.weights, progress)
    card = Predictor(path, engine=settings.engine, bits=settings.bits).card
    options: dict[str, int | bool | str] = {
        "--top": settings.top if card.classes is None else min(settings.top, len(card.classes)),
        "--embed": settings.embed,
        "--fast-jpeg": settings.fast_jpeg,
        "--bits": settings.bits or False,
        "--path-column": settings.path_column or False,
        "--image-root": settings.image_root or False,
    }
    is_list = isinstance(source, ListedSource)
    return path, RunDescription(
        model=settings.model,
        sha256=fingerprint(path),
        options=options,
        engine=settings.engine,
        suffix=Location(settings.target).suffix,
        unsure=card.threshold is not None,
        source=settings.source,
        kind=source.kind,
        digest=source.digest,
        photos=source.photos,
        chunks=len(source),
        group=PartPlan.of(len(source), is_list).group,
        listing=source.parts if isinstance(source, ListedSource) else None,
        folder=os.getcwd(),  # noqa: PTH109 - the text alone
    )


def _resumed(
    earlier: RunDescription,
    wanted: RunDescription,
    now: Source,
    target: RunTarget,
    is_read: bool,
    tell: Callable[[str], None],
) -> Source:
    """Return the source of a run that is resumed, as it was listed at its begin; whether `is_read` or all is done.

    Raises:
        UsageError: it has no list and has changed, or its list is lost and it has changed.
    """
    for note in target.notes():
        tell(note)
    if is_read and (change := describe_engine_change(target.location, earlier.engine, wanted.engine)):
        tell(change)
    listed = earlier.listed(target.state)
    what = f"{' '.join(earlier.source)} has changed since {target.location} was begun"
    if listed is None:
        if (now.digest, len(now), now.photos) != (earlier.digest, earlier.chunks, earlier.photos):
            raise UsageError(f"{what}, so it cannot be resumed. {target.what_is_kept()}")
        return now
    if is_read and (damaged := listed.damaged_parts()):
        if not isinstance(now, ListedSource) or now.parts != listed.parts:
            raise UsageError(
                f"{damaged[0]}, where its photos are listed, is damaged or gone, and {what}, so it cannot be resumed. "
                f"{target.what_is_kept()}"
            )
        listed.restore(damaged, now)
        tell(f"{damaged[0]}, where the photos are listed, was damaged or gone, and is written again.")
    if now.digest != earlier.digest:
        tell(f"{what}; it goes on with the {counted(listed.photos, 'photo')} that were listed then.")
    return listed


def _task(
    settings: RunSettings, run: RunDescription, target: RunTarget, model: Path, source: Source, sample: Sample
) -> PredictionTask:
    return PredictionTask(
        NodeModel(
            path=str(model.absolute()),
            sha256=run.sha256,
            engine=settings.engine,
            batch=settings.batch,
            threads=settings.threads,
            scaled=settings.fast_jpeg,
            bits=settings.bits,
            folder=run.folder,
        ),
        target=target.location,
        format=PartFormat(run.suffix, int(run.options["--top"]), settings.embed, run.unsure),
        token=target.token,
        parts=PartSource(source, run.plan),
        sample=sample,
        tune=run.photos is None or run.photos >= MEASURED,
    )


def _make(
    address: str,
    photos: int | None,
    target: RunTarget,
    task: PredictionTask,
    parts: Sequence[int],
    lease: Lease,
    progress: Progress,
    tell: Callable[[str], None],
) -> int:
    """Make these parts; return how many photos are in them."""
    manifest, made, failures = target.manifest, 0, []
    local = address == LOCAL
    is_shared = local and not task.model.path.startswith(str(cache_dir()))  # of what is cached, some is deleted in time
    progress("starting Ray")
    with connected(address):
        if not local:
            require_usable_nodes(target.location, target.token, task.sample)
        progress("predicting", manifest.rows, photos)
        with nodes_watched(tell, task.model.threads) as watch:
            for row in made_parts(task, None if is_shared else Path(task.model.path), parts):
                if lease.is_lost:
                    raise InUseError(f"{target.location} has been taken over by another process, so this one stops.")
                if row["failure"]:
                    failures.append(f"node {watch.name(row['node'])}: {row['failure']}")
                    if row["fatal"] or len(failures) > MAX_FAILURES:
                        break
                    continue
                manifest.add(PartRecord(**{field.name: row[field.name] for field in fields(PartRecord)}))
                made += row["rows"]
                notes = [f"{manifest.errors:,} failed"] if manifest.errors else []
                notes += [] if local else [counted(watch.alive, "node")]
                progress(f"predicting: {', '.join(notes)}" if notes else "predicting", manifest.rows, photos)
    if failures:
        chunk = f"{counted(len(failures), 'chunk')} of photos could not be made into results, the first: "
        raise VertebraError(
            f"{chunk if len(failures) > 1 else ''}{failures[0]} What is done is kept; --resume makes the rest."
        )
    return made
