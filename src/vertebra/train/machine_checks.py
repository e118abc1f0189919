"""Checks that all machines were started with the same command, write into one folder and have the same photos."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError
from vertebra.progress import Progress
from vertebra.units import counted

from .distributed import Distributed
from .launch_record import LaunchRecord
from .resume_checks import FileState, changed_photos, missing_photos
from .run_folder import TrainError

# A network file system may show a new file this late on another machine (`acdirmax` of NFS is 60 s; a file that was
# never looked for is usually there at once).
_SHARING_SECONDS = 20.0
_POLL_SECONDS = 0.25


def require_same_values(values: Mapping[str, Any], distributed: Distributed) -> None:
    """Raise a UsageError in all processes if their settings differ from those of rank 0."""
    first = distributed.broadcast(dict(values))
    with distributed.raise_together():
        for name in sorted(first | values):
            if values.get(name) != first.get(name):
                here, there = (
                    f"without {name}" if name not in entry else f"with {name} {entry[name]!r}"
                    for entry in (values, first)
                )
                raise UsageError(
                    f"{machine(distributed)} was started {here}, and {first_machine(distributed)} {there}. Start all "
                    "with the same command."
                )


def require_shared(own: Path | None, folder: Path | None, distributed: Distributed) -> Path:
    """Return the run's folder as this process names it, once it is known to be that of rank 0.

    Args:
        own: the folder of this process's command line; None: none was given.
        folder: the run's, locked by rank 0; it is not used in the others.
        distributed: all processes.

    Raises:
        UsageError: in all processes: one of them has another folder of that name.
    """
    record = LaunchRecord.read(folder) if folder is not None and distributed.is_first else None
    place, token = distributed.broadcast((None if folder is None else str(folder.absolute()), record and record.token))
    found = folder if folder is not None and distributed.is_first else own or Path(place)
    with distributed.raise_together():
        if not distributed.is_first and token is not None and not _has_token(found, token):
            raise UsageError(
                f"{found.absolute()} on {machine(distributed)} is not the folder {place} of "
                f"{first_machine(distributed)}, which writes the run. All machines must share one folder: give each "
                "the same --out, on a file system that all of them have."
            )
    return found


def _has_token(folder: Path, token: str) -> bool:
    deadline = time.monotonic() + _SHARING_SECONDS
    while (record := LaunchRecord.read(folder)) is None or record.token != token:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def require_same_photos(
    folder: Path, states: Sequence[FileState | None] | None, distributed: Distributed, progress: Progress
) -> None:
    """Raise a TrainError in all processes if another machine's photos differ from those that rank 0 has found.

    One process of each machine looks at the files. Those on a shared file system have the same state as in `states`,
    and are not read; of copies, the SHA-256 is computed.
    """
    with distributed.raise_together():
        if _is_first_of_other_machine(distributed):
            missing = missing_photos(folder)
            what = changed_photos(folder, states, progress) if not missing else ""
            if missing:
                what = f"{counted(len(missing), 'photo')} of the run {'is' if len(missing) == 1 else 'are'} missing"
                what += f" ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''})"
            if what:
                raise TrainError(
                    f"{machine(distributed)} has other photos than {first_machine(distributed)}: {what}. Put all "
                    "photos under the same path on each machine, or on a file system that all share, and start again."
                )


def _is_first_of_other_machine(distributed: Distributed) -> bool:
    peers = distributed.peers
    if not peers or peers[distributed.rank].node == peers[0].node:
        return False
    return distributed.rank == min(peer.rank for peer in peers if peer.node == peers[distributed.rank].node)


def machine(distributed: Distributed) -> str:
    """Return this process's machine, for messages."""
    return distributed.peers[distributed.rank].machine


def first_machine(distributed: Distributed) -> str:
    """Return the machine of rank 0, for messages."""
    return distributed.peers[0].machine
