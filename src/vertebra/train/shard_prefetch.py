"""`ShardPrefetch`: the shards that are shuffled next are copied to the cache while the present ones train."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from vertebra.errors import VertebraError
from vertebra.sources.photo_place import PhotoPlace, StoredPhoto
from vertebra.sources.shard_reader import copy_shard, is_copied, shard_bytes
from vertebra.storage.local_cache import room_for_copies

from .metrics import Labels
from .shard_order import windows_of_epoch
from .train_settings import Settings


class ShardPrefetch:
    """Copies the shards of the present window and of the next one, no more than the cache holds together.

    The order of the photos does not depend on it. What fails is left to the reading of the photos, which says so.
    """

    def __init__(self, places: Sequence[PhotoPlace], shards: Labels, settings: Settings) -> None:
        self._files: dict[int, StoredPhoto] = {}  # of the shards that are copied, a photo by the shard's number
        seen: set[int] = set()
        for place, shard in zip(places, shards.tolist(), strict=True):
            if shard not in seen:
                seen.add(shard)
                if isinstance(place, StoredPhoto) and place.member and is_copied(place.file):
                    self._files[shard] = place
        self._count = len(seen)
        self._shards = shards
        self._settings = settings
        self._at: tuple[int, int] | None = None  # epoch and window
        self._windows: tuple[int, Labels] = (-1, shards)  # of the epoch, by the shard's number
        self._turn = 0
        self._bytes: dict[str, int] = {}

    def enter(self, epoch: int, photos: Labels) -> None:
        """Start to copy, where these photos are the first of a window."""
        if not self._files:
            return
        if self._windows[0] != epoch:
            self._windows = epoch, windows_of_epoch(self._settings, epoch, self._count)
        windows = self._windows[1]
        window = int(windows[self._shards[photos]].max())
        if self._at == (epoch, window):
            return
        self._at = epoch, window
        following = windows == window + 1
        if not following.any():
            following = windows_of_epoch(self._settings, epoch + 1, self._count) == 0
        here, ahead = (
            [self._files[shard] for shard in mask.nonzero()[0].tolist() if shard in self._files]
            for mask in (windows == window, following)
        )
        self._turn += 1
        copied = [*here, *(place for place in ahead if place not in here)]
        threading.Thread(target=self._copy, args=(copied, self._turn), name="vertebra-shards", daemon=True).start()

    def stop(self) -> None:
        """Copy no further shard."""
        self._turn += 1

    def _copy(self, places: Sequence[StoredPhoto], turn: int) -> None:
        try:
            room = room_for_copies()
            for place in places:  # the present ones first, so that they are not the least recently used
                if place.file not in self._bytes:
                    self._bytes[place.file] = shard_bytes(place.file)
                room -= self._bytes[place.file]
                if room < 0 or turn != self._turn:
                    return
                copy_shard(place.file, place.member)
        except (VertebraError, OSError):
            return
