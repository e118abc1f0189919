"""`vertebra.train`: a folder of photos → a classifier and its report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError, VertebraError

from ._classifier import Classifier
from ._finetune import run_finetune
from ._fit import Stopped, terminable
from ._probe import run_probe
from ._run import METRICS, MODEL, SETTINGS, Tell, default_folder, new_folder, read_shared, write_text
from ._settings import FIXED, Settings, read_toml
from ._world import World, current_world


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    tell: Tell = lambda what, done, total: None,
    **options: Any,
) -> Classifier:
    """Train a classifier on labelled photos.

    Args:
        data: class folders, a table, or a name, as `vertebra audit` takes them.
        out: the folder of the run, new or empty. None: a new one below `runs`.
        tell: called with what is being done, how much of it is done, and how much it has in all.
        options: the other fields of `Settings` (model, method, seed, …).

    Raises:
        UsageError: a setting is not allowed, or the folder is not empty.
        DataError: the photos cannot be used.
        TrainError: the run cannot go on; says what is kept, and how to go on with it.
        PrecisionError: with `strict`: the run is finished and kept, and does not reach `precision`.
    """
    settings = Settings.from_mapping({"data": os.fspath(data), **options}, "train()")
    world = current_world()
    folder = Path(out) if out is not None else default_folder(settings.data, settings.model)
    if world.first:
        new_folder(folder)
        write_text(folder / SETTINGS, settings.to_toml())
    try:
        classifier = _run(settings, read_shared(world, folder), world, tell)
    except VertebraError as error:
        # Nothing came of it: the same command is to work once the reason is gone.
        if not isinstance(error, Stopped) and world.first and [path.name for path in folder.iterdir()] == [SETTINGS]:
            (folder / SETTINGS).unlink()
            folder.rmdir()
        raise
    return _checked(classifier, settings)


def resume(run: str | os.PathLike[str], *, tell: Tell = lambda what, done, total: None, **changes: Any) -> Classifier:
    """Go on with a run that was stopped, in whatever way; a finished one is returned as it is.

    On a CPU with the same number of threads, the weights become those of a run that was never stopped, to the bit.

    Args:
        run: its folder.
        tell: as for `train`.
        changes: settings that may change in the middle (lr, epochs, time_budget, …).

    Raises:
        UsageError: there is no run, or a setting cannot change.
        TrainError, PrecisionError: as `train` does.
    """
    folder = Path(run)
    if not (folder / SETTINGS).is_file():
        raise UsageError(
            f"{folder} holds no run: there is no {SETTINGS} in it. Start one: vertebra train DATA --out RUN"
        )
    if (folder / METRICS).is_file() and (folder / MODEL).is_file():
        if changes:
            raise UsageError(
                f"{folder} is finished, so nothing can change. Train on from its weights in a new run: "
                f"vertebra train DATA --method finetune --weights {folder / 'weights.safetensors'}"
            )
        return _checked(Classifier(folder), Settings.from_toml(folder / SETTINGS))
    if fixed := [name for name in FIXED if name in changes]:
        raise UsageError(f"{' and '.join(fixed)} cannot change in the middle of a run. Start a new one for that.")
    settings = Settings.from_mapping(read_toml(folder / SETTINGS) | changes, str(folder / SETTINGS))
    world = current_world()
    if world.first and changes:
        write_text(folder / SETTINGS, settings.to_toml())
    return _checked(_run(settings, folder, world, tell), settings)


def _checked(classifier: Classifier, settings: Settings) -> Classifier:
    if settings.strict:
        classifier.check()
    return classifier


def _run(settings: Settings, folder: Path, world: World, tell: Tell) -> Classifier:
    if settings.method == "probe" and world.size > 1:
        raise UsageError(
            "the probe has nothing to share among processes: its features are computed once. Start it without "
            "torchrun, or with --method finetune."
        )
    try:
        with terminable():
            if settings.method == "probe":
                return run_probe(settings, folder, tell)
            return run_finetune(settings, folder, world, tell)
    except KeyboardInterrupt as interrupt:
        # Between the steps of training; what has been found out until now is in the cache.
        raise Stopped(f"stopped. Go on with: vertebra train --resume {folder}") from interrupt
