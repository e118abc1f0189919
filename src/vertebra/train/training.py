"""`vertebra.train`: a folder of photos → a classifier and its report."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.data import is_public_name, resolve_source
from vertebra.data.shard_files import is_pattern
from vertebra.errors import UsageError, require_extra, require_packages, suggest
from vertebra.model_argument import resolve_model
from vertebra.model_table import networks
from vertebra.progress import Progress, silent
from vertebra.storage import Location

from .launch import Launch, LostProcessError
from .launch_record import LaunchRecord, is_started_by, recorded_settings
from .run_folder import (
    LAUNCH,
    METRICS,
    MODEL,
    SETTINGS,
    WEIGHTS,
    TrainError,
    locked_run,
    remove_temporaries,
    remove_training_state,
    resumable_write,
    resume_command,
    write_error,
    write_text,
)
from .run_start import LOCK_SECONDS, begin_run, begun_by_job, interrupts_as_stopped
from .settings_file import read_toml
from .train_settings import FIXED, Settings
from .trained_classifier import Classifier

if TYPE_CHECKING:
    from .distributed import Distributed

_EXTRA, _FEATURE = "train", "vertebra.train"


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    progress: Progress = silent,
    **options: Any,
) -> Classifier:
    """Train a classifier on labelled photos.

    Args:
        data: class folders, a table, or a name, as `vertebra audit` takes them.
        out: the folder of the run, new or empty. None: a new one in `runs`.
        progress: called with (task, done, total).
        options: the other fields of `Settings` (model, method, seed, …).

    Raises:
        UsageError: a setting is not allowed, or the folder is not empty.
        DataError: the photos cannot be used.
        TrainError: the run cannot continue; says what is kept, and how to resume.
        PrecisionError: with `strict`: the run does not reach `precision`; it is kept.
    """
    _reject_worker()
    launch = Launch.from_environment()
    with ExitStack() as held, _lost_process_as_error(launch) as known:
        if launch.size == 1:
            # Reject what can be rejected before torch is imported, which takes seconds.
            settings = _new_settings(data, options)
            agents = _agents(launch)
            begun = begun_by_job(settings, out, launch, agents)
            folder = held.enter_context(begin_run(settings, out, launch, agents, begun))
            if begun is None:
                resolve_source(settings.resolved_data, **settings.columns)
            _require_packages(settings)
            distributed = _init_distributed(launch)
        else:
            distributed = _init_distributed(launch)
            settings, folder = _begin_together(data, out, options, launch, distributed, held)
        known.append(folder)
        if launch.run_id is not None:
            if distributed.broadcast(_is_finished(folder) if distributed.is_first else None):
                return _finished_run(folder, distributed)
            settings = Settings.from_toml(folder / SETTINGS)  # an earlier start may have found a learning rate
        classifier = _run(settings, folder, distributed, progress)
    return _require_precision(classifier, settings)


def _new_settings(data: str | os.PathLike[str], options: Mapping[str, Any]) -> Settings:
    """Return the settings of a new run."""
    paths = {name: os.fspath(value) for name, value in options.items() if isinstance(value, os.PathLike)}
    settings = Settings.from_mapping({"data": os.fspath(data), **options, **paths}, "train()")
    settings = _resolve_network(settings)
    places = (None if is_public_name(settings.data) else settings.data, settings.weights, settings.image_root)
    if any(map(_is_relative, filter(None, places))):
        settings = replace(settings, cwd=str(Path.cwd()))  # the run may be resumed from another folder
    return settings


def _is_relative(text: str) -> bool:
    """Whether a text is a path or pattern that means another place in another folder."""
    if Location(text).is_remote or Path(text).is_absolute():
        return False
    return Path(text).exists() or is_pattern(text)


def _begin_together(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
    launch: Launch,
    distributed: Distributed,
    held: ExitStack,
) -> tuple[Settings, Path]:
    """Return the settings and the folder of the run that several processes begin, or go on with after a restart."""
    from .machine_checks import require_same_values, require_shared

    with distributed.raise_together():
        settings = _new_settings(data, options)
        _require_packages(settings)
        _require_one_process(settings, distributed)
    require_same_values(recorded_settings(settings), distributed)
    agents = _agents(launch, distributed)
    # Rank 0 may have been on another machine before.
    found = begun_by_job(settings, out, launch, agents) if launch.local_rank == 0 else None
    begun = distributed.first_value(None if found is None else found.absolute())
    folder = None
    with distributed.raise_together():
        if distributed.is_first:
            folder = held.enter_context(begin_run(settings, out, launch, agents, found or begun))
    return settings, require_shared(None if out is None else Path(out), folder, distributed)


def _agents(launch: Launch, distributed: Distributed | None = None) -> set[str]:
    """Return what identifies the torchrun of each machine."""
    known = [launch.agent, *(peer.agent for peer in (distributed.peers if distributed else ()))]
    return {agent for agent in known if agent is not None}


def _require_one_process(settings: Settings, distributed: Distributed) -> None:
    if settings.method == "probe" and distributed.size > 1:
        raise UsageError(
            "the probe has nothing to share among processes: its features are computed once. Start it without "
            "torchrun, or with --method finetune."
        )


def _init_distributed(launch: Launch) -> Distributed:
    with require_extra(_EXTRA, _FEATURE):
        from .distributed import init_distributed
    return init_distributed(launch)


@contextmanager
def _lost_process_as_error(launch: Launch) -> Iterator[list[Path]]:
    """Turn the loss of another process into a TrainError that says how it goes on; takes the run's folder."""
    known: list[Path] = []
    try:
        yield known
    except LostProcessError as error:
        remedy = f"Resume with: {resume_command(known[0])}" if known else "Run the same command again."
        if launch.is_restarted_next:  # torchrun sends the same signal when it is stopped itself
            remedy = (
                f"torchrun goes on with the run (restart {launch.restarts + 1} of {launch.max_restarts}). If it was "
                f"stopped itself, {remedy[0].lower()}{remedy[1:]}"
            )
        raise TrainError(f"another process ended: {error}. {remedy}") from error


