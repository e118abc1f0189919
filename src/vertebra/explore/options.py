"""What is asked for besides what every page has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vertebra.errors import UsageError

from .observation import Structure
from .parts import find_part
from .weighted_layers import Cell, asked_cell

ChannelsArgument = int | str | Mapping[str, int | Sequence[int]] | Sequence[str] | None


@dataclass(frozen=True)
class Channels:
    """Which channels are asked for: so many of each stage and block, or these of a part."""

    count: int | None = None
    by_name: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # id of a part, or path of its module

    @classmethod
    def of_argument(cls, given: ChannelsArgument) -> Channels:
        """From a number, a mapping of parts to channels, or texts as the command line has them: "16", "layer4:5,17".

        Raises:
            UsageError: it is anything else.
        """
        if isinstance(given, Mapping):
            each = {name: numbers if isinstance(numbers, Sequence) else [numbers] for name, numbers in given.items()}
            texts = [f"{name}:{','.join(map(str, numbers))}" for name, numbers in each.items()]
        elif isinstance(given, str) or not isinstance(given, Sequence):
            texts = [] if given is None else [str(given)]
        else:
            texts = [str(text) for text in given]
        count: int | None = None
        by_name: dict[str, tuple[int, ...]] = {}
        for text in texts:
            name, colon, numbers = (piece.strip() for piece in text.rpartition(":"))
            try:
                found = tuple(int(number) for number in numbers.split(","))
            except ValueError:
                found = (-1,)
            if min(found) < 0 or (not name if colon else len(found) > 1 or found[0] < 1):
                allowed = "it must be how many of each part (16), or a part with its channels from 0 (layer4:5,17)."
                raise UsageError(f"channels is {given!r}; {allowed}", f"--channels is {text!r}; {allowed}")
            if colon:
                by_name[name] = tuple(dict.fromkeys((*by_name.get(name, ()), *found)))
            else:
                count = found[0]
        return cls(count, by_name)

    def by_row(self, structure: Structure) -> dict[int, list[int]]:
        """Those that are asked for by the row whose output they are, of the parts that this network has."""
        found: dict[int, list[int]] = {}
        for name, numbers in self.by_name.items():
            with suppress(UsageError):  # then another network has it: see `Options.check`
                row = _row_with(structure, name, numbers)
                found[row] = [*dict.fromkeys((*found.get(row, ()), *numbers))]
        return found

    def of_level(self, level: str, usual: int) -> int:
        """How many are shown of a part of this level."""
        return usual if self.count is None or level == "layer" else self.count


@dataclass(frozen=True)
class Options:
    """The arguments of `explore` that decide what is shown."""

    language: str = "en"
    values: tuple[str, ...] = ()  # LAYER,C,Y,X, to be worked out
    channels: Channels = field(default_factory=Channels)
    photos: tuple[Path, ...] = ()  # whose patches are shown
    folder: Path = Path()  # of these photos

    def check(self, structures: Sequence[Structure]) -> None:
        """Raise the `UsageError` of a value or channel that none of the networks has."""
        for text in self.values:
            _require_one(structures, partial(asked_cell, text=text))
        for name, numbers in self.channels.by_name.items():
            _require_one(structures, partial(_row_with, name=name, channels=numbers))

    def cells(self, structure: Structure) -> dict[int, list[Cell]]:
        """By row the cells that are asked for, of those that this network has."""
        found: dict[int, list[Cell]] = {}
        for text in self.values:
            with suppress(UsageError):
                row, cell = asked_cell(structure, text)
                if cell not in found.setdefault(row, []):
                    found[row].append(cell)
        return found


def _row_with(structure: Structure, name: str, channels: Sequence[int]) -> int:
    """The row of a part's output, maps that have these channels."""
    part = find_part(structure.parts, name)
    if len(part.shape) != 3:
        raise UsageError(f"{name} has no maps: its output is {' × '.join(map(str, part.shape))}.")
    if max(channels) >= part.shape[0]:
        raise UsageError(f"{name} has {part.shape[0]} channels, 0 to {part.shape[0] - 1}; there is no {max(channels)}.")
    return part.row


def _require_one(structures: Sequence[Structure], find: Callable[[Structure], object]) -> None:
    errors = []
    for structure in structures:
        try:
            find(structure)
        except UsageError as error:
            errors.append(error)
    if len(errors) == len(structures):
        raise errors[0]
