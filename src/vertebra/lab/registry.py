"""The experiments by number and name, which the file names of `experiments/` give: claim04a_parallel_branches.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from vertebra.errors import UsageError, shortened, suggest

from .experiment import Experiment

ALL = "all"
_FILE = re.compile(r"claim(\d+)([a-z]?)_(\w+)")


@dataclass(frozen=True)
class Entry:
    """An experiment that is not imported yet."""

    number: str  # "1", "4a"
    name: str  # "parallel-branches"
    path: Path

    @property
    def stem(self) -> str:
        """The number and name as files are called: `"01-vgg-parameters"`, `"04a-parallel-branches"`."""
        return f"{self.number.rjust(2 + self.number[-1:].isalpha(), '0')}-{self.name}"

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


def find(names: str | int | Sequence[str | int]) -> tuple[Entry, ...]:
    """The experiments of these names or numbers, in the order given; "all" for all, 4 for 4a and 4b.

    Raises:
        UsageError: there is none of that name, one is named twice, or "all" beside others.
    """
    texts = [str(name) for name in ([names] if isinstance(names, str | int) else names)]
    if ALL in texts and len(texts) > 1:
        raise UsageError(
            f"{ALL!r} stands beside {next((t for t in texts if t != ALL), ALL)!r}. Give it alone, or names."
        )
    found: dict[str, str] = {}
    by_name = {entry.name: entry for entry in entries()}
    for text in texts:
        for entry in entries() if text == ALL else _of_one(text):
            if entry.name in found:
                raise UsageError(
                    f"experiment {entry.number} ({entry.name}) is named twice: {found[entry.name]} and {text}."
                )
            found[entry.name] = text
    return tuple(by_name[name] for name in found)


def find_one(name: str | int) -> Entry:
    """The one experiment of this name or number.

    Raises:
        UsageError: there is none, or several: 4 is 4a and 4b.
    """
    found = _of_one(str(name))
    if len(found) > 1:
        raise UsageError(f"{name} is {' and '.join(f'{e.number} ({e.name})' for e in found)}. Give one of them.")
    return found[0]


def _of_one(text: str) -> tuple[Entry, ...]:
    """The experiment of a name or number, or the parts of a number."""
    wanted = text.strip().lower().replace("_", "-")
    number = wanted.lstrip("0")
    found = [entry for entry in entries() if number == entry.number or wanted == entry.name]
    if not found and number.isdecimal():
        found = [entry for entry in entries() if re.fullmatch(rf"{number}[a-z]", entry.number)]
    if not found:
        numbers = f"numbers are {entries()[0].number} to {entries()[-1].number}"
        hint = suggest(wanted, [entry.name for entry in entries()]) or "See: vertebra lab list"
        raise UsageError(f"there is no experiment {shortened(text)!r}; {numbers}. {hint}")
    return tuple(found)
