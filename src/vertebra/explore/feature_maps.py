"""Feature maps for the page: which channels of which parts, as many as there is room for, and their values as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .encoding import AROUND_PIECES, base64_length, deflated_piece, joined, quantised, rounded
from .notes import Note
from .observation import Observation
from .options import Channels
from .parts import Part
from .strongest import STRONGEST, strongest_channels

# Level of the parts, channels of each, and the share of the room that is used up to here.
LEVELS = (("stage", STRONGEST, 0.5), ("block", STRONGEST, 0.8), ("layer", 8, 1.0))


@dataclass(frozen=True)
class QuantisedMaps:
    """Channels of one image's maps in 256 steps, of which the first ones can be taken without the others."""

    head: dict[str, Any]
    by_channel: dict[str, list[Any] | None]
    steps: Tensor  # uint8, (channels, H, W)
    pieces: list[bytes]  # the deflated channels

    def bytes(self, count: int) -> int:
        """Of JSON for the first channels, a few too many: each has a number and three values of 14 characters."""
        return base64_length(sum(map(len, self.pieces[:count])) + AROUND_PIECES) + 48 * count + 120

    def to_dict(self, count: int) -> dict[str, Any]:
        """The first channels: `data` is base64 of deflated bytes, channel by channel.

        value = low + byte / 255 × (high − low)
        """
        lists = {name: values and values[:count] for name, values in self.by_channel.items()}
        return {**lists, **self.head, "data": joined(self.pieces[:count], self.steps[:count])}


def quantise_maps(values: Tensor, contributions: Tensor | None, channels: Sequence[int]) -> QuantisedMaps:
    """These channels of one image's maps, (1, C, H, W), quantised to 256 steps between each one's extremes.

    NaN becomes 0, infinity the largest number.
    """
    maps = values[0, list(channels)].nan_to_num().double()
    low, high = ([rounded(value, 7) for value in found.tolist()] for found in (maps.amin((1, 2)), maps.amax((1, 2))))
    ends = (torch.tensor(found, dtype=torch.float64)[:, None, None] for found in (low, high))
    scores = None if contributions is None else contributions[0, list(channels)].flatten(1).sum(1).tolist()
    steps = quantised(maps, *ends)
    return QuantisedMaps(
        {"of": values.shape[1], "height": values.shape[2], "width": values.shape[3]},
        {
            "channels": list(channels),
            "low": low,
            "high": high,
            "contributions": None if scores is None else [rounded(score, 7) for score in scores],
        },
        steps,
        [deflated_piece(channel) for channel in steps],
    )


@dataclass
class _Entry:
    """The maps of a row's output."""

    part: Part
    maps: QuantisedMaps
    wanted: int  # channels
    is_asked: bool
    count: int = field(init=False)  # of the channels that are shown

    def __post_init__(self) -> None:
        self.count = self.wanted

    @property
    def size(self) -> int:
        return self.maps.bytes(self.count)


@dataclass(frozen=True)
class WantedMaps:
    """The maps that a view would have if there were room for all: stages, blocks and layers."""

    levels: list[tuple[str, float, list[_Entry], list[Part]]]  # name, share of the room, maps by row, parts


@dataclass
class FittedMaps:
    """The maps of a view, by part, and what was left out for want of room."""

    maps: dict[str, dict[str, Any]]
    notes: list[Note]
    size: int  # bytes of JSON


def wanted_maps(observation: Observation, channels: Channels) -> WantedMaps:
    """All maps of a view, quantised, so that the values are no longer needed. Parts with the same output share it."""
    rows: set[int] = set()
    levels = []
    asked = channels.by_row(observation.structure)
    for level, usual, share in (("asked", 0, 1.0), *LEVELS):
        of_level = [
            part
            for part in observation.structure.parts.values()
            if len(part.shape) == 3
            and not observation.output(part).is_complex()
            and (part.row in asked if level == "asked" else part.level == level)
        ]
        entries = []
        for part in of_level:
            if part.row not in rows:
                rows.add(part.row)
                chosen = asked.get(part.row) or strongest_channels(
                    observation.scores(part.row)[0], channels.of_level(level, usual)
                )
                maps = quantise_maps(observation.output(part), observation.contributions[part.row], chosen)
                entries.append(_Entry(part, maps, len(chosen), is_asked=part.row in asked))
        levels.append((level, share, entries, of_level))
    return WantedMaps(levels)


def fit_maps(wanted: WantedMaps, room: int) -> FittedMaps:
    """The maps of stages, then of blocks, then of layers, as many as there is room for.

    Where there is not enough for a level, the part whose maps take most bytes gives up half its channels, the weakest
    first, again and again; channels that are asked for stay.
    """
    maps: dict[str, dict[str, Any]] = {}
    encoded: dict[int, dict[str, Any]] = {}  # by row
    notes: list[Note] = []
    used = 0
    for level, share, entries, of_level in wanted.levels:
        _shrink(entries, int(room * share) - used)
        notes += _left_out(entries, level)
        shown = [entry for entry in entries if entry.count]
        used += sum(entry.size for entry in shown)
        encoded |= {entry.part.row: entry.maps.to_dict(entry.count) for entry in shown}
        maps |= {part.id: encoded[part.row] for part in of_level if part.row in encoded}
    return FittedMaps(maps, notes, used)


def _shrink(entries: Sequence[_Entry], room: int) -> None:
    while sum(entry.size for entry in entries if entry.count) > room:
        largest = max(
            (entry for entry in entries if entry.count and not entry.is_asked), key=lambda e: e.size, default=None
        )
        if largest is None:
            return
        largest.count //= 2


def _left_out(entries: Sequence[_Entry], level: str) -> list[Note]:
    """Which parts have fewer channels than usual, by how many."""
    by_count: dict[tuple[int, int], list[str]] = {}
    for entry in entries:
        if entry.count < entry.wanted:
            by_count.setdefault((entry.count, entry.wanted), []).append(entry.part.name)
    return [
        Note(
            f"note.maps.{'fewer' if count else 'none'}.{level}",
            {"parts": names, "channels": count, "of": of},
        )
        for (count, of), names in sorted(by_count.items(), reverse=True)
    ]
