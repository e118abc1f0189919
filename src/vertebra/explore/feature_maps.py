"""Feature maps for the page: which channels of which parts, as many as there is room for, and their values as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .encoding import deflated, quantised, rounded
from .notes import Note
from .observation import Observation
from .options import Channels
from .parts import Part
from .strongest import STRONGEST, strongest_channels

# Level of the parts, channels of each, and the share of the room that is used up to here.
LEVELS = (("stage", STRONGEST, 0.5), ("block", STRONGEST, 0.8), ("layer", 8, 1.0))


@dataclass
class _Entry:
    """The maps of a row's output."""

    part: Part
    values: Tensor
    contributions: Tensor | None
    channels: list[int]
    is_asked: bool
    wanted: int = field(init=False)
    encoded: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.wanted = len(self.channels)
        self.encode()

    def encode(self) -> None:
        self.encoded = encode_maps(self.values, self.contributions, self.channels)

    @property
    def size(self) -> int:
        """Bytes of JSON, a few too many: each channel has a number and three values of at most 14 characters."""
        return len(self.encoded["data"]) + 48 * len(self.channels) + 120


@dataclass
class FittedMaps:
    """The maps of a view, by part, and what was left out for want of room."""

    maps: dict[str, dict[str, Any]]
    notes: list[Note]
    size: int  # bytes of JSON


def fit_maps(observation: Observation, channels: Channels, room: int) -> FittedMaps:
    """The maps of stages, then of blocks, then of layers, as many as there is room for.

    Where there is not enough for a level, the part whose maps take most bytes gives up half its channels, the weakest
    first, again and again; channels that are asked for stay. Parts with the same output share it.
    """
    maps: dict[str, dict[str, Any]] = {}
    rows: dict[int, _Entry] = {}
    notes: list[Note] = []
    parts = observation.structure.parts
    used = 0
    asked = channels.by_row(observation.structure)
    for level, usual, share in (("asked", 0, 1.0), *LEVELS):
        of_level = [
            part
            for part in parts.values()
            if len(part.shape) == 3
            and not observation.output(part).is_complex()
            and (part.row in asked if level == "asked" else part.level == level)
        ]
        entries = []
        for part in of_level:
            if part.row not in rows:
                chosen = asked.get(part.row) or strongest_channels(
                    observation.scores(part.row)[0], channels.of_level(level, usual)
                )
                maps_of_row = observation.output(part), observation.contributions[part.row]
                rows[part.row] = _Entry(part, *maps_of_row, chosen, is_asked=part.row in asked)
                entries.append(rows[part.row])
        _shrink(entries, int(room * share) - used)
        notes += _left_out(entries, level)
        used += sum(entry.size for entry in entries if entry.channels)
        for part in of_level:
            if rows[part.row].channels:
                maps[part.id] = rows[part.row].encoded
    return FittedMaps(maps, notes, used)


def _shrink(entries: Sequence[_Entry], room: int) -> None:
    while sum(entry.size for entry in entries if entry.channels) > room:
        largest = max(
            (entry for entry in entries if entry.channels and not entry.is_asked), key=lambda e: e.size, default=None
        )
        if largest is None:
            return
        largest.channels = largest.channels[: len(largest.channels) // 2]
        if largest.channels:
            largest.encode()


def _left_out(entries: Sequence[_Entry], level: str) -> list[Note]:
    """Which parts have fewer channels than usual, by how many."""
    by_count: dict[tuple[int, int], list[str]] = {}
    for entry in entries:
        if len(entry.channels) < entry.wanted:
            by_count.setdefault((len(entry.channels), entry.wanted), []).append(entry.part.name)
    return [
        Note(
            f"note.maps.{'fewer' if count else 'none'}.{level}",
            {"parts": names, "channels": count, "of": of},
        )
        for (count, of), names in sorted(by_count.items(), reverse=True)
    ]


def encode_maps(values: Tensor, contributions: Tensor | None, channels: Sequence[int]) -> dict[str, Any]:
    """These channels of one image's maps, (1, C, H, W), quantised to 256 steps between each one's extremes.

    `data` is base64 of deflated bytes, channel by channel; value = low + byte / 255 × (high − low). NaN becomes 0,
    infinity the largest number.
    """
    maps = values[0, list(channels)].nan_to_num().double()
    low, high = ([rounded(value, 7) for value in found.tolist()] for found in (maps.amin((1, 2)), maps.amax((1, 2))))
    ends = (torch.tensor(found, dtype=torch.float64)[:, None, None] for found in (low, high))
    scores = None if contributions is None else contributions[0, list(channels)].flatten(1).sum(1).tolist()
    return {
        "channels": list(channels),
        "of": values.shape[1],
        "height": values.shape[2],
        "width": values.shape[3],
        "low": low,
        "high": high,
        "contributions": None if scores is None else [rounded(score, 7) for score in scores],
        "data": deflated(quantised(maps, *ends)),
    }
