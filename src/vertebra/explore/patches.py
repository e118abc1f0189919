"""What a channel responds to: of a folder of photos, the nine patches that excite it most."""

from __future__ import annotations

import io
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.errors import ImageError, UsageError, warn
from vertebra.graph.receptive_field import ReceptiveField
from vertebra.introspect.operation_outputs import visit_outputs
from vertebra.progress import Progress, silent
from vertebra.runtime.photo_paths import photos as find_photos

from .encoding import data_url, rounded
from .notes import Note, listed
from .observation import Structure
from .photo import read_photo
from .subject import network_input

BEST = 9  # patches of a channel, each of another photo
SIDE = 64  # pixels of a patch at most
CHANNELS = 16  # of each stage
BATCH = 8
MOST_NAMES = 1000  # of photos in a note
ROOM = 1_800_000  # bytes of all patches of a page

Box = tuple[int, int, int, int]  # (left, top, right, bottom), in pixels of the network's input


@dataclass(frozen=True)
class Hit:
    """Where a channel is largest in a photo, and what it sees there."""

    value: float
    photo: int
    box: Box


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
    problems = [photo.error for photo in found if photo.error]
    if problems and len(problems) == len(found):
        raise UsageError(problems[0])
    for problem in problems:
        warn(problem)
    return [Path(photo.path) for photo in found if not photo.error]


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
    search = _Search(structure, channels)
    broken = search.run(photos, progress)
    if len(broken) == len(photos):
        shown = listed([str(path) for path in photos], 3)
        raise UsageError(f"none of the {len(photos)} photos in {folder} can be read: {shown}")
    hits = {part: {channel: search.hits(part, channel) for channel in of_part} for part, of_part in channels.items()}
    all_hits = [hit for of_part in hits.values() for of_channel in of_part.values() for hit in of_channel]
    cuts, gone = _cut(structure, all_hits, photos, progress)
    broken += gone
    parts: dict[str, dict[str, list[list[float]]]] = {part: {} for part in channels}
    pictures: dict[str, int] = {}  # with their indices, as are the names
    names: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    used = 0
    for part, channel in _in_turn(channels):
        best = [(cuts[hit.photo, hit.box], hit) for hit in hits[part][channel] if hit.photo not in gone]
        more = sum(len(picture) + 3 for picture in {picture for picture, _ in best} - pictures.keys())
        if used + more > room:
            left_out[structure.parts[part].name] += 1
            continue
        used += more
        parts[part][str(channel)] = [
            [
                pictures.setdefault(picture, len(pictures)),
                rounded(hit.value, 5),
                names.setdefault(_relative(photos[hit.photo], folder), len(names)),
            ]
            for picture, hit in best
        ]
    notes = []
    if broken:
        names_of = [_relative(photos[index], folder) for index in broken[:MOST_NAMES]]
        notes.append(Note("note.patches.broken", {"count": len(broken), "of": len(photos), "photos": names_of}))
    if left_out:
        of_parts = [f"{name} ({count})" for name, count in left_out.items()]
        notes.append(Note("note.patches.left_out", {"count": left_out.total(), "parts": of_parts}))
    return Patches(parts, list(pictures), len(photos) - len(broken), list(names), notes)


class _Search:
    """Keeps the largest values of channels over photos."""

    def __init__(self, structure: Structure, channels: Mapping[str, Sequence[int]]) -> None:
        self._structure = structure
        self._channels = channels
        self._indices = {structure.parts[part].row: torch.tensor(list(of_part)) for part, of_part in channels.items()}
        self._batch: list[tuple[int, Tensor]] = []  # index of the photo, and its input
        self._best: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # values, photos, cells: (channels, BEST)

    def run(self, photos: Sequence[Path], progress: Progress) -> list[int]:
        """Take in all photos; those that cannot be read are returned."""
        # A network of the user's may take one image only.
        size = 1 if self._structure.graph.stages is None else BATCH
        broken = []
        for index, path in enumerate(photos):
            progress("photos: largest values", index, len(photos))
            try:
                pixels = read_photo(path, self._structure.subject.preprocessing).pixels
            except ImageError:
                broken.append(index)
                continue
            self._batch.append((index, network_input(self._structure.subject, pixels)))
            if len(self._batch) == size:
                self._run_batch()
        self._run_batch()
        return broken

    def _run_batch(self) -> None:
        if self._batch:
            images = torch.cat([image for _, image in self._batch])
            network, graph = self._structure.subject.network, self._structure.graph
            visit_outputs(network, graph, images, self._indices.keys(), self._visit)
            self._batch.clear()

    def _visit(self, row: int, output: Tensor) -> None:
        """Take in an output, (N, C, H, W)."""
        values, cells = output[:, self._indices[row]].flatten(2).max(2)
        photos = torch.tensor([index for index, _ in self._batch])[:, None].expand_as(cells)
        new = [values.T.nan_to_num(-torch.inf), photos.T, cells.T]
        if row in self._best:
            new = [torch.cat(pair, 1) for pair in zip(self._best[row], new, strict=True)]
        # Stable, so that of equal values the earlier photo stays.
        order = new[0].sort(dim=1, descending=True, stable=True).indices[:, :BEST]
        self._best[row] = (new[0].gather(1, order), new[1].gather(1, order), new[2].gather(1, order))

    def hits(self, part: str, channel: int) -> list[Hit]:
        """Of a channel, the largest first."""
        row, width = self._structure.parts[part].row, self._structure.parts[part].shape[2]
        values, photos, cells = (found[self._channels[part].index(channel)].tolist() for found in self._best[row])
        side, field = self._structure.subject.preprocessing.crop_size, self._structure.receptive_fields[row]
        return [
            Hit(value, photo, _box(field, divmod(cell, width), side))
            for value, photo, cell in zip(values, photos, cells, strict=True)
            if math.isfinite(value)
        ]


def _box(field: ReceptiveField | None, cell: tuple[int, int], side: int) -> Box:
    """The receptive field of a cell, cut off at the image's edges; the whole image where it is not known."""
    if field is None or len(field.size) != 2:
        return (0, 0, side, side)
    (top, bottom), (left, right) = (
        (min(max(0, first), side - 1), max(1, min(side, first + size)))
        for first, size in ((field.start[axis] + cell[axis] * field.jump[axis], field.size[axis]) for axis in (0, 1))
    )
    return left, top, right, bottom


def _cut(
    structure: Structure, hits: Sequence[Hit], photos: Sequence[Path], progress: Progress
) -> tuple[dict[tuple[int, Box], str], list[int]]:
    """The pictures of what hits see, by photo and box, and photos that cannot be read any more; each is read once."""
    needed: dict[int, set[Box]] = defaultdict(set)
    for hit in hits:
        needed[hit.photo].add(hit.box)
    found: dict[tuple[int, Box], str] = {}
    gone: list[int] = []
    for done, (index, boxes) in enumerate(sorted(needed.items())):
        progress("photos: patches", done, len(needed))
        try:
            pixels = read_photo(photos[index], structure.subject.preprocessing).pixels
        except ImageError:
            gone.append(index)
            continue
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        found |= {(index, box): _picture(picture.crop(box)) for box in boxes}
    return found, gone


def _picture(patch: Image.Image) -> str:
    patch.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    patch.save(buffer, "JPEG", quality=75, optimize=True)
    return data_url("jpeg", buffer.getvalue())


def _in_turn(channels: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int]]:
    """The first channel of each part, then the second of each, …"""
    for of_rank in zip_longest(*([(part, channel) for channel in of_part] for part, of_part in channels.items())):
        yield from filter(None, of_rank)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
