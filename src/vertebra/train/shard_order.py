"""Photos in shards: which shard each is in, and what shuffling them takes of the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vertebra.errors import UsageError
from vertebra.sources.photo_place import PhotoPlace, StoredPhoto, file_of
from vertebra.sources.shard_reader import is_copied
from vertebra.storage.bounded_folder import cache_limit
from vertebra.units import GIGA, counted, size

from .metrics import Labels
from .resume_checks import file_states
from .train_settings import Settings


def shard_numbers(places: Sequence[PhotoPlace]) -> Labels | None:
    """Return the number (N,) of each photo's shard, in the order in which they come; a file is one by itself.

    None: no photo is in a shard.
    """
    if not any(isinstance(place, StoredPhoto) and place.member for place in places):
        return None
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(file_of(place), len(numbers)) for place in places), np.int64, len(places))


def windows_of_epoch(settings: Settings, epoch: int, count: int) -> Labels:
    """Return for each of `count` shards the number (count,) of the window in which its photos are shuffled."""
    turns = np.random.default_rng([settings.seed, 3, epoch]).permutation(count)
    return np.asarray(turns // settings.shuffle_shards, np.int64)


def shuffle_notes(places: Sequence[PhotoPlace], settings: Settings) -> list[str]:
    """Return a note on how training photos in shards are shuffled, where that is not as of other files."""
    numbers = shard_numbers(places)
    count = 0 if numbers is None else int(numbers.max()) + 1
    if count <= settings.shuffle_shards:
        return []
    return [
        f"The training photos are in {count:,} shards. Each epoch shuffles the shards, and the photos of "
        f"{settings.shuffle_shards} of them at a time (shuffle_shards)."
    ]


def require_cache_room(places: Sequence[PhotoPlace], settings: Settings) -> None:
    """Raise a `UsageError` if the shards that are shuffled together do not fit into the cache.

    They would be copied again for each photo.
    """
    files = list(dict.fromkeys(place.file for place in places if isinstance(place, StoredPhoto) and place.member))
    states = file_states(StoredPhoto(file, "shard") for file in files if is_copied(file))
    sizes = sorted((int(state[0]) for state in states if state is not None), reverse=True)
    needed, limit = sum(sizes[: settings.shuffle_shards]), cache_limit()
    if needed > limit:
        fits = max(1, int(np.searchsorted(np.cumsum(sizes), limit, side="right")))
        raise UsageError(
            f"{counted(min(len(sizes), settings.shuffle_shards), 'shard')} that are shuffled together have "
            f"{size(needed)}, and their copies may take {size(int(limit))} on this machine. Set "
            f"VERTEBRA_REMOTE_CACHE_GB={math.ceil(1.5 * needed / GIGA)}, or shuffle fewer: --set shuffle_shards={fits}."
        )
