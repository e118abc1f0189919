"""What preparing a whole network's training has found, kept in the run's folder until the run is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .changed_photos import State
from .metrics import Labels
from .run_folder import START, TrainError, read_json, write_json


@dataclass(frozen=True)
class PreparedTraining:
    """What is known before the first step. Runs of earlier versions lack the fields that have a default."""

    seconds: dict[str, float]  # that each step of preparing took
    classes: Sequence[str]
    probe: dict[str, Any] | None  # what the probe does on the held-out photos
    range: Sequence[tuple[float, float]]  # learning rate and loss of the range test
    notes: Sequence[str]
    found: Mapping[str, Any] | None = None  # by the audit, for the report
    pictures: Mapping[str, list[int]] = field(default_factory=dict)  # split -> number of each photo's picture
    leaked: Mapping[str, str] = field(default_factory=dict)  # as `find_leaks` gives it
    states: list[State | None] | None = None  # of the photos' files, as `states_of` gives them
    table: str | None = None  # digest of the photos' table

    def write(self, folder: Path) -> None:
        """Keep it in the run's folder."""
        write_json(folder / START, asdict(self))

    @staticmethod
    def read(folder: Path) -> PreparedTraining:
        """What `write` wrote.

        Raises:
            TrainError: the file is missing or damaged.
        """
        found = read_json(folder / START)
        try:
            return PreparedTraining(**(found or {}))
        except TypeError as error:
            raise TrainError(
                f"{folder / START} is missing or damaged, so the run cannot go on. Start a new one."
            ) from error

    def pictures_of(self, split: str) -> Labels | None:
        """(N,), equal numbers for photos of a split that show the same picture; None: not known."""
        found = self.pictures.get(split)
        return None if found is None else np.array(found, np.int64)
