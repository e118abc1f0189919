"""`vertebra.train`: a folder of photos → a classifier and its report."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.data import is_public_name, resolve_source
from vertebra.errors import UsageError, VertebraError, require_extra, require_packages, suggest
from vertebra.files import write_durably
from vertebra.model_argument import resolve_model
from vertebra.model_table import networks
from vertebra.progress import Progress, silent
from vertebra.signals import Terminated, raise_on_termination

from .run_folder import (
    LOCK,
    METRICS,
    MODEL,
    SETTINGS,
    WEIGHTS,
    Stopped,
    TrainError,
    default_folder,
    locked_run,
    new_folder,
    remove_temporaries,
    remove_training_state,
    require_empty,
    resume_command,
    write_error,
    write_text,
)
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
    paths = {name: os.fspath(value) for name, value in options.items() if isinstance(value, os.PathLike)}
    settings = Settings.from_mapping({"data": os.fspath(data), **options, **paths}, "train()")
    settings = _resolve_network(settings)
    places = (None if is_public_name(settings.data) else settings.data, settings.weights, settings.image_root)
    if any(text is not None and not Path(text).is_absolute() and Path(text).exists() for text in places):
        settings = replace(settings, cwd=str(Path.cwd()))  # the run may be resumed from another folder
    folder: Path | None = None
    with ExitStack() as held:
        if os.environ.get("WORLD_SIZE", "1") == "1":  # not started by torchrun
            # Reject what can be rejected before torch is imported, which takes seconds.
            folder = held.enter_context(_new_run(settings, out))
            resolve_source(settings.resolved_data, **settings.columns)
        _require_packages(settings)
        with require_extra(_EXTRA, _FEATURE):
            from .distributed import init_distributed
        distributed = init_distributed()
        with distributed.raise_together():
            if distributed.is_first and folder is None:
                folder = held.enter_context(_new_run(settings, out))
        classifier = _run(settings, distributed.broadcast(folder), distributed, progress)
    return _require_precision(classifier, settings)


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


@contextmanager
def _new_run(settings: Settings, out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Create and lock a new run's folder; remove it if nothing was written."""
    folder = default_folder(settings.data, settings.model) if out is None else new_folder(Path(out))
    try:
        with locked_run(folder, "give another --out"), _interrupts_as_stopped(folder):
            require_empty(folder)
            try:
                write_durably(folder / SETTINGS, settings.to_toml().encode("utf-8", "surrogateescape"))
            except OSError as error:
                with suppress(OSError):  # if only syncing the folder failed
                    (folder / SETTINGS).unlink(missing_ok=True)
                if (folder / SETTINGS).exists():
                    raise write_error(folder / SETTINGS, error) from error
                raise TrainError(
                    f"{folder / SETTINGS} cannot be written ({error.strerror or error}). Nothing was begun. Make room "
                    "there, or give another --out, and run the same command again."
                ) from error
            try:
                yield folder
            except VertebraError as error:
                # The same command must work once the cause is removed, unless the error says how to resume.
                with suppress(OSError):
                    nothing = {path.name for path in folder.iterdir()} <= {SETTINGS, LOCK}
                    if nothing and resume_command(folder) not in str(error):
                        (folder / SETTINGS).unlink()
                raise
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()
            if out is None:
                folder.parent.rmdir()


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
    folder = Path(run)
    if not (folder / SETTINGS).is_file():
        raise UsageError(
            f"{folder} holds no run: there is no {SETTINGS} in it. Start one: vertebra train DATA --out RUN"
        )
    known = Settings.from_mapping(read_toml(folder / SETTINGS) | changes, str(folder / SETTINGS))
    if not (folder / METRICS).is_file():
        _require_packages(known)
    with require_extra(_EXTRA, _FEATURE):
        from .distributed import init_distributed
    distributed = init_distributed()
    with ExitStack() as held:
        finished = False
        with distributed.raise_together():
            if distributed.is_first:
                held.enter_context(locked_run(folder, "stop it first"))
                remove_temporaries(folder)
                finished = _is_finished(folder)
        if distributed.broadcast(finished):
            if changes:
                raise UsageError(
                    f"{folder} is finished, so nothing can change. Train on from its weights in a new run: "
                    f"vertebra train DATA --method finetune --weights {folder / WEIGHTS}"
                )
            if distributed.is_first:
                remove_training_state(folder)
            return _require_precision(Classifier(folder), Settings.from_toml(folder / SETTINGS))
        if fixed := [name for name in FIXED if name in changes]:
            raise UsageError(f"{' and '.join(fixed)} cannot change in the middle of a run. Start a new one for that.")
        with distributed.raise_together():
            settings = Settings.from_mapping(read_toml(folder / SETTINGS) | changes, str(folder / SETTINGS))
            if distributed.is_first and changes:
                write_text(folder / SETTINGS, settings.to_toml())
        return _require_precision(_run(settings, folder, distributed, progress), settings)


@contextmanager
def _interrupts_as_stopped(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `Stopped`, which says how to resume; training steps handle them themselves.

    Features computed so far are in the cache.
    """
    try:
        with raise_on_termination():
            yield
    except KeyboardInterrupt as interrupt:
        if not (folder / SETTINGS).is_file():
            raise  # nothing to resume
        exit_code = interrupt.exit_code if isinstance(interrupt, Terminated) else 130
        raise Stopped(f"stopped. Resume with: {resume_command(folder)}", exit_code) from interrupt


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

        from .distributed import LostProcessError
        from .pipeline import run_probe, run_training
    if settings.method == "probe" and distributed.size > 1:
        raise UsageError(
            "the probe has nothing to share among processes: its features are computed once. Start it without "
            "torchrun, or with --method finetune."
        )
    try:
        with _interrupts_as_stopped(folder):
            if settings.method == "probe":
                run_probe(settings, folder, progress)
            else:
                run_training(settings, folder, distributed, progress)
    except LostProcessError as error:
        raise TrainError(f"another process ended: {error}. Resume with: {resume_command(folder)}") from error
    except ExportError as error:
        # In the run's folder, or in the cache.
        if not isinstance(error.__cause__, OSError):
            raise
        path = Path(error.__cause__.filename or folder / MODEL)
        raise write_error(path, error.__cause__, folder) from error
    return Classifier(folder)
