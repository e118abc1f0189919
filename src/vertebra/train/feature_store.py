"""The feature store: rows of float16 by the SHA-256 of a photo, in files that are mapped into memory.

One folder holds the rows of one network with its preprocessing, all of one shape: embeddings, or the feature maps of a
stage. Its files come in pairs, which only grow: `NAME.f16` has the values, `NAME.index` a record of 64 bytes a row.

Values are rounded to float16 when they are put, with a power of two a row against overflow: a fresh row is the same as
one that is read again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.cache import scratch_dir, warn_damaged
from vertebra.errors import InUseError
from vertebra.files import atomic_write, locked

from .feature_files import (
    DIGEST,
    RecordFormat,
    Row,
    Shard,
    ShardWriter,
    Words,
    decode,
    encode,
    exponents,
    index_file,
    map_values,
    shard_paths,
    values_file,
)
from .stored_features import Features16, StoredFeatures

_Place: TypeAlias = tuple[int, int, Words]  # number of the shard, row, record (8,)
_SAVE_ROWS, _SAVE_BYTES = 512, 1 << 22  # an interrupted run loses at most these
_MAX_RECENT = 65_536  # rows of this process that are looked up in a dictionary, before they are sorted in
_ZEROS = -1  # the part of photos without a row


class FeatureStore:
    """Rows by SHA-256 (64 hex digits) in one folder; safe for several threads and processes.

    A file that cannot be used makes lookups miss and changes no result: a row is returned exactly as it was put, or not
    at all. Damaged rows are made again, with one warning. Each process appends to a pair of files of its own; a killed
    one leaves only whole rows. If the folder cannot be written, rows go to a temporary folder, and to memory at last.

    `context` is what the values depend on besides the photo; rows of another context count as damaged. With
    `spills=False` rows that the folder has no room for are dropped, and no more are taken: `is_full`.
    """

    def __init__(self, folder: Path, context: str, *, spills: bool = True) -> None:
        self.folder = folder
        self.computed = 0  # rows that were put
        self.is_full = False
        self._spills = spills
        self._format = RecordFormat(context)
        self._lock = threading.Lock()
        self._pending: dict[bytes, Row] = {}
        self._recent: dict[bytes, _Place] = {}  # by digest, since `_reload`
        self._bad: set[tuple[Path, int]] = set()  # rows whose checksum is wrong
        self._writer: ShardWriter | None = None
        self._scratch: Path | None = None
        self._reload()

    def get(self, digest: str) -> NDArray[np.float32] | None:
        """Return the values (D,) of a digest, or None; of a row of another shape, flat."""
        row = self.get_row(digest)
        return None if row is None else decode(row)

    def get_row(self, digest: str) -> Row | None:
        """Return the encoded row of a digest, or None."""
        key = bytes.fromhex(digest)
        with self._lock:
            return self._pending.get(key) or self._read(key)

    def __contains__(self, digest: str) -> bool:
        """Whether the row is there and its checksum is right."""
        key = bytes.fromhex(digest)
        with self._lock:
            return key in self._pending or self._read(key) is not None

    def put(self, digest: str, values: NDArray[Any]) -> None:
        """Add a row; rows are written at intervals, and by `save`.

        Raises:
            NotFiniteError: values are NaN or infinite.
        """
        self.put_row(digest, encode(values))

    def put_row(self, digest: str, row: Row) -> None:
        """Add a row that another process has encoded."""
        with self._lock:
            if self.is_full:
                return
            self._pending[bytes.fromhex(digest)] = row
            self.computed += 1
            # Where nothing can be written, it is not tried again for each row.
            if len(self._pending) % _SAVE_ROWS == 0 or len(self._pending) * row[1].nbytes % _SAVE_BYTES < row[1].nbytes:
                self._save()

    def first_words(self) -> Words:
        """Return the first word of each digest, sorted: enough to know on other machines what is here."""
        with self._lock:
            self._save()
            self._reload()
            return self._keys.copy()

    def refresh(self) -> None:
        """Find the rows that other processes have added meanwhile."""
        with self._lock:
            self._reload()

    def save(self) -> None:
        """Write new rows to disk, and mark damaged ones; rows that cannot be written stay in memory."""
        with self._lock:
            self._save()
            self._repair()

    def close(self) -> None:
        """Save, and let other processes append to the files of this one."""
        self.save()
        with self._lock:
            self._close_writer()

    def rows(self, digests: Sequence[str | None]) -> StoredFeatures:
        """Return the rows (N, D) of these photos; None: zeros.

        Values are read when they are used. Their checksums are not checked again: ask for `digest in store` before.

        Raises:
            KeyError: a digest has no row.
        """
        with self._lock:
            self._save()
            self._repair()
            self._reload()
            return self._rows(digests)

    # --- looking up ---------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Read the indexes again, with the rows that other processes have added."""
        shards: list[Shard] = []
        keys, places = [], []
        folders = [self.folder, *([self._scratch] if self._scratch else [])]
        for path in (path for folder in folders for path in shard_paths(folder)):
            shard = Shard.open(path, self._format)
            if shard is None:
                continue
            if shard.is_damaged:
                warn_damaged(self.folder)
            shard.exclude(self._bad)
            rows = np.flatnonzero(shard.valid)
            keys.append(shard.records[rows, 0])
            places.append(np.stack([np.full(len(rows), len(shards)), rows], 1))
            shards.append(shard)
        self._shards = shards
        found = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
        order = np.argsort(found, kind="stable")
        self._keys = found[order]  # first words of the digests, sorted
        self._places = np.concatenate(places)[order] if places else np.zeros((0, 2), np.int64)
        self._recent = {}

    def _find(self, key: bytes) -> Iterator[_Place]:
        """Iterate over the places of a digest."""
        if key in self._recent:
            yield self._recent[key]
        words = np.frombuffer(key, np.uint64)
        for place in range(int(np.searchsorted(self._keys, words[0])), len(self._keys)):
            if self._keys[place] != words[0]:
                return
            number, row = self._places[place].tolist()
            shard = self._shards[number]
            if shard.valid[row] and (shard.records[row, DIGEST] == words).all():
                yield number, row, shard.records[row]

    def _read(self, key: bytes) -> Row | None:
        """Return an intact row, or None."""
        for number, row, record in self._find(key):
            shard = self._shards[number]
            values = np.array(shard.values[row])
            if self._format.is_intact(record, key, values):
                return int(exponents(record[None])[0]), values
            warn_damaged(self.folder)
            self._bad.add((shard.path, row))
            shard.is_damaged = True
            if row < len(shard.valid):
                shard.valid[row] = False
            self._recent.pop(key, None)
        return None

    def _rows(self, digests: Sequence[str | None]) -> StoredFeatures:
        wanted = np.array([digest is not None for digest in digests], np.bool_)
        joined = "".join(digest or "0" * 64 for digest in digests)
        words = np.frombuffer(bytes.fromhex(joined), np.uint64).reshape(-1, 4)
        part, exponent = (np.full(len(words), value, np.int32) for value in (_ZEROS, 0))
        row = np.zeros(len(words), np.int64)
        if len(self._keys):
            places = self._places[np.minimum(np.searchsorted(self._keys, words[:, 0]), len(self._keys) - 1)]
            for number, shard in enumerate(self._shards):
                own = np.flatnonzero(wanted & (places[:, 0] == number))
                records = shard.records[places[own, 1]]
                same = (records[:, DIGEST] == words[own]).all(1)
                own, records = own[same], records[same]
                part[own], row[own], exponent[own] = number, places[own, 1], exponents(records)
        kept: list[Features16] = []
        for place in np.flatnonzero(wanted & (part == _ZEROS)).tolist():  # rows that could not be written
            key = words[place].tobytes()
            if key in self._pending:
                exponent[place], values = self._pending[key]
                part[place], row[place] = len(self._shards), len(kept)
                kept.append(values)
            elif found := next(self._find(key), None):  # not the first whose digest begins alike
                part[place], row[place], exponent[place] = *found[:2], exponents(found[2][None])[0]
            else:
                raise KeyError(digests[place])
        parts = [*(shard.values for shard in self._shards), np.array(kept, "<f2")]
        widths = {parts[number].shape[1] for number in np.unique(part[part != _ZEROS]).tolist()}
        if len(widths) > 1:
            raise ValueError(f"rows have different numbers of values: {sorted(widths)}")
        part[part == _ZEROS] = len(parts)
        return StoredFeatures([*parts, np.zeros((1, max(widths, default=1)), "<f2")], part, row, exponent)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self._pending and not self._append(self.folder):
            if not self._spills:
                self._pending.clear()
                self.is_full = True
                return
            with contextlib.suppress(OSError):
                self._scratch = scratch_dir() / "features" / self.folder.name
                self._append(self._scratch)

    def _append(self, folder: Path) -> bool:
        """Append the pending rows to a pair of files in the folder; False: it cannot be written."""
        by_width: dict[int, dict[bytes, Row]] = {}
        for key, row in self._pending.items():
            by_width.setdefault(len(row[1]), {})[key] = row
        try:
            for width, rows in by_width.items():
                if self._writer is None or not self._writer.fits(folder, width):
                    self._close_writer()
                    self._writer = ShardWriter.open(folder, width, self._format)
                start = self._writer.rows
                records = self._format.records(rows, start)
                self._writer.append(b"".join(values.tobytes() for _, values in rows.values()), records.tobytes())
                self._remember(self._writer.path, rows, records, start)
                for key in rows:
                    del self._pending[key]
        except (OSError, RuntimeError):  # RuntimeError: cyclic links in Python 3.11
            self._close_writer()
            return False
        return True

    def _remember(self, path: Path, rows: Iterable[bytes], records: Words, start: int) -> None:
        """Make rows that were just written known to lookups."""
        numbers = [number for number, shard in enumerate(self._shards) if shard.path == path]
        if not numbers or len(self._recent) > _MAX_RECENT:
            self._reload()
            return
        shard = self._shards[numbers[0]]
        shard.values = map_values(path, start + len(records), shard.values.shape[1])
        for place, key in enumerate(rows):
            self._recent[key] = numbers[0], start + place, records[place]

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _repair(self) -> None:
        """Write the indexes of damaged files again, without the damaged rows."""
        damaged = [shard for shard in self._shards if shard.is_damaged and shard.path.parent == self.folder]
        if not damaged:
            return
        self._close_writer()
        for shard in damaged:
            with contextlib.suppress(OSError, InUseError), locked(index_file(shard.path), "", warns=False):
                now = Shard.open(shard.path, self._format)
                if now is not None:
                    now.exclude(self._bad)
                    self._write_index(now)
                self._bad = {(path, row) for path, row in self._bad if path != shard.path}
        self._reload()

    def _write_index(self, shard: Shard) -> None:
        """Write the index of a damaged pair of files again; the values stay where they are."""
        if not shard.valid.any():
            values_file(shard.path).unlink(missing_ok=True)
            index_file(shard.path).unlink(missing_ok=True)
            return
        records = shard.records[: int(np.flatnonzero(shard.valid)[-1]) + 1].copy()
        records[~shard.valid[: len(records)]] = 0
        with atomic_write(index_file(shard.path)) as temporary:
            temporary.write_bytes(self._format.checked(records).tobytes())
