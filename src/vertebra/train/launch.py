"""How torchrun started this process, from its environment. Standard library only."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# torchrun's --rdzv-id where none is given: any number of jobs have it.
_NO_RUN_ID = ("", "none")


class LostProcessError(RuntimeError):
    """Another process ended, cannot be reached or did not start, for an unknown reason."""


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that torchrun started; without torchrun, a single process.

    The fields are environment variables that torchrun documents
    (https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables).
    """

    rank: int = 0
    size: int = 1  # processes
    local_rank: int = 0
    local_size: int = 1  # processes on this machine
    node: int = 0  # of this machine's torchrun
    run_id: str | None = None  # None: not started by torchrun
    agent: str | None = None  # identifies one run of torchrun on one machine, whatever it restarts
    restarts: int = 0  # so far, by this machine's torchrun
    max_restarts: int = 0

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Launch:
        """Read what torchrun sets."""

        def number(name: str, default: int) -> int:
            return int(environment.get(name) or default)

        # torchrun makes a folder with a random name, in which each restart has a folder attempt_N/RANK for this file.
        error_file = environment.get("TORCHELASTIC_ERROR_FILE", "")
        folders = Path(error_file).parents
        return Launch(
            rank=number("RANK", 0),
            size=number("WORLD_SIZE", 1),
            local_rank=number("LOCAL_RANK", 0),
            local_size=number("LOCAL_WORLD_SIZE", 1),
            node=number("GROUP_RANK", 0),
            run_id=environment.get("TORCHELASTIC_RUN_ID"),
            agent=f"{socket.gethostname()}:{folders[2]}" if error_file and len(folders) > 3 else None,
            restarts=number("TORCHELASTIC_RESTART_COUNT", 0),
            max_restarts=number("TORCHELASTIC_MAX_RESTARTS", 0),
        )

    @property
    def is_named(self) -> bool:
        """Whether the user, or torchrun on a single machine, gave the job an id of its own."""
        return self.run_id is not None and self.run_id not in _NO_RUN_ID

    @property
    def is_restarted_next(self) -> bool:
        """Whether torchrun starts all processes again if one fails."""
        return self.run_id is not None and self.restarts < self.max_restarts
