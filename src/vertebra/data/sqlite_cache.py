"""An SQLite cache of results by the SHA-256 of a file's content.

SQLite has no checksums and returns damaged values, so each row has a checksum of its own.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from vertebra.cache import checksum, creation_lock, warn_damaged, warn_once
from vertebra.files import atomic_write

Row: TypeAlias = tuple[Any, ...]

_SAVE_EVERY = 512  # rows: an interrupted run loses at most these
_MAX_UNSAVED = 4096  # rows: some megabytes
_LOCK_TIMEOUT = 10.0  # seconds to wait for another process, once per run
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# Errors of opening or writing that do not mean a damaged file.
_NOT_DAMAGED = (
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_INTERRUPT),
)
# Raised on reading a damaged file; a ValueError if SQLite's message has bytes that are not UTF-8.
_ERRORS = (sqlite3.Error, ValueError, OverflowError, MemoryError)


class SqliteCache:
    """One row for each SHA-256; safe for several threads and processes.

    An unusable file makes lookups miss and changes no result. A row is returned exactly as it was put, or not at all.
    A damaged file is replaced with one warning; intact rows before its first unreadable page are kept.

    `columns` has the name and type of each column besides `sha256`: `"photo BLOB"`. `context` is what the values depend
    on besides the content; rows of another context count as damaged.
    """

    def __init__(self, path: Path, table: str, columns: Sequence[str], context: str = "") -> None:
        names = ", ".join(column.split()[0] for column in columns)
        marks = ", ".join("?" * len(columns))
        self._path, self._context = path, f"{table} ({', '.join(columns)}) {context}"
        self._create = f"CREATE TABLE {table} (sha256 TEXT PRIMARY KEY, {', '.join(columns)}, checksum BLOB)"
        self._select = f"SELECT {names}, checksum FROM {table} WHERE sha256 = ?"  # noqa: S608 - names of our own
        self._every = f"SELECT sha256, {names}, checksum FROM {table}"  # noqa: S608
        self._insert = f"INSERT OR REPLACE INTO {table} (sha256, {names}, checksum) VALUES (?, {marks}, ?)"  # noqa: S608
        self._version = int.from_bytes(checksum(self._create)[:3], "little")
        self._lock = threading.Lock()
        self._new: dict[str, Row] = {}
        self._timeout = _LOCK_TIMEOUT
        self._must_replace = False
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._open()

    def get(self, digest: str) -> Row | None:
        """Return the row of a digest, or None."""
        with self._lock:
            if digest in self._new:
                return self._new[digest]
            row: Row | None = None
            try:
                if self._connection is not None:
                    row = self._connection.execute(self._select, [digest]).fetchone()
            except _ERRORS as error:
                self._handle(error)
            if row is None:
                return None
            if row[-1] == self._checksum(digest, row[:-1]):
                return row[:-1]
            self._must_replace = True
        warn_damaged(self._path)
        return None

    def put(self, digest: str, row: Row) -> None:
        """Add a row; every 512 rows they are saved."""
        with self._lock:
            self._new[digest] = row
            is_due = len(self._new) % _SAVE_EVERY == 0
        if is_due:
            self.save()

    def save(self) -> None:
        """Write the new rows; if that fails, the last 4,096 stay in memory."""
        with self._lock:
            if self._new and self._write():
                self._new = {}
            for key in list(self._new)[:-_MAX_UNSAVED]:
                del self._new[key]

    def _write(self) -> bool:
        for _ in range(2):
            # If another process has deleted or replaced the file, writes would be lost.
            if self._must_replace or self._opened != _identity(self._path):
                self._open()
            if self._connection is None:
                return False
            rows = [(key, *row, self._checksum(key, row)) for key, row in self._new.items()]
            try:
                with self._connection:
                    self._connection.executemany(self._insert, rows)
                if self._opened == _identity(self._path):  # not replaced by another process meanwhile
                    return True
            except _ERRORS as error:
                self._handle(error)
                if not self._must_replace:
                    return False
        return False

    def _open(self) -> None:
        """Connect to the file; create it if missing, replace it if damaged or of another version."""
        with contextlib.suppress(OSError, *_ERRORS):
            if not self._must_replace:
                self._connect()
            if self._must_replace:
                self._replace()
                self._connect()

    def _connect(self) -> None:
        """Connect to a file with exactly this table, or set `_must_replace`."""
        self._close()
        self._must_replace = not self._path.exists()
        if not self._path.is_file():
            return
        try:
            connection = sqlite3.connect(self._path, timeout=self._timeout, check_same_thread=False)
            opened = _identity(self._path)
            found = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except _ERRORS as error:
            self._handle(error)
            return
        if found != [self._create] or version != self._version:
            connection.close()
            self._must_replace = True
            # A table of another version is replaced without a warning.
            if version == self._version or found in ([], [self._create]):
                warn_damaged(self._path)
            return
        self._connection, self._opened = connection, opened

    def _replace(self) -> None:
        """Replace the file with its intact rows, unless another process has done so."""
        with creation_lock(self._path):
            if self._connection is not None:
                is_replaced = _identity(self._path) != self._opened
            else:  # checked before the lock was acquired: another process may have replaced the file
                self._connect()
                is_replaced = not self._must_replace
            if is_replaced:
                return
            with atomic_write(self._path) as temporary:
                connection = sqlite3.connect(temporary)
                with contextlib.closing(connection), connection:
                    connection.execute(self._create)
                    connection.execute(f"PRAGMA user_version = {self._version}")
                    connection.executemany(self._insert, self._intact_rows())
                self._close()
                # SQLite would apply the old file's journal to the new one.
                for suffix in ("-journal", "-wal", "-shm"):
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _intact_rows(self) -> Iterator[Row]:
        """Iterate over the rows before the first unreadable page, with their checksums."""
        with contextlib.suppress(*_ERRORS):
            for key, *row in self._connection.execute(self._every) if self._connection else ():
                if isinstance(key, str) and row[-1] == self._checksum(key, row[:-1]):
                    yield key, *row

    def _close(self) -> None:
        with contextlib.suppress(*_ERRORS):
            if self._connection is not None:
                self._connection.close()
        self._connection = self._opened = None

    def _handle(self, error: BaseException) -> None:
        """Warn of an error once, and set whether the file must be replaced."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _IN_USE:
            self._close()
            self._timeout = 0.0  # wait only once
            warn_once(f"{self._path} is locked by another process; what it holds is computed again meanwhile.")
        elif code not in _NOT_DAMAGED:
            self._must_replace = True
            warn_damaged(self._path)

    def _checksum(self, digest: str, row: Sequence[Any]) -> bytes:
        return checksum(self._context, digest, *(part for value in row for part in _typed(value)))


def _typed(value: Any) -> tuple[str, str | bytes]:
    """Return a value's type and a unique text or bytes of it, for the checksum."""
    if isinstance(value, bytes | str):
        return type(value).__name__, value
    return type(value).__name__, struct.pack("<d", value) if isinstance(value, float) else repr(value)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which change if a file is replaced."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
