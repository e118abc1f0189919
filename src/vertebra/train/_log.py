"""What a run tells while it trains: `metrics.jsonl`, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from ._run import TrainError, write_text

LOG, BOARD = "metrics.jsonl", "tensorboard"


class Log:
    """One line a record, in the order of the steps; going on from a step forgets what came after it."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / LOG
        kept = [record for record in read_log(folder) if record["step"] <= step]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / BOARD), purge_step=step + 1 if step else None)

    def write(self, step: int, **values: float) -> None:
        """Add what was measured at a step.

        Raises:
            TrainError: the disk is full.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
                self._board.flush()
        except OSError as error:
            raise TrainError(f"{self._path} cannot be written ({error.strerror or error}).") from error

    def close(self) -> None:
        """End TensorBoard's writer."""
        if self._board is not None:
            self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All records; a line that was being written when the process was killed is left out."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
