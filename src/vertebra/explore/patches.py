"""What a channel responds to: of a folder of photos, the nine patches that excite it most."""

from __future__ import annotations

import base64
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.errors import ImageError, UsageError
from vertebra.introspect.operation_outputs import visit_outputs
from vertebra.pixels import Pixels
from vertebra.progress import Progress, silent
from vertebra.runtime.photo_paths import photos as find_photos

from .fields import receptive_fields
from .notes import Note
from .observation import Structure
from .photo import read_photo
from .subject import network_input

BEST = 9  # patches of a channel, each of another photo
SIDE = 64  # pixels of a patch at most
CHANNELS = 16  # of each stage
BATCH = 8
ROOM = 1_800_000  # bytes of all patches of a page


@dataclass(frozen=True)
class Hit:
    """Where a channel is largest in a photo."""

    value: float
    photo: int
    y: int
    x: int


@dataclass
class PatchStore:
    """Pictures of patches, each once."""

    pictures: list[str] = field(default_factory=list)
    index_of: dict[str, int] = field(default_factory=dict)

    def add(self, picture: str) -> int:
        """The index of a picture."""
        if picture not in self.index_of:
            self.index_of[picture] = len(self.pictures)
            self.pictures.append(picture)
        return self.index_of[picture]


@dataclass(frozen=True)
class Patches:
    """For the page: by part and channel the patches, the strongest first, as [picture, value, photo]."""

    parts: dict[str, dict[str, list[list[float]]]]
    pictures: list[str]
    searched: int  # photos that were read
    photos: list[str]  # names, relative to the folder
    notes: list[Note]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"searched": self.searched, "pictures": self.pictures, "photos": self.photos, "parts": self.parts}


def photos_below(folder: str | os.PathLike[str]) -> list[Path]:
    """All photos in a folder and in those below it, by name.

    Raises:
        UsageError: it is no folder, or has none.
    """
    path = Path(folder)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UsageError(f"photos is {str(path)!r}, which {what}; give a folder of photos.")
    found = list(find_photos([str(path)]))
    if problem := next((photo.error for photo in found if photo.error), None):
        raise UsageError(problem)
    return [Path(photo.path) for photo in found]


def find_patches(
    structure: Structure,
    channels: Mapping[str, Sequence[int]],
    photos: Sequence[Path],
    folder: Path,
    progress: Progress = silent,
    room: int = ROOM,
) -> Patches:
    """The patches of photos that excite channels most, each the receptive field of the cell with the largest value.

    Args:
        structure: the network.
        channels: by the id of a part with maps, the most important first.
        photos: each gives one patch to a channel at most; those that cannot be read are left out and named.
        folder: names are relative to it.
        progress: told of each photo.
        room: bytes that the pictures may take; where they do not fit, the last channels of each part have none.

    Raises:
        UsageError: no photo can be read.
    """
    rows = {structure.parts[part].row: (part, torch.tensor(list(numbers))) for part, numbers in channels.items()}
    search = _Search({row: numbers for row, (_, numbers) in rows.items()})
    broken: list[str] = []
    batch: list[tuple[int, Tensor]] = []

    def run() -> None:
        if batch:
            search.photos = [index for index, _ in batch]
            images = torch.cat([image for _, image in batch])
            visit_outputs(structure.subject.network, structure.graph, images, rows.keys(), search.visit)
            batch.clear()

    for done, path in enumerate(photos):
        progress("photos: largest values", done, len(photos))
        try:
            pixels = read_photo(path, structure.subject.preprocessing).pixels
        except ImageError:
            broken.append(_relative(path, folder))
            continue
        batch.append((done, network_input(structure.subject, pixels)))
        if len(batch) == BATCH:
            run()
    run()
    if len(broken) == len(photos):
        raise UsageError(f"none of the {len(photos)} photos in {folder} can be read: {', '.join(broken[:3])}")
    notes = []
    if broken:
        names = ", ".join(broken[:20]) + (", …" if len(broken) > 20 else "")
        notes.append(Note("note.patches.broken", {"count": len(broken), "of": len(photos), "photos": names}))
    hits = {
        part: {int(channel): search.hits(row, at) for at, channel in enumerate(numbers)}
        for row, (part, numbers) in rows.items()
    }
    return _cut(structure, hits, photos, folder, len(photos) - len(broken), notes, room, progress)


