"""`vertebra.train`: a folder of photos → a classifier and its report."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.data import resolve_source
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
    holding,
    new_folder,
    not_written,
    refuse_filled,
    remove_progress,
    remove_temporaries,
    resume_command,
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
        out: the folder of the run, new or empty. None: a new one below `runs`.
        progress: called with what is being done, how much of it is done, and how much it has in all.
        options: the other fields of `Settings` (model, method, seed, …).

    Raises:
        UsageError: a setting is not allowed, or the folder is not empty.
        DataError: the photos cannot be used.
        TrainError: the run cannot go on; says what is kept, and how to go on with it.
        PrecisionError: with `strict`: the run is finished and kept, and does not reach `precision`.
    """
    _refuse_worker()
    paths = {name: os.fspath(value) for name, value in options.items() if isinstance(value, os.PathLike)}
    settings = Settings.from_mapping({"data": os.fspath(data), **options, **paths}, "train()")
    settings = _with_network(settings)
    places = (settings.data, settings.weights, settings.image_root)
    if any(text is not None and not Path(text).is_absolute() and Path(text).exists() for text in places):
        settings = replace(settings, cwd=str(Path.cwd()))  # the run may be gone on with from elsewhere
    folder: Path | None = None
    with ExitStack() as held:
        if os.environ.get("WORLD_SIZE", "1") == "1":  # not one of several processes that `torchrun` has started
            # What can be refused without torch is refused before the seconds that its import takes.
            folder = held.enter_context(_begun(settings, out))
            resolve_source(settings.data_from_here, **settings.columns)
        _need(settings)
        with require_extra(_EXTRA, _FEATURE):
            from .distributed import init_distributed
        distributed = init_distributed()
        with distributed.raise_together():
            if distributed.is_first and folder is None:
                folder = held.enter_context(_begun(settings, out))
        classifier = _run(settings, distributed.broadcast(folder), distributed, progress)
    return _checked(classifier, settings)


def _need(settings: Settings) -> None:
    """Refuse at once what an extra is missing for."""
    require_packages(_EXTRA, _FEATURE, "torch", "safetensors", "onnx")
    if settings.method != "probe":
        require_packages(_EXTRA, f"{_FEATURE} with method={settings.method!r}", "torchvision")


def _with_network(settings: Settings) -> Settings:
    """The settings with the network and the weights that its name stands for, which may be one of timm's."""
    model = resolve_model(settings.model, "train")
    if model.network not in networks():
        raise UsageError(
            f"{model.given!r} is a network of another width than those that `vertebra models` lists, which training "
            f"takes. {suggest(model.network, networks())}".rstrip()
        )
    weights = settings.weights if settings.method == "scratch" else model.weights(settings.weights)
    return replace(settings, model=model.network, weights=weights)


def _refuse_worker() -> None:
    """Refuse to train in a worker that has imported a script which trains as it is imported."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(
            "a script that trains with workers is imported by each of them here, and must not begin to train then. "
            "Put what it does below if __name__ == '__main__':, or train with workers=0."
        )


@contextmanager
def _begun(settings: Settings, out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """A new run's folder, held by this process; where nothing comes of it, it is gone afterwards."""
    folder = default_folder(settings.data, settings.model) if out is None else new_folder(Path(out))
    try:
        with holding(folder, "give another --out"), _stoppable(folder):
            refuse_filled(folder)
            try:
                write_durably(folder / SETTINGS, settings.to_toml().encode("utf-8", "surrogateescape"))
            except OSError as error:
                with suppress(OSError):  # where its name alone was not synced
                    (folder / SETTINGS).unlink(missing_ok=True)
                if (folder / SETTINGS).exists():
                    raise not_written(folder / SETTINGS, error) from error
                raise TrainError(
                    f"{folder / SETTINGS} cannot be written ({error.strerror or error}). Nothing was begun. Make room "
                    "there, or give another --out, and run the same command again."
                ) from error
            try:
                yield folder
            except VertebraError as error:
                # The same command is to work once the reason is gone, but where the error names one to go on with.
                with suppress(OSError):
                    nothing = {path.name for path in folder.iterdir()} <= {SETTINGS, LOCK}
                    if nothing and resume_command(folder) not in str(error):
                        (folder / SETTINGS).unlink()
                raise
    finally:
        with suppress(OSError):  # there is something in it
            folder.rmdir()
            if out is None:
                folder.parent.rmdir()


