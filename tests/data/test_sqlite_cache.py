"""Rows in an SQLite file: as they were put, or not at all."""

import os
import random
import sqlite3
import subprocess
import sys

import pytest

from vertebra import cache
from vertebra.data import SqliteCache, sqlite_cache
from vertebra.errors import VertebraWarning

COLUMNS = ("photo BLOB", "count INTEGER", "share REAL", "words TEXT")
KEYS = [f"{number:064x}" for number in range(120)]


def row_of(key):
    number = int(key, 16)
    return (random.Random(number).randbytes(300), number, number / 7, "é" * (number % 5))


def store_at(path, *, rows=KEYS, context=""):
    store = SqliteCache(path, "things", COLUMNS, context)
    for key in rows:
        store.put(key, row_of(key))
    store.save()
    return store


@pytest.fixture
def content(tmp_path):
    """The bytes of a sound file."""
    store_at(tmp_path / "sound.sqlite")
    return (tmp_path / "sound.sqlite").read_bytes()


@pytest.fixture(autouse=True)
def _untold(monkeypatch):
    monkeypatch.setattr(cache, "_warned", set())


def known(store):
    return {key: row for key in KEYS if (row := store.get(key)) is not None}


def test_rows_come_back_as_they_were_put(tmp_path):
    store_at(tmp_path / "below" / "a.sqlite")
    store = SqliteCache(tmp_path / "below" / "a.sqlite", "things", COLUMNS)
    assert known(store) == {key: row_of(key) for key in KEYS}
    assert store.get("none") is None
    store.put(KEYS[0], (b"", -1, 0.5, ""))
    assert store.get(KEYS[0]) == (b"", -1, 0.5, "")
    assert SqliteCache(tmp_path / "below" / "a.sqlite", "things", COLUMNS).get(KEYS[0]) == row_of(KEYS[0])
    store.save()
    assert SqliteCache(tmp_path / "below" / "a.sqlite", "things", COLUMNS).get(KEYS[0]) == (b"", -1, 0.5, "")


# Bytes damaged, bytes cut off at the end: of the head and the table of tables, and of anything.
DAMAGE = [(count, reach) for count in (1, 3, 300) for reach in (100, 4096, None)] + [(0, None)]


@pytest.mark.parametrize(("count", "reach"), DAMAGE)
def test_what_is_damaged_is_never_given(tmp_path, content, count, reach, monkeypatch):
    said = []
    monkeypatch.setattr(cache, "warn", said.append)
    for seed in range(10):
        chance = random.Random(f"{count} {reach} {seed}")
        damaged = bytearray(content)
        for place in (chance.randrange(reach or len(content)) for _ in range(count)):
            damaged[place] ^= chance.randrange(1, 256)
        if not count:
            del damaged[chance.randrange(len(content)) :]
        path = tmp_path / f"{seed}.sqlite"
        path.write_bytes(damaged)
        told = []
        for _ in range(3):  # as many processes
            cache._warned.clear()
            said.clear()
            store = SqliteCache(path, "things", COLUMNS)
            found = known(store)
            assert found == {key: row_of(key) for key in found}
            for key in KEYS:
                if key not in found:
                    store.put(key, row_of(key))
            store.save()
            told.append((len(said), len(KEYS) - len(found)))
        # Of a few entries that are gone from the index there is no trace.
        assert told[0][0] == 1 or told[0] <= (0, 5)
        assert told[2] == (0, 0)


def test_what_is_left_of_a_damaged_file_is_kept(tmp_path, content):
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE things SET share = share + 1 WHERE count = 7")
        database.execute("UPDATE things SET photo = substr(photo, 1, 299) WHERE count = 8")
        database.execute("UPDATE things SET sha256 = ? WHERE count = 9", ["f" * 64])
    store = SqliteCache(path, "things", COLUMNS)
    with pytest.warns(VertebraWarning, match=r"a\.sqlite is damaged\. What it held is made again; no result") as told:
        assert set(KEYS) - set(known(store)) == {KEYS[7], KEYS[8], KEYS[9]}
        assert store.get("f" * 64) is None
        store.put(KEYS[7], row_of(KEYS[7]))
        store.save()
    assert len(told) == 1
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM things").fetchone() == (118,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(known(SqliteCache(path, "things", COLUMNS))) == 118


def test_rows_of_another_context_are_not_given(tmp_path, content):
    (tmp_path / "a.sqlite").write_bytes(content)
    with pytest.warns(VertebraWarning, match="is damaged"):
        assert SqliteCache(tmp_path / "a.sqlite", "things", COLUMNS, "another network").get(KEYS[0]) is None
    store_at(tmp_path / "b.sqlite", context="this network")
    assert SqliteCache(tmp_path / "b.sqlite", "things", COLUMNS, "this network").get(KEYS[0]) == row_of(KEYS[0])


def test_a_table_of_another_version_is_made_anew(tmp_path, recwarn):
    for columns in (("one TEXT",), ("one TEXT", "two INTEGER"), ("one TEXT", "two INTEGER")):
        store = SqliteCache(tmp_path / "a.sqlite", "things", columns)
        found = store.get("x")
        row = ("a", 1)[: len(columns)]
        store.put("x", row)
        store.save()
        assert SqliteCache(tmp_path / "a.sqlite", "things", columns).get("x") == row
    assert found == ("a", 1)
    assert not recwarn.list


