"""The experiments by number and name, which the file names of `experiments/` give: claim04a_parallel_branches.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from vertebra.errors import UsageError, suggest

from .experiment import Experiment

_FILE = re.compile(r"claim(\d+)([a-z]?)_(\w+)")


@dataclass(frozen=True)
class Entry:
    """An experiment that is not imported yet."""

    number: str  # "1", "4a"
    name: str  # "parallel-branches"
    path: Path

    def load(self) -> Experiment:
        """Import the module, and torch with it."""
        return cast(Experiment, import_module(f"{__package__}.experiments.{self.path.stem}"))


@cache
def entries() -> tuple[Entry, ...]:
    """All experiments in the order of the claims."""
    found = []
    for path in (Path(__file__).parent / "experiments").glob("claim*.py"):
        if match := _FILE.fullmatch(path.stem):
            number, letter, name = match.groups()
            found.append((int(number), letter, Entry(f"{int(number)}{letter}", name.replace("_", "-"), path)))
    return tuple(entry for *_, entry in sorted(found, key=lambda item: item[:2]))


def find(names: Sequence[str]) -> tuple[Entry, ...]:
    """The experiments of these names or numbers, each once, in the order given; "all" for all.

    Raises:
        UsageError: there is none of that name.
    """
    found: dict[str, Entry] = {}
    for name in names:
        for entry in entries() if name == "all" else (_find_one(name),):
            found[entry.name] = entry
    return tuple(found.values())


def _find_one(name: str) -> Entry:
    wanted = str(name).strip().lower().replace("_", "-")
    for entry in entries():
        if wanted.lstrip("0") == entry.number or wanted == entry.name:
            return entry
    names = [entry.name for entry in entries()]
    hint = suggest(wanted, names) or "See: vertebra lab list"
    numbers = f"numbers are {entries()[0].number} to {entries()[-1].number}, and 4 is 4a and 4b"
    raise UsageError(f"there is no experiment {name!r}; {numbers}. {hint}")
