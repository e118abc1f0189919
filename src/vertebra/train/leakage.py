"""Measured photos that were trained on, or show the same picture as one that was: in this run, or in one before it."""

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

from .evaluation import EvaluatedPredictions
from .prepare import UsablePhotos
from .run_folder import TrainError, read_rows


@dataclass(frozen=True)
class TrainedPhotos:
    """Those of a data set's photos that a classifier was trained on."""

    files: frozenset[int] = frozenset()  # places of the photos that have the same bytes
    copies: dict[int, str] = field(default_factory=dict)  # place -> another file of the same picture, trained on
    lost: int = 0  # files that were trained on and are gone or changed, so that copies of them are not found

    def __contains__(self, place: object) -> bool:
        return place in self.files or place in self.copies


def find_trained_photos(run: Path, dataset: Dataset, facts: Sequence[ImageInfo], decoding: Decoding) -> TrainedPhotos:
    """Which photos of a data set, with the facts that this decoding has found, trained the classifier of that run."""
    try:
        known = {row["sha256"]: Path(row["path"]) for row in read_rows(run) if row["split"] == "train"}
    except (TrainError, KeyError):  # no run, or one of the first versions
        known = {}
    if not known:
        return TrainedPhotos()
    cache = ImageInfoCache(decoding=decoding)
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(cache.recall, known, known.values()))
    cache.save()
    photos = [Photo(path, "") for path, fact in zip(known.values(), found, strict=True) if fact is not None]
    both = [*facts, *(fact for fact in found if fact is not None)]
    files = frozenset(place for place, fact in enumerate(facts) if fact.sha256 in known)
    copies = {}
    for group in find_duplicates(replace(dataset, photos=(*dataset.photos, *photos)), both, cache):
        trained = [place for place in group.members if place >= len(facts)]
        for place in group.members if trained else ():
            if place < len(facts) and place not in files:
                copies[place] = str(photos[trained[0] - len(facts)].path)
    return TrainedPhotos(files, copies, sum(fact is None for fact in found))


def find_leaks(data: UsablePhotos, splits: Sequence[str], held: str) -> dict[str, str]:
    """Path of a photo of the split `held` -> path of a photo of the same picture in another; ready for JSON."""
    found = {}
    for group in data.duplicates:
        trained = [place for place in group if splits[place] != held]
        for place in group if trained else ():
            if splits[place] == held:
                found[_path(data.photos[place])] = data.dataset.shown(data.photos[trained[0]].path)
    return found


def leak_notes(found: Mapping[str, str], held: EvaluatedPredictions, shown: Any = str) -> list[str]:
    """What photos that `find_leaks` found do to the accuracy; `shown` writes a path for people."""
    leaked = [_path(photo) in found for photo in held.photos]
    if True not in leaked:
        return []
    first = held.photos[leaked.index(True)]
    which = f"was not held out, by the data set's own splits, such as {shown(first.path)} and {found[_path(first)]}"
    return [_same_picture_note(sum(leaked), len(leaked), which, _without(held, leaked))]


def trained_notes(found: TrainedPhotos, held: EvaluatedPredictions, shown: Callable[[Path], str] = str) -> list[str]:
    """What measured photos that trained the classifier before do to the accuracy; `shown` writes a path for people."""
    count, notes = len(held.photos), []
    them = _without(held, [place in found for place in range(count)])
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
    """The accuracy without some of the photos; empty where that leaves none."""
    right = held.logits.argmax(axis=1) == held.labels
    others = [bool(ok) for ok, out in zip(right, left_out, strict=True) if not out]
    return f" Without them top-1 is {percent(sum(others) / len(others))} of {len(others):,}." if others else ""


def _path(photo: Photo) -> str:
    return str(photo.path.absolute())
