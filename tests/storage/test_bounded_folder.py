"""Bounded folders: what is used or being written stays, the least recently used is deleted, and only if that helps."""

import os
import time

import pytest

from vertebra.storage import bounded_folder
from vertebra.storage.bounded_folder import BoundedFolder, delete_copy


@pytest.fixture(autouse=True)
def _bound(monkeypatch):
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "3e-6")


def put(path, age, size=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_least_recently_used_go_first(tmp_path):
    put(tmp_path / "a", 10), put(tmp_path / "b", 30)
    os.utime(put(tmp_path / "c", 50), (time.time() - 5, time.time() - 50))  # read since
    folder = BoundedFolder(tmp_path)
    assert folder.make_room(0) and names(tmp_path) == ["a", "b", "c"]
    assert folder.make_room(1500) and names(tmp_path) == ["c"]
    assert not folder.make_room(3001) and names(tmp_path) == ["c"]  # nothing helps
    assert folder.make_room(3000) and not names(tmp_path)
    assert BoundedFolder(tmp_path / "none").make_room(3000)


def test_a_folder_has_its_part_and_other_files_stay(tmp_path):
    put(tmp_path / "a.copy", 10), put(tmp_path / "b", 50)
    folder = BoundedFolder(tmp_path, suffix=".copy", parts=2)
    assert folder.limit() == 1500
    assert folder.make_room(500) and names(tmp_path) == ["a.copy", "b"]
    assert folder.make_room(501) and names(tmp_path) == ["b"]


def test_copies_in_use_stay(tmp_path, monkeypatch):
    folder = BoundedFolder(tmp_path, in_use=60)
    for name in "ab":
        put(tmp_path / name, 100)
    real = bounded_folder._copy
    seen = []

    def used_meanwhile(path):
        if seen.count(path) and path.endswith("a"):
            os.utime(path)
        seen.append(path)
        return real(path)

    monkeypatch.setattr(bounded_folder, "_copy", used_meanwhile)
    assert folder.make_room(2000) and names(tmp_path) == ["a"]
    assert not folder.make_room(2500) and names(tmp_path) == ["a"]
    folder.require_room(2500, "x")  # which is no error


def test_what_is_being_written_stays_until_its_writer_is_gone(tmp_path):
    """A download that takes longer than copies stay: its folder's time is when it began."""
    put(tmp_path / "x" / ".1.0123.tmp", 30)
    put(tmp_path / "y" / "1", 30)
    for name in "xy":
        os.utime(tmp_path / name, (0, time.time() - 9000))
    put(tmp_path / ".2.0123.tmp", 2000)
    folder = BoundedFolder(tmp_path, in_use=10)
    assert not folder.make_room(2500) and names(tmp_path) == [".2.0123.tmp", "x/.1.0123.tmp"]
    for path in (tmp_path / "x" / ".1.0123.tmp", tmp_path / "x", tmp_path / ".2.0123.tmp"):
        os.utime(path, (0, time.time() - 4000))
    assert folder.make_room(2500) and not names(tmp_path)


def test_what_has_vanished_or_cannot_be_deleted(tmp_path, monkeypatch):
    for name in "abc":
        put(tmp_path / name, 10)
    folder = BoundedFolder(tmp_path)
    real = delete_copy

    def delete(path):
        if path.endswith("a"):
            return False
        real(path)  # another process was first
        return real(path)

    monkeypatch.setattr(bounded_folder, "delete_copy", delete)
    assert folder.make_room(1000) and names(tmp_path) == ["a", "c"]
    assert not folder.make_room(3000) and names(tmp_path) == ["a"]


def test_a_copy_that_somebody_waits_for_keeps_its_folder(tmp_path, monkeypatch):
    put(tmp_path / "x" / "1", 10), put(tmp_path / "x" / ".1.lock", 10)
    assert delete_copy(tmp_path / "x") and names(tmp_path) == ["x/.1.lock"]
    (tmp_path / "x" / ".1.lock").unlink()
    assert delete_copy(str(tmp_path / "x")) and not (tmp_path / "x").exists()
    assert delete_copy(tmp_path / "x")
    monkeypatch.setattr(bounded_folder.Path, "is_dir", lambda path: True)  # another process was first
    assert delete_copy(tmp_path / "x")


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 200}))
    put(tmp_path / "a", 10)
    assert BoundedFolder(tmp_path).limit() == 600
    assert BoundedFolder(tmp_path, parts=2).limit() == 550
    whole = BoundedFolder(tmp_path, disk_share=1.0)
    assert not whole.make_room(1201) and names(tmp_path) == ["a"]
    assert whole.make_room(1200) and not names(tmp_path)