def resume(run: str | os.PathLike[str], *, progress: Progress = silent, **changes: Any) -> Classifier:
    """Go on with a run that was stopped, in whatever way; a finished one is returned as it is.

    On a CPU with the same number of threads, the weights become those of a run that was never stopped, to the bit.

    Args:
        run: its folder.
        progress: as for `train`.
        changes: settings that may change in the middle (lr, epochs, time_budget, …).

    Raises:
        UsageError: there is no run, or a setting cannot change.
        InUseError: another process trains in the folder.
        TrainError, PrecisionError: as `train` does.
    """
    _refuse_worker()
    folder = Path(run)
    if not (folder / SETTINGS).is_file():
        raise UsageError(
            f"{folder} holds no run: there is no {SETTINGS} in it. Start one: vertebra train DATA --out RUN"
        )
    known = Settings.from_mapping(read_toml(folder / SETTINGS) | changes, str(folder / SETTINGS))
    if not (folder / METRICS).is_file():
        _need(known)
    with require_extra(_EXTRA, _FEATURE):
        from .distributed import init_distributed
    distributed = init_distributed()
    with ExitStack() as held:
        finished = False
        with distributed.raise_together():
            if distributed.is_first:
                held.enter_context(holding(folder, "stop it first"))
                remove_temporaries(folder)
                finished = _is_finished(folder)
        if distributed.broadcast(finished):
            if changes:
                raise UsageError(
                    f"{folder} is finished, so nothing can change. Train on from its weights in a new run: "
                    f"vertebra train DATA --method finetune --weights {folder / WEIGHTS}"
                )
            if distributed.is_first:
                remove_progress(folder)
            return _checked(Classifier(folder), Settings.from_toml(folder / SETTINGS))
        if fixed := [name for name in FIXED if name in changes]:
            raise UsageError(f"{' and '.join(fixed)} cannot change in the middle of a run. Start a new one for that.")
        with distributed.raise_together():
            settings = Settings.from_mapping(read_toml(folder / SETTINGS) | changes, str(folder / SETTINGS))
            if distributed.is_first and changes:
                write_text(folder / SETTINGS, settings.to_toml())
        return _checked(_run(settings, folder, distributed, progress), settings)


@contextmanager
def _stoppable(folder: Path) -> Iterator[None]:
    """Inside, Ctrl-C and a polite kill say how to go on, but for the steps of training, which end by themselves.

    What has been found out until then is in the cache.
    """
    try:
        with raise_on_termination():
            yield
    except KeyboardInterrupt as interrupt:
        if not (folder / SETTINGS).is_file():
            raise  # nothing has begun
        exit_code = interrupt.exit_code if isinstance(interrupt, Terminated) else 130
        raise Stopped(f"stopped. Go on with: {resume_command(folder)}", exit_code) from interrupt


def _is_finished(folder: Path) -> bool:
    if not (folder / METRICS).is_file():
        return False
    if not (folder / MODEL).is_file():
        raise TrainError(f"{folder} is finished, and its {MODEL} is missing. Put it back, or start a new run.")
    return True


def _checked(classifier: Classifier, settings: Settings) -> Classifier:
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
        with _stoppable(folder):
            if settings.method == "probe":
                run_probe(settings, folder, progress)
            else:
                run_training(settings, folder, distributed, progress)
    except LostProcessError as error:
        raise TrainError(f"another process ended: {error}. Go on with: {resume_command(folder)}") from error
    except ExportError as error:
        # Into the run's folder, or into the cache.
        if not isinstance(error.__cause__, OSError):
            raise
        path = Path(error.__cause__.filename or folder / MODEL)
        raise not_written(path, error.__cause__, folder) from error
    return Classifier(folder)
