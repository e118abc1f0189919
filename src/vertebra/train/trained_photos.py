"""Which photos trained a classifier before, by the table in the folder of its run: the same files and their copies."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from vertebra.card import Decoding
from vertebra.data import Dataset, ImageInfo, ImageInfoCache, Photo, find_duplicates
from vertebra.machine import usable_cores

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
    """Which photos of a data set trained the classifier of that run.

    Args:
        run: its folder, with the table of its photos.
        dataset: the photos.
        facts: of each.
        decoding: that these facts were found by.
    """
    known = _training_photos(run)
    if not known:
        return TrainedPhotos()
    album = ImageInfoCache(decoding=decoding)
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(album.recall, known, known.values()))
    album.save()
    photos = [Photo(path, "") for path, fact in zip(known.values(), found, strict=True) if fact is not None]
    both = [*facts, *(fact for fact in found if fact is not None)]
    files = frozenset(place for place, fact in enumerate(facts) if fact.sha256 in known)
    copies = {}
    for group in find_duplicates(replace(dataset, photos=(*dataset.photos, *photos)), both, album):
        trained = [place for place in group.members if place >= len(facts)]
        for place in group.members if trained else ():
            if place < len(facts) and place not in files:
                copies[place] = str(photos[trained[0] - len(facts)].path)
    return TrainedPhotos(files, copies, sum(fact is None for fact in found))


def _training_photos(run: Path) -> dict[str, Path]:
    """SHA-256 -> path of the photos that a run trained on; nothing is known where its table cannot be read."""
    try:
        return {row["sha256"]: Path(row["path"]) for row in read_rows(run) if row["split"] == "train"}
    except (TrainError, KeyError):
        return {}
