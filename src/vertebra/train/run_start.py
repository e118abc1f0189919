"""Begin a run: its folder, created and locked; or, after torchrun has started all processes again, found and locked."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vertebra.errors import VertebraError
from vertebra.files import write_durably
from vertebra.signals import Terminated, raise_on_termination

from .launch import Launch
from .launch_record import LaunchRecord, find_run, is_run_of_job
from .run_folder import (
    LAUNCH,
    LOCK,
    RUNS,
    SETTINGS,
    Stopped,
    TrainError,
    default_folder,
    locked_run,
    new_folder,
    remove_temporaries,
    require_empty,
    resume_command,
    write_error,
)
from .train_settings import Settings

# A process that cannot end at once, as one that waits for a disk, still holds the lock. torchrun kills it after 30 s.
LOCK_SECONDS = 40.0


def begun_by_job(
    settings: Settings, out: str | os.PathLike[str] | None, launch: Launch, agents: Collection[str]
) -> Path | None:
    """Return the folder of the run that an earlier start of this torchrun job began; None: there is none."""
    if out is None:
        return find_run(RUNS, launch, agents, settings)
    return Path(out) if is_run_of_job(Path(out), launch, agents, settings) else None


@contextmanager
def begin_run(
    settings: Settings,
    out: str | os.PathLike[str] | None,
    launch: Launch,
    agents: Collection[str] = (),
    begun: Path | None = None,
) -> Iterator[Path]:
    """Create and lock a new run's folder, or lock the one that `begun_by_job` found; remove it if nothing was written.

    Args:
        settings: of the command line.
        out: the folder; None: a new one in `runs`.
        launch: of this process.
        agents: `Launch.agent` of all machines.
        begun: from `begun_by_job`.
    """
    folder = begun or (default_folder(settings.data, settings.model) if out is None else new_folder(Path(out)))
    remedy, wait = ("give another --out", 0.0) if begun is None else ("stop it first", LOCK_SECONDS)
    try:
        with locked_run(folder, remedy, wait), interrupts_as_stopped(folder):
            if begun is None:
                require_empty(folder)
            remove_temporaries(folder)
            _write_start(folder, settings, launch, agents)
            try:
                yield folder
            except VertebraError as error:
                # The same command must work once the cause is removed, unless the error says how to resume.
                with suppress(OSError):
                    nothing = {path.name for path in folder.iterdir()} <= {SETTINGS, LAUNCH, LOCK}
                    if nothing and resume_command(folder) not in str(error):
                        (folder / SETTINGS).unlink()
                        (folder / LAUNCH).unlink(missing_ok=True)
                raise
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()
            if out is None:
                folder.parent.rmdir()


def _write_start(folder: Path, settings: Settings, launch: Launch, agents: Collection[str]) -> None:
    """Write the settings, unless they are there; torchrun's record before them, so that a killed job finds the run."""
    begun = (folder / SETTINGS).exists()
    path = folder / LAUNCH
    try:
        if launch.run_id is not None:
            LaunchRecord.new(launch, agents, settings).write(folder)
        path = folder / SETTINGS
        if not begun:
            write_durably(path, settings.to_toml().encode("utf-8", "surrogateescape"))
    except OSError as error:
        if not begun:
            for written in (folder / SETTINGS, folder / LAUNCH):
                with suppress(OSError):  # if only syncing the folder failed
                    written.unlink(missing_ok=True)
        if (folder / SETTINGS).exists():
            raise write_error(path, error) from error
        raise TrainError(
            f"{path} cannot be written ({error.strerror or error}). Nothing was begun. Make room there, or give "
            "another --out, and run the same command again."
        ) from error


@contextmanager
def interrupts_as_stopped(folder: Path) -> Iterator[None]:
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
