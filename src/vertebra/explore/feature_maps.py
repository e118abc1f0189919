"""Feature maps for the page: which channels of which parts, as many as there is room for, and their values as bytes."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vertebra.errors import UsageError, suggest

from .notes import Note
from .observation import Observation, Structure
from .parts import Part

STRONGEST = 32
# Level of the parts, channels of each, and the share of the room that is used up to here.
LEVELS = (("stage", STRONGEST, 0.5), ("block", STRONGEST, 0.8), ("layer", 8, 1.0))
STEPS = 255


@dataclass(frozen=True)
class Channels:
    """Which channels are asked for: so many of each stage and block, or these of a part."""

    count: int | None = None
    of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by id or name of the part

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Channels:
        """`["16"]` or `["layer4:5,17", "layer/3:0"]`. Raises a `UsageError` for anything else."""
        count: int | None = None
        of: dict[str, tuple[int, ...]] = {}
        for text in texts:
            part, colon, numbers = text.rpartition(":")
            try:
                found = tuple(dict.fromkeys(int(number) for number in numbers.split(",")))
                if min(found) < 0 or (not colon and (len(found) > 1 or found[0] < 1)) or (colon and not part.strip()):
                    raise ValueError
            except ValueError:
                raise UsageError(
                    f"--channels is {text!r}; it must be how many of each part (16), or a part with its channels "
                    "from 0 (layer4:5,17)."
                ) from None
            if colon:
                of[part.strip()] = tuple(dict.fromkeys((*of.get(part.strip(), ()), *found)))
            else:
                count = found[0]
        return cls(count, of)

    @classmethod
    def of_argument(cls, given: Any) -> Channels:
        """From None, a number, a mapping of parts to channels, or texts as the command line has them."""
        if given is None:
            return cls()
        if isinstance(given, Mapping):
            texts = [f"{part}:{','.join(map(str, numbers))}" for part, numbers in given.items()]
        elif isinstance(given, str) or not isinstance(given, Sequence):
            texts = [str(given)]
        else:
            texts = list(map(str, given))
        return cls.parse(texts)

    def check(self, structures: Sequence[Structure]) -> None:
        """Raise a `UsageError` for a part that no network has, or a channel that the part does not have."""
        for name, numbers in self.of.items():
            found = [part for structure in structures for part in _named(structure, name)]
            if not found:
                known = {p.id for s in structures for p in s.parts.values()} | {
                    p.name for s in structures for p in s.parts.values() if p.level != "operation"
                }
                raise UsageError(f"there is no part {name!r} to show channels of. {suggest(name, known)}".rstrip())
            for part in found:
                if len(part.shape) != 3:
                    raise UsageError(f"{name} has no maps: its output is {' × '.join(map(str, part.shape))}.")
                if max(numbers) >= part.shape[0]:
                    raise UsageError(
                        f"{name} has {part.shape[0]} channels, 0 to {part.shape[0] - 1}; there is no {max(numbers)}."
                    )

    def asked(self, part: Part) -> tuple[int, ...]:
        """Those that are asked for of a part."""
        return tuple(self.of.get(part.id, ())) or tuple(self.of.get(part.name, ()) if part.level != "operation" else ())

    def of_level(self, level: str, usual: int) -> int:
        """How many are shown of a part of this level."""
        return usual if self.count is None or level == "layer" else self.count


def _named(structure: Structure, name: str) -> list[Part]:
    if name in structure.parts:
        return [structure.parts[name]]
    return [part for part in structure.parts.values() if part.name == name and part.level != "operation"]


def strongest_channels(values: Tensor, contributions: Tensor | None, count: int = STRONGEST) -> list[int]:
    """The channels that contribute most to the class, the strongest first; without contributions the largest values.

    values: (1, C, H, W) or (1, C); contributions: likewise.
    """
    scores = (values.abs() if contributions is None else contributions)[0].flatten(1).sum(1)
    return [int(channel) for channel in scores.argsort(descending=True, stable=True)[:count]]


@dataclass
class _Entry:
    """The maps of a row's output."""

    part: Part
    values: Tensor
    contributions: Tensor | None
    channels: list[int]
    is_asked: bool
    wanted: int
    encoded: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> None:
        self.encoded = encode_maps(self.values, self.contributions, self.channels)

    @property
    def size(self) -> int:
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
    parts = observation.structure.parts.values()
    used = 0
    asked = [part for part in parts if channels.asked(part)]
    levels = [("asked", 0, 1.0, asked)]
    levels += [(level, n, share, [part for part in parts if part.level == level]) for level, n, share in LEVELS]
    for level, usual, share, of_level in levels:
        entries = []
        for part in of_level:
            if len(part.shape) != 3 or part.row in rows:
                continue
            values, contributions = observation.output(part), observation.contributions[part.row]
            chosen = list(channels.asked(part))
            is_asked = bool(chosen)
            chosen = chosen or strongest_channels(values, contributions, channels.of_level(level, usual))
            entry = _Entry(part, values, contributions, chosen, is_asked, len(chosen))
            entry.encode()
            entries.append(entry)
            rows[part.row] = entry
        _shrink(entries, int(room * share) - used)
        notes += _left_out(entries, level)
        used += sum(entry.size for entry in entries if entry.channels)
        for part in of_level:
            if len(part.shape) == 3 and rows[part.row].channels:
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
            {"parts": ", ".join(names), "channels": count, "of": of, "count": len(names)},
        )
        for (count, of), names in sorted(by_count.items(), reverse=True)
    ]


def encode_maps(values: Tensor, contributions: Tensor | None, channels: Sequence[int]) -> dict[str, Any]:
    """These channels of one image's maps, (1, C, H, W), quantised to 256 steps between each one's extremes.

    `data` is base64 of deflated bytes, channel by channel; value = low + byte / 255 × (high − low). `error` is the
    largest difference from the network's value, and `error_share` the largest as a share of its channel's range.
    NaN becomes 0, infinity the largest number.
    """
    maps = values[0, list(channels)].nan_to_num().double()
    low, high = (_rounded(found) for found in (maps.amin((1, 2)), maps.amax((1, 2))))
    spread = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    steps = ((maps - low[:, None, None]) / spread[:, None, None] * STEPS).round().clamp(0, STEPS).to(torch.uint8)
    decoded = low[:, None, None] + steps / STEPS * (high - low)[:, None, None]
    errors = (decoded - maps).abs().amax((1, 2))
    scores = None if contributions is None else contributions[0, list(channels)].flatten(1).sum(1)
    return {
        "channels": list(channels),
        "of": values.shape[1],
        "height": values.shape[2],
        "width": values.shape[3],
        "low": low.tolist(),
        "high": high.tolist(),
        "contributions": None if scores is None else _rounded(scores).tolist(),
        "error": float(f"{float(errors.max()):.3g}"),
        "error_share": float(f"{float((errors / spread).max()):.3g}"),
        "data": base64.b64encode(zlib.compress(steps.numpy().tobytes(), 6)).decode("ascii"),
    }


def _rounded(values: Tensor) -> Tensor:
    """To seven digits, which JSON writes shortly."""
    return torch.tensor([float(f"{value:.7g}") for value in values.tolist()], dtype=torch.float64)
