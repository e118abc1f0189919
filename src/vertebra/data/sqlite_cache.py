"""What has been found out about contents, kept in an SQLite file by their SHA-256.

SQLite has no checksums: it gives what damaged bytes say, as long as they can be read at all. So each row has one.
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

_SAVE_EVERY = 512  # rows: what an interrupted run loses at most
_MOST_UNSAVED = 4096  # rows: some megabytes
_PATIENCE = 10.0  # seconds that another process may hold the file, once in a run
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# That the file cannot be written or opened says nothing of what it holds.
_WELL = (
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_INTERRUPT),
)
# What reading damaged bytes raises. A ValueError comes where SQLite's message repeats them and they are no UTF-8.
_ERRORS = (sqlite3.Error, ValueError, OverflowError, MemoryError)


class SqliteCache:
    """One row for each SHA-256; several threads and processes may use it.

    A file that cannot be used costs time, never the result: then nothing is known, and nothing is kept. A row comes
    back as it was put, or not at all. A damaged file is told once and replaced; its sound rows up to the first page
    that cannot be read are kept.

    `columns` are name and type of each one besides `sha256`: `"photo BLOB"`. `context` is what the values depend on
    besides the content; rows of another context are damaged ones.
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
        self._patience = _PATIENCE
        self._unfit = False  # the file has to be replaced
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._open()

    def get(self, digest: str) -> Row | None:
        """The row, or None where there is none."""
        with self._lock:
            if digest in self._new:
                return self._new[digest]
            row: Row | None = None
            try:
                if self._connection is not None:
                    row = self._connection.execute(self._select, [digest]).fetchone()
            except _ERRORS as error:
                self._note(error)
            if row is None:
                return None
            if row[-1] == self._checksum(digest, row[:-1]):
                return row[:-1]
            self._unfit = True
        warn_damaged(self._path)
        return None

    def put(self, digest: str, row: Row) -> None:
        """Keep a row; it is on disk after `save`, which this calls now and then."""
        with self._lock:
            self._new[digest] = row
            is_due = len(self._new) % _SAVE_EVERY == 0
        if is_due:
            self.save()

    def save(self) -> None:
        """Write what is new; of what cannot be written, the last rows are remembered as long as the process runs."""
        with self._lock:
            if self._new and self._write():
                self._new = {}
            for key in list(self._new)[:-_MOST_UNSAVED]:
                del self._new[key]

    def _write(self) -> bool:
        for _ in range(2):
            # Deleted or replaced by another process, or damaged: what is written there is lost.
            if self._unfit or self._opened != _identity(self._path):
                self._open()
            if self._connection is None:
                return False
            rows = [(key, *row, self._checksum(key, row)) for key, row in self._new.items()]
            try:
                with self._connection:
                    self._connection.executemany(self._insert, rows)
                if self._opened == _identity(self._path):  # else another process has replaced it meanwhile
                    return True
            except _ERRORS as error:
                self._note(error)
                if not self._unfit:
                    return False
        return False

    def _open(self) -> None:
        """Connect to the file, made where there is none, and made anew where it is damaged or of another version."""
        with contextlib.suppress(OSError, *_ERRORS):
            if not self._unfit:
                self._connect()
            if self._unfit:
                self._replace()
                self._connect()

    def _connect(self) -> None:
        """Connect to a file with this table alone; where there is none, say whether it has to be replaced."""
        self._close()
        self._unfit = not self._path.exists()
        if not self._path.is_file():
            return
        try:
            connection = sqlite3.connect(self._path, timeout=self._patience, check_same_thread=False)
            opened = _identity(self._path)
            found = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except _ERRORS as error:
            self._note(error)
            return
        if found != [self._create] or version != self._version:
            connection.close()
            self._unfit = True
            # A file of another version has another table; nobody reads its rows any more.
            if version == self._version or found in ([], [self._create]):
                warn_damaged(self._path)
            return
        self._connection, self._opened = connection, opened

    def _replace(self) -> None:
        """A new file with sound rows of this one, unless another process has been sooner."""
        with creation_lock(self._path):
            if self._connection is not None:
                is_replaced = _identity(self._path) != self._opened
            else:  # judged before the lock was ours: what is there now may be another process's new file
                self._connect()
                is_replaced = not self._unfit
            if is_replaced:
                return
            with atomic_write(self._path) as temporary:
                connection = sqlite3.connect(temporary)
                with contextlib.closing(connection), connection:
                    connection.execute(self._create)
                    connection.execute(f"PRAGMA user_version = {self._version}")
                    connection.executemany(self._insert, self._sound_rows())
                self._close()
                # Of the file before: SQLite would put its pages back into the new one.
                for suffix in ("-journal", "-wal", "-shm"):
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _sound_rows(self) -> Iterator[Row]:
        """Those before the first page that cannot be read, checksums included."""
        with contextlib.suppress(*_ERRORS):
            for key, *row in self._connection.execute(self._every) if self._connection else ():
                if isinstance(key, str) and row[-1] == self._checksum(key, row[:-1]):
                    yield key, *row

    def _close(self) -> None:
        with contextlib.suppress(*_ERRORS):
            if self._connection is not None:
                self._connection.close()
        self._connection = self._opened = None

    def _note(self, error: BaseException) -> None:
        """Tell what keeps the file from being used, and remember it."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _IN_USE:
            self._close()
            self._patience = 0.0  # the next attempt does not wait
            warn_once(f"{self._path} is locked by another process; what it holds is computed again meanwhile.")
        elif code not in _WELL:
            self._unfit = True
            warn_damaged(self._path)

    def _checksum(self, digest: str, row: Sequence[Any]) -> bytes:
        return checksum(self._context, digest, *(part for value in row for part in _typed(value)))


def _typed(value: Any) -> tuple[str, str | bytes]:
    """A value as SQLite gives it back: its type, and bytes that no other value of the type has."""
    if isinstance(value, bytes | str):
        return type(value).__name__, value
    return type(value).__name__, struct.pack("<d", value) if isinstance(value, float) else repr(value)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another in its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
