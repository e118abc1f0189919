"""The log of a training run: `metrics.jsonl`, and TensorBoard if it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from vertebra.files import AppendOnlyFile, utf8_name
from vertebra.strict_json import dumps

from .run_folder import LOG, resumable_write, write_text

BOARD = "tensorboard"


class Log:
    """Writes one record per line; resuming from a step drops later records.

    A TrainError if a file cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / LOG
        kept = [record for record in read_log(folder) if record["step"] <= step]
        write_text(self._path, "".join(dumps(record) + "\n" for record in kept))
        self._board: Any = None
        self._named = contextlib.ExitStack()
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            board = folder / BOARD
            with resumable_write(board):
                board.mkdir(exist_ok=True)
                named = self._named.enter_context(utf8_name(board))
                self._board = SummaryWriter(str(named), purge_step=step + 1 if step else None)
        with resumable_write(self._path):
            self._lines = AppendOnlyFile(self._path)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._lines.close()
        if self._board is None:
            return
        # An error that ended the run takes precedence over one of closing the log.
        guard = contextlib.suppress(OSError) if kind else resumable_write(self._path.parent / BOARD)
        with self._named, guard:
            self._board.close()

    def write(self, step: int, **values: float) -> None:
        """Append a record, durable before the next checkpoint."""
        with resumable_write(self._path):
            self._lines.append((dumps({"step": step, **values}) + "\n").encode())
            self._lines.sync()
        if self._board is not None:
            with resumable_write(self._path.parent / BOARD):
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
                self._board.flush()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read all records; a line cut off by a kill is skipped."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            # NaN and infinite values are null in the file.
            found.append({name: math.nan if value is None else value for name, value in record.items()})
    return found
