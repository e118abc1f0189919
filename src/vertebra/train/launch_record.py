"""`torchrun.json` in the folder of a run: the torchrun job that writes there, so that its restarts go on with the run.

torchrun starts all processes again with the same command line after one has failed. They find the run by this file:
it has the job's id, the settings of the command line, and which torchrun (one on each machine) started the processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vertebra.files import write_durably
from vertebra.strict_json import dumps

from .launch import Launch
from .run_folder import LAUNCH, METRICS, read_json
from .train_settings import Settings


@dataclass(frozen=True)
class LaunchRecord:
    """The contents of `torchrun.json`."""

    run_id: str  # torchrun's --rdzv-id
    agents: list[str]  # `Launch.agent` of each machine
    settings: str | None  # SHA-256 of those of the command line; None: the run was resumed, and begun without torchrun
    processes: int
    restarts: int
    token: str  # random, another at each start; tells whether another machine has the same folder

    @staticmethod
    def new(launch: Launch, agents: Collection[str], settings: Settings | None) -> LaunchRecord:
        """Return the record of these processes."""
        digest = None if settings is None else _digest(settings)
        token = os.urandom(16).hex()
        return LaunchRecord(launch.run_id or "", sorted(agents), digest, launch.size, launch.restarts, token)

    @staticmethod
    def of_resumed(folder: Path, launch: Launch, agents: Collection[str]) -> LaunchRecord:
        """Return the record of these processes, which resume a run by its folder."""
        before = LaunchRecord.read(folder)
        return replace(LaunchRecord.new(launch, agents, None), settings=None if before is None else before.settings)

    @staticmethod
    def read(folder: Path) -> LaunchRecord | None:
        """Read the record of a run; None: torchrun did not start it, or the file is damaged."""
        found = read_json(folder / LAUNCH) or {}
        if not isinstance(found.get("agents"), list):
            return None
        try:
            return LaunchRecord(**found)
        except TypeError:
            return None

    def write(self, folder: Path) -> None:
        """Write it into the folder of a run, or raise an OSError."""
        write_durably(folder / LAUNCH, (dumps(asdict(self), indent=1) + "\n").encode())

    def is_same_job(self, launch: Launch, agents: Collection[str], settings: Settings, *, finished: bool) -> bool:
        """Return whether processes with these settings are restarts of the job that wrote this record.

        They are if the same torchrun started both. They are too if the job's id is the same, was chosen for it, and the
        run is not finished: then every torchrun of the job was started again. An id may be used for several jobs, so
        the settings must be the same.
        """
        if launch.run_id != self.run_id or _digest(settings) != self.settings:
            return False
        return not set(agents).isdisjoint(self.agents) or (launch.is_named and not finished)


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings of a command line, without the folder that it was given in."""
    return {name: value for name, value in asdict(settings).items() if name != "cwd"}


def _digest(settings: Settings) -> str:
    return hashlib.sha256(dumps(recorded_settings(settings)).encode()).hexdigest()


def is_started_by(folder: Path, launch: Launch) -> bool:
    """Return whether the torchrun of this process has started processes for the run in this folder before."""
    record = LaunchRecord.read(folder)
    return record is not None and launch.agent in record.agents


def is_run_of_job(folder: Path, launch: Launch, agents: Collection[str], settings: Settings) -> bool:
    """Return whether an earlier start of this job began the run in this folder."""
    if launch.run_id is None or (record := LaunchRecord.read(folder)) is None:
        return False
    return record.is_same_job(launch, agents, settings, finished=(folder / METRICS).is_file())


def find_run(runs: Path, launch: Launch, agents: Collection[str], settings: Settings) -> Path | None:
    """Return the run below `runs` that an earlier start of this job began; None: there is none."""
    if launch.run_id is None:
        return None
    found = (path.parent for path in sorted(runs.glob(f"*/{LAUNCH}")))
    return next((folder for folder in found if is_run_of_job(folder, launch, agents, settings)), None)