def _require_packages(settings: Settings) -> None:
    """Raise an error if an extra is not installed."""
    require_packages(_EXTRA, _FEATURE, "torch", "safetensors", "onnx")
    if settings.method != "probe":
        require_packages(_EXTRA, f"{_FEATURE} with method={settings.method!r}", "torchvision")


def _resolve_network(settings: Settings) -> Settings:
    """Resolve the names of network and weights, which may be timm's."""
    model = resolve_model(settings.model, "train")
    if model.network not in networks():
        raise UsageError(
            f"{model.given!r} is a network of another width than those that `vertebra models` lists, which training "
            f"takes. {suggest(model.network, networks())}".rstrip()
        )
    weights = settings.weights if settings.method == "scratch" else model.weights(settings.weights)
    return replace(settings, model=model.network, weights=weights)


def _reject_worker() -> None:
    """Reject training in a worker process, which imports a script that trains without a main guard."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(
            "a script that trains with workers is imported by each of them here, and must not begin to train then. "
            "Put what it does below if __name__ == '__main__':, or train with workers=0."
        )


def resume(run: str | os.PathLike[str], *, progress: Progress = silent, **changes: Any) -> Classifier:
    """Resume a run that was stopped or killed; a finished one is returned unchanged.

    On a CPU with the same number of threads, the final weights equal those of an uninterrupted run, bit for bit.

    Args:
        run: its folder.
        progress: as for `train`.
        changes: settings to change (lr, epochs, time_budget, …).

    Raises:
        UsageError: there is no run, or a setting cannot change.
        InUseError: another process trains in the folder.
        TrainError, PrecisionError: as `train` does.
    """
    _reject_worker()
    folder, launch = Path(run), Launch.from_environment()
    if launch.size == 1:
        _require_resumable(folder, changes)  # before torch is imported
    with ExitStack() as held, _lost_process_as_error(launch) as known:
        distributed = _init_distributed(launch)
        known.append(folder)
        finished = False
        with distributed.raise_together():
            if distributed.is_first:
                _require_resumable(folder, changes)
                held.enter_context(locked_run(folder, "stop it first", LOCK_SECONDS if launch.restarts else 0.0))
                remove_temporaries(folder)
                finished = _is_finished(folder)
                if finished and changes and not is_started_by(folder, launch):
                    raise UsageError(
                        f"{folder} is finished, so nothing can change. Train on from its weights in a new run: "
                        f"vertebra train DATA --method finetune --weights {folder / WEIGHTS}"
                    )
                if launch.run_id is not None and not finished:
                    with resumable_write(folder / LAUNCH):
                        LaunchRecord.of_resumed(folder, launch, _agents(launch, distributed)).write(folder)
        if distributed.broadcast(finished):
            return _finished_run(folder, distributed)
        if launch.size > 1:
            from .machine_checks import require_same_values, require_shared

            require_shared(folder, folder, distributed)
            require_same_values(changes, distributed)
        with distributed.raise_together():
            if fixed := [name for name in FIXED if name in changes]:
                raise UsageError(
                    f"{' and '.join(fixed)} cannot change in the middle of a run. Start a new one for that."
                )
            settings = Settings.from_mapping(read_toml(folder / SETTINGS) | changes, str(folder / SETTINGS))
            _require_one_process(settings, distributed)
            if distributed.is_first and changes:
                write_text(folder / SETTINGS, settings.to_toml())
        return _require_precision(_run(settings, folder, distributed, progress), settings)


def _require_resumable(folder: Path, changes: Mapping[str, Any]) -> None:
    """Reject a folder without a run, settings that cannot be read, and missing packages."""
    if not (folder / SETTINGS).is_file():
        raise UsageError(
            f"{folder} holds no run: there is no {SETTINGS} in it. Start one: vertebra train DATA --out RUN"
        )
    known = Settings.from_mapping({**read_toml(folder / SETTINGS), **changes}, str(folder / SETTINGS))
    if not (folder / METRICS).is_file():
        _require_packages(known)


def _finished_run(folder: Path, distributed: Distributed) -> Classifier:
    if distributed.is_first:
        remove_training_state(folder)
    return _require_precision(Classifier(folder), Settings.from_toml(folder / SETTINGS))


def _is_finished(folder: Path) -> bool:
    if not (folder / METRICS).is_file():
        return False
    if not (folder / MODEL).is_file():
        raise TrainError(f"{folder} is finished, and its {MODEL} is missing. Put it back, or start a new run.")
    return True


def _require_precision(classifier: Classifier, settings: Settings) -> Classifier:
    if settings.strict:
        classifier.check()
    return classifier


def _run(settings: Settings, folder: Path, distributed: Distributed, progress: Progress) -> Classifier:
    with require_extra(_EXTRA, _FEATURE):
        from vertebra.export import ExportError

        from .pipeline import run_probe, run_training
    try:
        with interrupts_as_stopped(folder):
            if settings.method == "probe":
                run_probe(settings, folder, progress)
            else:
                run_training(settings, folder, distributed, progress)
    except ExportError as error:
        # In the run's folder, or in the cache.
        if not isinstance(error.__cause__, OSError):
            raise
        path = Path(error.__cause__.filename or folder / MODEL)
        raise write_error(path, error.__cause__, folder) from error
    return Classifier(folder)
