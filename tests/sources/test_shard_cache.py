"""Copies of shards: made once, bounded, and what was not used for longest goes first."""

import os
import time

import pytest

from vertebra.cache import cache_dir
from vertebra.sources.shard_cache import open_cached
from vertebra.storage import StorageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "3e-6")


def put(key, size=1000):
    with open_cached(key, size, f"shard {key}", lambda target: target.write(key[:1].encode() * size)) as file:
        return file.read()


def age(seconds):
    for path in (cache_dir() / "shards").glob("*.shard"):
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime - seconds))


def copies():
    return sorted(path.read_bytes()[:1] for path in (cache_dir() / "shards").glob("[!.]*.shard"))


def test_it_is_written_once_and_the_oldest_are_deleted():
    for key in "abc":
        assert put(key) == key.encode() * 1000
        age(10)
    with open_cached("a", 1000, "a", lambda target: pytest.fail("written again")) as file:
        put("d")
        assert copies() == [b"a", b"c", b"d"]  # "a" was used last
        put("e", 2500)
        assert file.read() == b"a" * 1000  # which is read on although it is deleted
    assert copies() == [b"e"]


def test_one_that_is_larger_than_the_cache_is_refused():
    with pytest.raises(StorageError, match=r"shard x has .*, and the cache in .* may take .* set VERTEBRA_REMOTE"):
        put("x", 4000)


def test_a_write_that_fails_leaves_nothing():
    def fail(target):
        target.write(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"^shard cannot be copied to the cache .*No space left.*VERTEBRA_CACHE"):
        open_cached("x", 10, "shard", fail)
    assert copies() == []


def test_others_that_make_room_count_what_is_being_written(tmp_path):
    def write(target):
        assert [path.stat().st_size for path in (tmp_path / "shards").glob(".*.shard")] == [1000]
        target.write(b"x" * 10)

    with open_cached("x", 1000, "x", write) as file:
        assert file.read() == b"x" * 10


def test_what_a_killed_process_left_is_deleted_in_time():
    put("a")
    left = cache_dir() / "shards" / ".a.0123456789ab.shard"
    left.write_bytes(b"x")
    put("b")
    assert left.exists()
    os.utime(left, (0, time.time() - 100_000))
    put("c")
    assert not left.exists()
