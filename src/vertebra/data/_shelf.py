"""What has been found out about contents, kept in an SQLite file by their SHA-256."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SAVE_EVERY = 512  # rows: what an interrupted run loses at most
_MOST_UNSAVED = 4096  # rows: some megabytes


class Shelf:
    """One row for each SHA-256; several threads and processes may use it.

    A file that cannot be used costs time, never the result: then nothing is known, and nothing is kept.

    Args:
        path: the SQLite file.
        table: the table's name.
        columns: name and type of each column besides `sha256`: `"photo BLOB"`.
    """

    def __init__(self, path: Path, table: str, columns: Sequence[str]) -> None:
        names = ", ".join(column.split()[0] for column in columns)
        self._select = f"SELECT {names} FROM {table} WHERE sha256 = ?"  # noqa: S608 - names of our own
        marks = ", ".join("?" * len(columns))
        self._insert = f"INSERT OR REPLACE INTO {table} (sha256, {names}) VALUES (?, {marks})"  # noqa: S608
        self._lock = threading.Lock()
        self._new: dict[str, tuple[Any, ...]] = {}
        self._connection: sqlite3.Connection | None = None
        with contextlib.suppress(sqlite3.Error, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
            known = connection.execute(f"SELECT name || ' ' || type FROM pragma_table_info('{table}')").fetchall()  # noqa: S608
            if known and [row[0] for row in known[1:]] != list(columns):
                connection.execute(f"DROP TABLE {table}")  # of another version, whose rows nobody reads any more
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (sha256 TEXT PRIMARY KEY, {', '.join(columns)})")
            self._connection = connection

    def get(self, digest: str) -> tuple[Any, ...] | None:
        """The row, or None where there is none."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if digest in self._new:
                return self._new[digest]
            if self._connection is not None:
                row: tuple[Any, ...] | None = self._connection.execute(self._select, [digest]).fetchone()
                return row
        return None

    def put(self, digest: str, row: tuple[Any, ...]) -> None:
        """Keep a row; it is on disk after `save`, which this calls now and then."""
        with self._lock:
            self._new[digest] = row
            full = len(self._new) >= _SAVE_EVERY
        if full:
            self.save()

    def save(self) -> None:
        """Write what is new; of what cannot be written, the last rows are remembered as long as the process runs."""
        with self._lock:
            with contextlib.suppress(sqlite3.Error):
                if self._connection is not None and self._new:
                    with self._connection:
                        self._connection.executemany(self._insert, [(key, *row) for key, row in self._new.items()])
                    self._new = {}
            for key in list(self._new)[:-_MOST_UNSAVED]:
                del self._new[key]
