"""Remote files that are read again and again: copied once while there is room, and never stale."""

import multiprocessing
import os
import time

import pytest

from vertebra.storage import Location, StorageError, kept_files
from vertebra.storage.kept_files import ask_again, read_kept

NAME = "bucket/photos/1.jpg"
PHOTO = Location(f"s3://{NAME}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "files"


def copies(cache):
    return sorted(path for path in cache.rglob("*") if path.is_file())


def asked(faulty):
    """The methods of the requests since the last call."""
    found = [request.split()[0] for request in faulty.requests]
    faulty.requests.clear()
    return found


def test_a_file_is_fetched_once_and_asked_for_once_a_command(cache, faulty):
    content = faulty.objects[NAME]
    assert read_kept(PHOTO) == content
    assert asked(faulty) == ["HEAD", "GET"]
    assert [read_kept(PHOTO) for _ in range(3)] == [content] * 3
    assert asked(faulty) == []
    ask_again()
    assert read_kept(PHOTO) == content and read_kept(PHOTO) == content
    assert asked(faulty) == ["HEAD"]


def test_a_file_that_has_changed_or_is_gone(cache, faulty):
    read_kept(PHOTO)
    faulty.objects[NAME] = b"new"
    ask_again()
    assert read_kept(PHOTO) == b"new"
    assert len(copies(cache)) == 1
    del faulty.objects[NAME]
    ask_again()
    with pytest.raises(StorageError, match="no such file") as error:
        read_kept(PHOTO)
    assert error.value.is_missing


def test_a_damaged_copy_is_fetched_anew(cache, faulty):
    content = read_kept(PHOTO)
    (path,) = copies(cache)
    for damaged in (path.read_bytes()[:-1], path.read_bytes()[:20], b"", path.read_bytes().replace(b"\1\2", b"\1\3")):
        path.write_bytes(damaged)
        assert read_kept(PHOTO) == content
        assert read_kept(PHOTO) == content
    assert asked(faulty) == ["HEAD", "GET"] * 5


def test_a_full_cache_keeps_what_it_has(cache, faulty, monkeypatch):
    """Reading more than fits in turn costs no more than without a cache, and what fits is fetched once."""
    monkeypatch.setattr(kept_files, "_FOLDERS", 1)
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", f"{4.5 * 100_032 / 1e9:.9f}")
    photos = [Location(f"s3://bucket/photos/{number}.jpg") for number in range(10)]
    for photo in photos:
        faulty.objects[photo.uri.removeprefix("s3://")] = bytes(range(250)) * 400
    for _ in range(3):
        for photo in photos:
            assert len(read_kept(photo)) == 100_000
    requests = asked(faulty)
    assert requests.count("GET") == 4 + 3 * 6
    assert len(copies(cache)) == 4
    # What nobody has read for a day makes room.
    for path in copies(cache)[:2]:
        os.utime(path, (time.time() - 90_000, time.time() - 90_000))
    for photo in photos[4:]:
        read_kept(photo)
    assert len(copies(cache)) == 4
    asked(faulty)
    for photo in photos:
        read_kept(photo)
    assert asked(faulty).count("GET") == 6


def test_a_cache_that_cannot_be_written_or_is_too_small(cache, faulty, monkeypatch):
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "0.0001")
    assert len(read_kept(PHOTO)) == 100_000 and not copies(cache)
    monkeypatch.delenv("VERTEBRA_REMOTE_CACHE_GB")
    cache.parent.mkdir(exist_ok=True)
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir()
    if cache.is_dir():
        cache.rmdir()
    cache.write_bytes(b"a file in the way")
    assert len(read_kept(PHOTO)) == 100_000
    cache.unlink()
    assert len(read_kept(PHOTO)) == 100_000 and len(copies(cache)) == 1


def _read(_):
    return len(read_kept(PHOTO))


def test_forked_workers_share_what_was_asked(cache, faulty):
    read_kept(PHOTO)
    asked(faulty)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_read, range(10)).get(30) == [100_000] * 10
    assert asked(faulty) == []


def test_a_local_file(tmp_path):
    (tmp_path / "1").write_bytes(b"1")
    assert read_kept(Location(str(tmp_path / "1"))) == b"1"
    with pytest.raises(StorageError, match="no such file"):
        read_kept(Location(str(tmp_path / "2")))
