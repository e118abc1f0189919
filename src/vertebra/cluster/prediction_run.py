"""`vertebra predict --ray`: drives a run on a Ray cluster and keeps its manifest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vertebra.cache import fingerprint
from vertebra.errors import UsageError, VertebraError
from vertebra.files import locked, make_folder
from vertebra.loading import exported_file
from vertebra.model_argument import resolve_model
from vertebra.progress import Progress, silent
from vertebra.storage import Location, StorageError

from .folder_source import FolderSource
from .manifest import Manifest, PartRecord
from .parts import SUFFIXES, PartFormat
from .prediction_actor import PredictionActor, PredictionTask
from .ray_connection import connected, ray_module, silence_ray_data
from .run_description import RunDescription

TASKS_IN_FLIGHT = 4  # of an actor: with one, it waits between two chunks (11.8 % of the time, with more 0.8 %)
# Of a thread. Half, so that the actors of a node that has died find room on the others, and so does what reads.
CPUS_PER_THREAD = 0.5
MEASURED = 2_000  # photos a CPU from which on finding the fastest engine first pays off


@dataclass(frozen=True)
class RunSettings:
    """What to predict, with what, and where the results go."""

    source: str
    target: str
    model: str
    weights: str = "DEFAULT"
    address: str = "local"
    top: int = 5
    embed: bool = False
    resume: bool = False
    engine: str = "auto"
    batch: int = 16
    threads: int = 1
    fast_jpeg: bool = False
    bits: int | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run has made."""

    photos: int  # in all parts
    failed: int
    made: int  # by this run
    seconds: float


def predict_on_ray(settings: RunSettings, progress: Progress = silent) -> RunResult:
    """Predict a SOURCE on a Ray cluster into a folder of parts.

    Raises:
        UsageError: an argument is not allowed, or the target holds another run.
        VertebraError: the model cannot be used, the target cannot be written, or no cluster answers.
    """
    target = Location(settings.target)
    if target.suffix not in SUFFIXES:
        raise UsageError(f"the results' folder is {settings.target!r}; its name must end in {' or '.join(SUFFIXES)}.")
    source = FolderSource(settings.source)
    model, top, unsure = _model(settings, progress)
    description = RunDescription(
        model=settings.model,
        sha256=fingerprint(model),
        options={
            "--top": top,
            "--embed": settings.embed,
            "--fast-jpeg": settings.fast_jpeg,
            "--bits": settings.bits or False,
        },
        suffix=target.suffix,
        unsure=unsure,
        source=settings.source,
        kind=source.kind,
        digest=source.digest,
        chunks=len(source),
        photos=source.photos,
        folder=os.getcwd(),  # noqa: PTH109 - the text alone
    )
    state = target / "_vertebra"
    if not target.is_remote:
        make_folder(state.path)
    with locked(state.path, "give another --out"):
        manifest = Manifest(state)
        todo = _todo(description, source, target, manifest, settings.resume)
        token = ("token", os.urandom(8).hex().encode())
        (state / token[0]).write(token[1])
        form = PartFormat(target.suffix, top, settings.embed, unsure)
        start = time.perf_counter()
        made = 0
        if todo:
            task = PredictionTask(
                model=str(model),
                sha256=description.sha256,
                target=target,
                format=form,
                engine=settings.engine,
                batch=settings.batch,
                threads=settings.threads,
                scaled=settings.fast_jpeg,
                bits=settings.bits,
                tune=(source.photos or 0) > MEASURED,
                folder=description.folder,
                token=token,
            )
            progress("starting Ray")
            with connected(settings.address):
                try:
                    for row in _rows(task, model, [(number, source.chunk(number)) for number in todo]):
                        if row["failure"]:
                            raise VertebraError(f"node {row['node']}: {row['failure']}")
                        manifest.add(PartRecord(row["part"], row["rows"], row["errors"], row["bytes"]))
                        made += row["rows"]
                        progress(f"predicting, {manifest.errors:,} failed", made, source.photos)
                finally:
                    manifest.flush()
        (state / token[0]).delete()
    return RunResult(manifest.rows, manifest.errors, made, time.perf_counter() - start)


def _model(settings: RunSettings, progress: Progress) -> tuple[Path, int, bool]:
    """Return the exported file, how many classes a photo gets, and whether there is a column `unsure`."""
    from vertebra.runtime.predictor import Predictor

    path = exported_file(resolve_model(settings.model, "predict"), settings.weights, progress)
    card = Predictor(path, engine=settings.engine, bits=settings.bits).card
    top = settings.top if card.classes is None else min(settings.top, len(card.classes))
    return path, top, card.threshold is not None


def _todo(
    description: RunDescription, source: FolderSource, target: Location, manifest: Manifest, resume: bool
) -> list[int]:
    """Return the numbers of the parts to make."""
    place = target / "_vertebra" / "run.json"
    try:
        kept = RunDescription.from_json(place.read_bytes(), str(place))
    except StorageError as error:
        if not error.is_missing:
            raise
        kept = None
    if kept is None:
        place.write(description.to_json())
        return list(range(len(source)))
    if not resume:
        raise UsageError(f"{target} has the results of a run. Add --resume to go on with it, or give another --out.")
    kept.require_same(description, str(target))
    if kept.digest != description.digest:
        raise UsageError(
            f"the photos in {description.source} have changed since {target} was begun. Give another --out."
        )
    manifest.load()
    sizes = {entry.location.name: entry.size for entry in target.list()}
    form = PartFormat(description.suffix, 1, False, False)
    found = []
    for number in range(description.chunks):
        record = manifest.records.get(form.name(number))
        if record is None or record.errors or sizes.get(record.part) != record.bytes:
            found.append(number)
    return found


def _rows(task: PredictionTask, model: Path, chunks: list[tuple[int, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what each chunk has come to, in the order in which they end."""
    from ray import data

    ray = ray_module()
    silence_ray_data()
    cpus = ray.cluster_resources().get("CPU", 1.0)
    actors = max(1, min(len(chunks), int(cpus // task.threads)))
    content = ray.put(model.read_bytes())
    rows = data.from_items(
        [{"number": number, "chunk": chunk} for number, chunk in chunks], override_num_blocks=len(chunks)
    ).map(
        cast(Any, PredictionActor),
        fn_constructor_args=(task, content),
        compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT),
        num_cpus=CPUS_PER_THREAD * task.threads,
    )
    for batch in rows.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        yield from cast(Any, batch).to_pylist()
