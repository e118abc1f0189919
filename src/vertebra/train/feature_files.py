"""The files of a feature store: pairs that only grow, `NAME.f16` with the values and `NAME.index` with a record a row.

A record has 64 bytes: the digest (32), the checksum of the row (16), the exponent of its scale and its number of values
(4 each), and a check of the record itself (8), which is fast enough for all records whenever a file is opened.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra.cache import checksum
from vertebra.errors import InUseError
from vertebra.files import AppendOnlyFile, locked

from .stored_features import Features16

Row: TypeAlias = tuple[int, Features16]  # exponent of the power of two, values (D,)
Words: TypeAlias = NDArray[np.uint64]

RECORD_WORDS = 8
RECORD_BYTES = 8 * RECORD_WORDS
DIGEST, CHECKSUM = slice(0, 4), slice(4, 6)
_SHAPE, _CHECK = 6, 7
_FACTORS = np.frombuffer(checksum("factors", "1") * 4, np.uint64) | np.uint64(1)
_LEAST_EXPONENT = -126  # 2**exponent is a normal float32


# --- rows ---------------------------------------------------------------------------------------------------------


class NotFiniteError(ValueError):
    """A row has values that are NaN or infinite."""


def encode(values: NDArray[Any]) -> Row:
    """Round a row to float16 with a power of two, so that its largest value is from 2¹⁴ to 2¹⁵.

    Nothing overflows, and only values below 2⁻³⁹ of the largest become 0.

    Raises:
        NotFiniteError: values are NaN or infinite.
    """
    flat = np.asarray(values, np.float32).ravel()
    largest = float(np.abs(flat).max(initial=0.0))
    if not np.isfinite(largest):
        raise NotFiniteError
    exponent = max(int(np.frexp(largest)[1]) - 15, _LEAST_EXPONENT) if largest else 0
    return exponent, np.ldexp(flat, -exponent).astype("<f2")


def decode(row: Row) -> NDArray[np.float32]:
    """Return the values (D,) of an encoded row."""
    exponent, values = row
    found: NDArray[np.float32] = np.ldexp(values.astype(np.float32), exponent)
    return found


# --- records ------------------------------------------------------------------------------------------------------


class RecordFormat:
    """Makes and checks the records of rows that depend on `context` besides the photo."""

    def __init__(self, context: str) -> None:
        self._context = context
        self._seed = np.frombuffer(checksum(context)[:8], np.uint64)[0]

    def records(self, rows: Mapping[bytes, Row], start: int) -> Words:
        """Return the records (R, 8) of rows by digest, the first of which is row `start` of its file."""
        records = np.zeros((len(rows), RECORD_WORDS), np.uint64)
        for record, (key, (exponent, values)) in zip(records, rows.items(), strict=True):
            record[DIGEST] = np.frombuffer(key, np.uint64)
            record[CHECKSUM] = np.frombuffer(self._checksum(key, exponent, values), np.uint64)
            record[_SHAPE] = (len(values) << 32) | (exponent & 0xFFFFFFFF)
        return self.checked(records, start)

    def checked(self, records: Words, start: int = 0) -> Words:
        """Return the records with the right checks."""
        records[:, _CHECK] = self._checks(records, start)
        return records

    def are_intact(self, records: Words) -> NDArray[np.bool_]:
        """(R,) whether the check of each record is right, from the first of a file on."""
        found: NDArray[np.bool_] = records[:, _CHECK] == self._checks(records, 0)
        return found

    def is_intact(self, record: Words, key: bytes, values: Features16) -> bool:
        """Whether the checksum of a row is right."""
        found: bytes = record[CHECKSUM].tobytes()
        return found == self._checksum(key, int(exponents(record[None])[0]), values)

    def _checks(self, records: Words, start: int) -> Words:
        places = np.arange(start + 1, start + 1 + len(records), dtype=np.uint64)
        mixed = (records[:, :_CHECK] * _FACTORS[:_CHECK]).sum(1, dtype=np.uint64) + places * _FACTORS[_CHECK]
        mixed ^= mixed >> np.uint64(29)
        mixed *= _FACTORS[0]
        found: Words = mixed ^ (mixed >> np.uint64(32)) ^ self._seed
        return found

    def _checksum(self, key: bytes, exponent: int, values: Features16) -> bytes:
        return checksum(self._context, key, exponent.to_bytes(4, "little", signed=True), values.tobytes())


def exponents(records: Words) -> NDArray[np.int32]:
    """(R, 8) → (R,)."""
    return records[:, _SHAPE].astype(np.uint32).view(np.int32)


def _widths(records: Words) -> NDArray[np.int64]:
    return (records[:, _SHAPE] >> np.uint64(32)).astype(np.int64)


# --- files --------------------------------------------------------------------------------------------------------


@dataclass
class Shard:
    """A pair of files, as far as its rows are whole."""

    path: Path  # without suffix
    records: Words  # (R, 8)
    valid: NDArray[np.bool_]  # (R,)
    values: Features16  # (R or fewer, D), mapped
    is_damaged: bool
    is_exact: bool  # neither file ends in the middle of a row

    @staticmethod
    def open(path: Path, form: RecordFormat) -> Shard | None:
        """Open a pair of files; None: they have no rows."""
        try:
            if not (index_file(path).is_file() and values_file(path).is_file()):  # reading a pipe may never end
                return None
            content, size = index_file(path).read_bytes(), values_file(path).stat().st_size
            count = len(content) // RECORD_BYTES
            records = np.frombuffer(content, np.uint64, count * RECORD_WORDS).reshape(-1, RECORD_WORDS)
            intact, widths = form.are_intact(records), _widths(records)
            used = intact & (widths > 0)  # others were found damaged before
            width = int(widths[np.argmax(used)]) if used.any() else 0
            whole = min(count, size // (2 * width)) if width else 0
            valid = used & (widths == width) & (np.arange(count) < whole)
            values = map_values(path, whole, width)
        except (OSError, ValueError):
            return None
        is_exact = len(content) == count * RECORD_BYTES and size == count * 2 * width
        return Shard(path, records, valid, values, bool(not intact.all() or (used & ~valid).any()), is_exact)

    def exclude(self, rows: set[tuple[Path, int]]) -> None:
        """Mark rows, by (path, row), as damaged; those of other files are ignored."""
        for path, row in rows:
            if path == self.path and row < len(self.valid):
                self.valid[row] = False


def map_values(path: Path, rows: int, width: int) -> Features16:
    """Map the first rows of a file of values, (rows, width); pages that are read can be dropped again."""
    if not rows:
        return np.zeros((0, width), "<f2")
    return np.memmap(values_file(path), "<f2", "c", shape=(rows, width))


class ShardWriter:
    """A pair of files that this process appends to, and no other."""

    def __init__(self, path: Path, width: int, lock: contextlib.ExitStack) -> None:
        self.path, self.width, self._stack = path, width, lock
        self._values = AppendOnlyFile(values_file(path))
        self._stack.callback(self._values.close)
        self._index = AppendOnlyFile(index_file(path))
        self._stack.callback(self._index.close)
        self.rows = self._index.size // RECORD_BYTES

    @staticmethod
    def open(folder: Path, width: int, form: RecordFormat) -> ShardWriter:
        """Append to a pair of files that no other process has, or to a new one; raise an `OSError` if that fails."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in shard_paths(folder):
            lock = contextlib.ExitStack()
            with contextlib.suppress(InUseError, OSError):
                if lock.enter_context(locked(index_file(path), "", warns=False)):
                    shard = Shard.open(path, form)  # once it is locked: another process may just have appended
                    if shard and shard.is_exact and not shard.is_damaged and shard.values.shape[1] == width:
                        return ShardWriter(path, width, lock)
            lock.close()
        path, lock = folder / os.urandom(6).hex(), contextlib.ExitStack()
        with contextlib.suppress(InUseError):
            lock.enter_context(locked(index_file(path), "", warns=False))
        return ShardWriter(path, width, lock)

    def fits(self, folder: Path, width: int) -> bool:
        """Whether it has rows of this width in this folder, where nobody has deleted or replaced its files."""
        try:
            is_kept = all(
                os.path.samestat(path.stat(), os.fstat(file.file.fileno()))
                for path, file in ((values_file(self.path), self._values), (index_file(self.path), self._index))
            )
        except OSError:
            return False
        return is_kept and self.path.parent == folder and self.width == width

    def append(self, values: bytes, records: bytes) -> None:
        """Append rows, or raise an `OSError`: values first, as a row counts once its record is whole."""
        self._values.append(values)
        self._index.append(records)
        self.rows += len(records) // RECORD_BYTES

    def close(self) -> None:
        """Close the files, and let other processes append to them."""
        self._stack.close()


def shard_paths(folder: Path) -> list[Path]:
    """Return the pairs of files in a folder, without their suffixes."""
    try:
        return sorted(path.with_suffix("") for path in folder.iterdir() if path.suffix == ".index")
    except OSError:
        return []


def index_file(path: Path) -> Path:
    """Return the file of the records."""
    return path.with_name(f"{path.name}.index")


def values_file(path: Path) -> Path:
    """Return the file of the values."""
    return path.with_name(f"{path.name}.f16")
