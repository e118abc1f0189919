"""Leaks: measured photos that were trained on, or duplicates of training photos, in this run or in an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vertebra.card import Decoding
from vertebra.data import Dataset, ImageInfo, ImageInfoCache, Photo, find_duplicates
from vertebra.machine import usable_cores
from vertebra.report import percent
from vertebra.sources.photo_place import PhotoPlace, parse_place

from .evaluation import EvaluatedPredictions
from .prepare import UsablePhotos
from .run_folder import TrainError, read_rows


@dataclass(frozen=True)
class TrainedPhotos:
    """The photos of a data set that a classifier was trained on."""

    files: frozenset[int] = frozenset()  # indices of photos with the bytes of a training photo
    copies: dict[int, str] = field(default_factory=dict)  # index of a duplicate -> path of its training photo
    lost: int = 0  # training photos that are gone or changed, whose duplicates cannot be found

    def __contains__(self, index: object) -> bool:
        return index in self.files or index in self.copies


def find_trained_photos(run: Path, dataset: Dataset, infos: Sequence[ImageInfo], decoding: Decoding) -> TrainedPhotos:
    """Find the photos of a data set that the classifier of a run was trained on; `infos` were read with `decoding`."""
    try:
        known = {row["sha256"]: parse_place(row["path"]) for row in read_rows(run) if row["split"] == "train"}
    except (TrainError, KeyError):  # not a run, or one of the first versions
        known = {}
    if not known:
        return TrainedPhotos()
    cache = ImageInfoCache(decoding=decoding)
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(cache.recall, known, known.values()))
    cache.save()
    photos = [Photo(path, "") for path, info in zip(known.values(), found, strict=True) if info is not None]
    both = [*infos, *(info for info in found if info is not None)]
    files = frozenset(index for index, info in enumerate(infos) if info.sha256 in known)
    copies = {}
    for group in find_duplicates(replace(dataset, photos=(*dataset.photos, *photos)), both, cache):
        trained = [index for index in group.members if index >= len(infos)]
        for index in group.members if trained else ():
            if index < len(infos) and index not in files:
                copies[index] = str(photos[trained[0] - len(infos)].path)
    return TrainedPhotos(files, copies, sum(info is None for info in found))


def find_leaks(data: UsablePhotos, splits: Sequence[str], held: str) -> dict[str, str]:
    """Find photos of split `held` with a duplicate in another split: path -> path of the duplicate."""
    found = {}
    for group in data.duplicates:
        trained = [index for index in group if splits[index] != held]
        for index in group if trained else ():
            if splits[index] == held:
                found[_path(data.photos[index])] = data.dataset.shown(data.photos[trained[0]].path)
    return found


def leak_notes(found: Mapping[str, str], held: EvaluatedPredictions, shown: Any = str) -> list[str]:
    """Return a note on the held-out photos that `find_leaks` found; `shown` formats a path."""
    leaked = [_path(photo) in found for photo in held.photos]
    if True not in leaked:
        return []
    first = held.photos[leaked.index(True)]
    which = f"was not held out, by the data set's own splits, such as {shown(first.path)} and {found[_path(first)]}"
    return [_same_picture_note(sum(leaked), len(leaked), which, _without(held, leaked))]


def trained_notes(
    found: TrainedPhotos, held: EvaluatedPredictions, shown: Callable[[PhotoPlace], str] = str
) -> list[str]:
    """Return notes on measured photos that the classifier was trained on; `shown` formats a path."""
    count, notes = len(held.photos), []
    them = _without(held, [index in found for index in range(count)])
    if found.files:
        notes.append(
            f"{len(found.files):,} of these {count:,} photos trained this classifier, so it looks better than it is; "
            f"its own report has its metrics on held-out photos.{'' if found.copies else them}"
        )
    if found.copies:
        first = min(found.copies)
        also = them.replace("Without them", "Without all of these") if found.files else them
        which = f"trained this classifier, such as {shown(held.photos[first].path)} and {found.copies[first]}"
        notes.append(_same_picture_note(len(found.copies), count, which, also))
    if found.lost:
        is_or_are = "is" if found.lost == 1 else "are"
        notes.append(
            f"Of the photos that trained this classifier {found.lost:,} {is_or_are} gone or changed, so copies of "
            "such are not found."
        )
    return notes


def _same_picture_note(count: int, photos: int, which: str, also: str) -> str:
    show = "shows" if count == 1 else "show"
    return (
        f"{count:,} of these {photos:,} photos {show} the same picture as a photo that {which}. "
        f"So accuracy looks better than it is.{also}"
    )


def _without(held: EvaluatedPredictions, left_out: Sequence[bool]) -> str:
    """Return the accuracy without these photos as a sentence; empty if none remain."""
    right = held.logits.argmax(axis=1) == held.labels
    others = [bool(ok) for ok, out in zip(right, left_out, strict=True) if not out]
    return f" Without them top-1 is {percent(sum(others) / len(others))} of {len(others):,}." if others else ""


def _path(photo: Photo) -> str:
    return str(photo.path.absolute())