class _Search:
    """Keeps the largest values of each channel over photos."""

    def __init__(self, channels: Mapping[int, Tensor]) -> None:
        self.channels = channels
        self.photos: list[int] = []  # of the batch that runs
        self._best: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # values, photos, cells: (channels, BEST)
        self._widths: dict[int, int] = {}

    def visit(self, row: int, output: Tensor) -> None:
        """Take in an output, (N, C, H, W)."""
        values, cells = output[:, self.channels[row]].flatten(2).max(2)
        photos = torch.tensor(self.photos)[:, None].expand_as(cells)
        self._widths[row] = output.shape[3]
        new = (values.T.nan_to_num(-torch.inf), photos.T, cells.T)
        if row in self._best:
            new = tuple(torch.cat(pair, 1) for pair in zip(self._best[row], new, strict=True))  # type: ignore[assignment]
        # Stable, so that of equal values the earlier photo stays.
        order = new[0].sort(dim=1, descending=True, stable=True).indices[:, :BEST]
        self._best[row] = (new[0].gather(1, order), new[1].gather(1, order), new[2].gather(1, order))

    def hits(self, row: int, at: int) -> list[Hit]:
        """Of the channel at this place in the row's list, the largest first."""
        values, photos, cells = (found[at].tolist() for found in self._best[row])
        width = self._widths[row]
        return [
            Hit(value, photo, cell // width, cell % width)
            for value, photo, cell in zip(values, photos, cells, strict=True)
        ]


def _cut(
    structure: Structure,
    hits: Mapping[str, Mapping[int, Sequence[Hit]]],
    photos: Sequence[Path],
    folder: Path,
    searched: int,
    notes: list[Note],
    room: int,
    progress: Progress,
) -> Patches:
    """Cut the patches out of the photos; channel by channel, the first of all parts, then the second of all, …"""
    fields = receptive_fields(structure)
    boxes: dict[tuple[str, int, int], tuple[int, int, int, int]] = {}
    needed: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    side = structure.subject.preprocessing.crop_size
    for part, of_channel in hits.items():
        found = fields[structure.parts[part].row]
        for channel, best in of_channel.items():
            for rank, hit in enumerate(best):
                boxes[part, channel, rank] = (
                    (0, 0, side, side)
                    if found is None or len(found.size) != 2
                    else _box(found.start, found.jump, found.size, (hit.y, hit.x), side)
                )
                needed[hit.photo].append((part, channel, rank))
    cuts: dict[tuple[str, int, int], str] = {}
    for done, (index, keys) in enumerate(sorted(needed.items())):
        progress("photos: patches", done, len(needed))
        pixels = read_photo(photos[index], structure.subject.preprocessing).pixels
        made: dict[tuple[int, int, int, int], str] = {}
        for key in keys:
            box = boxes[key]
            made[box] = made[box] if box in made else _picture(pixels, box)
            cuts[key] = made[box]
    store, names, used = PatchStore(), _Names(photos, folder), 0
    parts: dict[str, dict[str, list[list[float]]]] = {part: {} for part in hits}
    left_out: dict[str, int] = {}
    for part, channel in _in_turn({part: list(of_channel) for part, of_channel in hits.items()}):
        best = hits[part][channel]
        pictures = [cuts[part, channel, rank] for rank in range(len(best))]
        more = sum(len(picture) + 3 for picture in set(pictures) if picture not in store.index_of)
        if used + more > room:
            left_out[part] = left_out.get(part, 0) + 1
            continue
        used += more
        parts[part][str(channel)] = [
            [store.add(picture), float(f"{hit.value:.5g}"), names.add(hit.photo)]
            for picture, hit in zip(pictures, best, strict=True)
        ]
    if left_out:
        shown = ", ".join(f"{structure.parts[part].name} ({count})" for part, count in left_out.items())
        notes.append(Note("note.patches.left_out", {"count": sum(left_out.values()), "parts": shown}))
    return Patches(parts, store.pictures, searched, names.names, notes)


def _box(
    start: Sequence[float], jump: Sequence[float], size: Sequence[float], cell: tuple[int, int], side: int
) -> tuple[int, int, int, int]:
    """The receptive field of a cell as (left, top, right, bottom), cut off at the image's edges."""
    edges = []
    for axis in (1, 0):
        first = start[axis] + cell[axis] * jump[axis]
        low, high = max(0, round(first)), min(side, round(first + size[axis]))
        low = min(low, side - 1)
        edges.append((low, max(high, low + 1)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _picture(pixels: Pixels, box: tuple[int, int, int, int]) -> str:
    patch = Image.fromarray(np.ascontiguousarray(pixels[box[1] : box[3], box[0] : box[2]]))
    patch.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    patch.save(buffer, "JPEG", quality=75, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _in_turn(channels: Mapping[str, Sequence[int]]) -> Iterable[tuple[str, int]]:
    for place in range(max(map(len, channels.values()), default=0)):
        for part, numbers in channels.items():
            if place < len(numbers):
                yield part, numbers[place]


class _Names:
    """The names of those photos that are shown."""

    def __init__(self, photos: Sequence[Path], folder: Path) -> None:
        self.names: list[str] = []
        self._photos, self._folder = photos, folder
        self._index: dict[int, int] = {}

    def add(self, photo: int) -> int:
        if photo not in self._index:
            self._index[photo] = len(self.names)
            self.names.append(_relative(self._photos[photo], self._folder))
        return self._index[photo]


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