def test_what_cannot_be_written_does_not_fill_the_memory(tmp_path):
    (tmp_path / "folder.sqlite").mkdir()
    store = SqliteCache(tmp_path / "folder.sqlite", "things", ("one TEXT",))
    for number in range(6000):
        store.put(str(number), ("a",))
    store.save()
    assert len(store._new) <= 4096
    assert store.get("5999") == ("a",)
    assert list((tmp_path / "folder.sqlite").iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "circle of links", "dangling link", "pipe", "no database", "empty"])
def test_something_else_in_its_place(tmp_path, kind):
    path = tmp_path / "a.sqlite"
    if kind == "folder":
        path.mkdir()
    elif kind.endswith(("link", "links")):
        path.symlink_to(path if kind.startswith("circle") else tmp_path / "none" / "file")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"" if kind == "empty" else b"this is no database, whatever its name says" * 50)
    store = store_at(path)
    assert store.get(KEYS[0]) == row_of(KEYS[0])
    again = SqliteCache(path, "things", COLUMNS).get(KEYS[0])
    assert again == (None if kind in ("folder", "pipe") else row_of(KEYS[0]))


def test_files_of_sqlite_that_were_left_behind(tmp_path, content):
    for suffix in ("-journal", "-wal", "-shm"):
        path = tmp_path / f"of{suffix}.sqlite"
        path.write_bytes(content)
        (tmp_path / f"{path.name}{suffix}").write_bytes(content[:8192][::-1])
        assert known(SqliteCache(path, "things", COLUMNS)) == {key: row_of(key) for key in KEYS}
    # A file that has been replaced is not filled with the pages of the one before.
    path = tmp_path / "old.sqlite"
    path.write_bytes(b"no database")
    (tmp_path / "old.sqlite-journal").write_bytes(content)
    store_at(path)
    assert not (tmp_path / "old.sqlite-journal").exists()


def test_a_file_that_is_deleted_or_replaced_meanwhile(tmp_path):
    path = tmp_path / "a.sqlite"
    store = store_at(path, rows=KEYS[:1])
    path.unlink()
    store.put(KEYS[1], row_of(KEYS[1]))
    store.save()
    assert list(known(SqliteCache(path, "things", COLUMNS))) == [KEYS[1]]
    path.unlink()
    other = store_at(path, rows=KEYS[2:3])
    store.put(KEYS[3], row_of(KEYS[3]))
    store.save()
    assert list(known(other)) == [KEYS[2], KEYS[3]]


def test_a_file_that_another_process_has_locked(tmp_path, content, monkeypatch):
    monkeypatch.setattr("vertebra.data.sqlite_cache._LOCK_TIMEOUT", 0.05)
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    for opened in (True, False):
        monkeypatch.setattr(cache, "_warned", set())
        store = SqliteCache(path, "things", COLUMNS) if opened else None
        holder = sqlite3.connect(path)
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.warns(VertebraWarning, match="is locked by another process") as told:
            store = store or SqliteCache(path, "things", COLUMNS)
            assert known(store) == {}
            store.put(KEYS[0], (b"", 1, 1.5, "new"))
            store.save()
        assert len(told) == 1 and store._timeout == 0
        assert store.get(KEYS[0]) == (b"", 1, 1.5, "new")
        holder.rollback()
        holder.close()
        store.save()
        assert SqliteCache(path, "things", COLUMNS).get(KEYS[0]) == (b"", 1, 1.5, "new")


def test_several_processes_at_once(tmp_path):
    code = """
import sys
from pathlib import Path
from vertebra.data import SqliteCache, sqlite_cache
store = SqliteCache(Path(sys.argv[1]), "things", ("one INTEGER",))
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    store.put(str(number), (number,))
    store.save()
"""
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database")
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), str(20 * part)]) for part in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    store = SqliteCache(path, "things", ("one INTEGER",))
    assert [store.get(str(number)) for number in range(60)] == [(number,) for number in range(60)]


@pytest.mark.parametrize(("content", "moment"), [(b"no database", "warn_damaged"), (None, "creation_lock")])
def test_another_process_is_sooner_to_replace_a_file(tmp_path, monkeypatch, content, moment):
    """Between judging the file and holding its lock, another process makes a new one and keeps a row there."""
    path = tmp_path / "a.sqlite"
    if content is not None:
        path.write_bytes(content)
    function = getattr(sqlite_cache, moment)

    def sooner(path):
        monkeypatch.setattr(sqlite_cache, moment, function)
        other = SqliteCache(path, "things", ("one INTEGER",))
        other.put("1", (1,))
        other.save()
        return function(path)

    monkeypatch.setattr(sqlite_cache, moment, sooner)
    late = SqliteCache(path, "things", ("one INTEGER",))
    late.put("2", (2,))
    late.save()
    store = SqliteCache(path, "things", ("one INTEGER",))
    assert [store.get("1"), store.get("2")] == [(1,), (2,)]
