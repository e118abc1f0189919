"""Held-out photos that show the same picture as one that was trained on, because the data set itself puts them so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertebra.data import Photo

from ._report import percent
from ._run import Held, Labelled


def leaked(data: Labelled, splits: Sequence[str], held: str) -> dict[str, str]:
    """Path of a held-out photo -> path of a photo of the same picture that is not held out; ready for JSON.

    Args:
        data: all photos of the run.
        splits: of each photo.
        held: the split that is measured.
    """
    found = {}
    for group in data.alike:
        trained = [place for place in group if splits[place] != held]
        for place in group if trained else ():
            if splits[place] == held:
                found[_path(data.photos[place])] = data.dataset.shown(data.photos[trained[0]].path)
    return found


def leak_notes(found: Mapping[str, str], held: Held, shown: Any = str) -> list[str]:
    """What such photos do to the accuracy.

    Args:
        found: from `leaked`.
        held: the photos that were measured.
        shown: from a photo's path to how it is written for people.
    """
    twins = [_path(photo) in found for photo in held.photos]
    count = sum(twins)
    if not count:
        return []
    right = held.logits.argmax(axis=1) == held.labels
    others = [bool(ok) for ok, twin in zip(right, twins, strict=True) if not twin]
    first = next(photo for photo, twin in zip(held.photos, twins, strict=True) if twin)
    without = f" Without them top-1 is {percent(sum(others) / len(others))} of {len(others):,}." if others else ""
    are = "shows" if count == 1 else "show"
    return [
        f"{count:,} of these {len(twins):,} photos {are} the same picture as a photo that was not held out, by the "
        f"data set's own splits, such as {shown(first.path)} and {found[_path(first)]}. So accuracy looks better than "
        f"it is.{without}"
    ]


def _path(photo: Photo) -> str:
    return str(photo.path.absolute())
