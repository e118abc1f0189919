"""Remote files on this machine: whole, of the right version, in bounded room, downloaded once."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_s3 import Cut
from waiting import until

from vertebra.errors import UsageError
from vertebra.storage import Location, StorageError, bounded_folder, fetch_verified, local_cache, local_copy


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "remote"


def kept(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def downloads(cache):
    return [name for name in kept(cache) if not name.endswith(".lock")]


def test_a_copy_is_made_once_and_again_after_a_change(cache, faulty):
    file = Location("s3://bucket/photos/1.jpg")
    path = local_copy(file)
    assert path.name == "1.jpg"
    assert path.read_bytes() == faulty.objects["bucket/photos/1.jpg"]
    faulty.requests.clear()
    assert local_copy(file) == path
    assert [request.split()[0] for request in faulty.requests] == ["HEAD"]
    faulty.objects["bucket/photos/1.jpg"] = b"new"
    assert local_copy(file) != path
    assert local_copy(file).read_bytes() == b"new"


def test_a_local_file_is_its_own_copy(tmp_path):
    (tmp_path / "1").write_bytes(b"1")
    assert local_copy(Location(str(tmp_path / "1"))) == tmp_path / "1"
    with pytest.raises(StorageError, match="no such file"):
        local_copy(Location(str(tmp_path / "2")))


@pytest.mark.parametrize("name", ["a b%20#?.onnx", ".hidden", "ü.onnx", "n" * 240 + ".onnx"])
def test_odd_names(cache, s3, name):
    s3.put(f"models/{name}", b"1")
    assert local_copy(Location(f"{s3.uri}/models/{name}")).read_bytes() == b"1"


def test_several_at_once_download_once(cache, faulty):
    faulty.objects["bucket/large"] = os.urandom(3_000_000)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(local_copy, [Location("s3://bucket/large")] * 4))
    assert len(paths) == 1
    assert paths.pop().read_bytes() == faulty.objects["bucket/large"]
    assert sum(request == "GET /bucket/large" for request in faulty.requests) == 1


def test_a_cut_download_leaves_nothing(cache, faulty):
    faulty.faults.append(Cut("GET"))
    with pytest.raises(StorageError, match="was cut"):
        local_copy(Location("s3://bucket/photos/1.jpg"))
    assert kept(cache) == []


def test_a_killed_download_is_not_taken_for_whole(cache, faulty):
    faulty.objects["bucket/large"] = content = os.urandom(3_000_000)
    faulty.faults.append(Cut("GET", stalls=True, times=1))
    code = "from vertebra.storage import *; local_copy(Location('s3://bucket/large'))"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "VERTEBRA_REMOTE_SECONDS": "600"})
    try:
        until(lambda: downloads(cache))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(downloads(cache)) == 1  # the rest of it
    assert local_copy(Location("s3://bucket/large")).read_bytes() == content
    assert downloads(cache) == ["large"]


def test_a_file_that_changes_meanwhile(cache, faulty, monkeypatch):
    states = iter(("old", "older"))
    real = Location.state

    def state(location):
        found = real(location)
        return type(found)(found.size, next(states, found.version))

    monkeypatch.setattr(Location, "state", state)
    path = local_copy(Location("s3://bucket/photos/1.jpg"))
    assert path.read_bytes() == faulty.objects["bucket/photos/1.jpg"]
    states = iter(["other"] * 9)
    with pytest.raises(StorageError, match="changes while it is read"):
        local_copy(Location("s3://bucket/photos/1.jpg"))


def test_the_least_recently_used_copies_make_room(cache, faulty, monkeypatch):
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "0.00035")  # three of 100 kB
    paths = []
    for number in range(3):
        faulty.objects[f"bucket/{number}"] = bytes([number]) * 100_000
        paths.append(local_copy(Location(f"s3://bucket/{number}")))
        os.utime(paths[-1].parent, (number, number))
    local_copy(Location("s3://bucket/0"))  # the oldest is used again
    with paths[1].open("rb") as file:
        faulty.objects["bucket/3"] = bytes(100_000)
        local_copy(Location("s3://bucket/3"))
        assert kept(cache) == ["0", "2", "3"]
        assert file.read() == b"\1" * 100_000  # whoever has it open reads on
    # Those that were given out just now are not deleted.
    faulty.objects["bucket/4"] = bytes(300_000)
    local_copy(Location("s3://bucket/4"))
    assert kept(cache) == ["0", "3", "4"]


def test_a_file_larger_than_the_cache(cache, faulty, monkeypatch):
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "0.00001")
    with pytest.raises(
        StorageError, match=r"1\.jpg has 100 kB, and the cache in .* may take 10\.0 kB\. Make ro"
    ) as caught:
        local_copy(Location("s3://bucket/photos/1.jpg"))
    assert caught.value.is_full
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "much")
    with pytest.raises(UsageError, match="VERTEBRA_REMOTE_CACHE_GB is 'much'; give a number"):
        local_copy(Location("s3://bucket/photos/1.jpg"))


def test_a_full_disk(cache, faulty, monkeypatch):
    monkeypatch.setattr(bounded_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 50_000}))
    with pytest.raises(StorageError, match=r"may take 25\.0 kB") as caught:
        local_copy(Location("s3://bucket/photos/1.jpg"))
    assert caught.value.is_full


def test_a_disk_that_fills_up_meanwhile(cache, faulty, monkeypatch):
    def parts(file):
        yield b"1"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local_cache.RemoteFile, "parts", parts)
    with pytest.raises(StorageError, match=r"1\.jpg cannot be copied to .*remote: the disk is full\. Make") as caught:
        local_copy(Location("s3://bucket/photos/1.jpg"))
    assert caught.value.is_full
    assert downloads(cache) == []


def test_a_read_only_cache_is_done_without(cache, faulty, monkeypatch):
    real = local_cache.Path.mkdir

    def mkdir(path, *arguments, **options):
        if cache in path.parents:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(local_cache.Path, "mkdir", mkdir)
    path = local_copy(Location("s3://bucket/photos/1.jpg"))
    assert path.read_bytes() == faulty.objects["bucket/photos/1.jpg"]
    assert not cache.exists()


def test_the_checksum_is_checked_and_a_damaged_copy_downloaded_again(cache, faulty):
    file = Location("s3://bucket/photos/1.jpg")
    content = faulty.objects["bucket/photos/1.jpg"]
    digest = hashlib.sha256(content).hexdigest()
    path = fetch_verified(file, digest)
    path.write_bytes(bytes(len(content)))
    assert fetch_verified(file, digest).read_bytes() == content
    with pytest.raises(StorageError, match=r"1\.jpg has the SHA-256 [0-9a-f]{16}…, and 0{16}… is expected"):
        fetch_verified(file, "0" * 64)
