"""What is kept between runs comes back as it was kept, or not at all; and keeping it is never a reason to fail."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vertebra import cache as module
from vertebra.cache import (
    cache_dir,
    cached_fingerprint,
    checksum,
    creation_lock,
    file_state,
    fingerprint,
    is_verified,
    read_json,
    read_sidecar,
    record_verified,
    scratch_dir,
    warn_damaged,
    warn_once,
    write_json,
    write_sidecar,
)
from vertebra.errors import InUseError, VertebraError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_warned", set())


@pytest.fixture
def said(monkeypatch):
    """What is told."""
    texts = []
    monkeypatch.setattr(module, "warn", texts.append)
    return texts


@pytest.fixture
def readings(monkeypatch):
    """How often a file's content is hashed."""
    found = []
    hashed = module._hashed
    monkeypatch.setattr(module, "_hashed", lambda path: found.append(path.name) or hashed(path))
    return found


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"VERTEBRA_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"VERTEBRA_CACHE": "~/a", "HOME": "/home/me"}, "/home/me/a"),
        ({"VERTEBRA_CACHE": "", "XDG_CACHE_HOME": "/b", "LOCALAPPDATA": "/c"}, "/b/vertebra"),
        (
            {"VERTEBRA_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me", "LOCALAPPDATA": "/c"},
            "/home/me/.cache/vertebra",
        ),
    ],
)
def test_where_the_cache_is(monkeypatch, variables, folder):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_dir()) == folder


def test_a_folder_of_one_process_goes_with_it():
    code = "from vertebra.cache import scratch_dir as s; (s() / 'a').write_text('x'); assert s() == s(); print(s())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vertebra-" in done.stdout and not os.path.exists(done.stdout.strip())  # noqa: PTH110
    assert scratch_dir() == scratch_dir() != done.stdout.strip() and scratch_dir().is_dir()


# --- checksums --------------------------------------------------------------------------------------------------------


def test_parts_of_a_checksum_are_told_apart():
    found = {checksum(*parts) for parts in ((), ("",), ("ab",), ("a", "b"), ("", "ab"), ("b", "a"), (b"a", "b", "c"))}
    assert len(found) == 7 and {len(one) for one in found} == {16}
    assert checksum("ä") == checksum("ä".encode())
    # Another sum would make all void that is kept.
    assert checksum("a", b"bc").hex() == "f14abc19c330e936bb9c8506d69bac9b"


# --- objects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"a": {"b": [1.5, None, "ä"]}, "c": float("inf")}])
def test_an_object_comes_back(tmp_path, said, value):
    path = tmp_path / "below" / "a.json"
    assert read_json(path) is None
    write_json(path, value)
    assert read_json(path) == value
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
    assert not value or "checksum" in json.loads(path.read_text())  # readable by others, too
    assert said == []


def test_an_object_that_is_damaged_anywhere_does_not_come_back(tmp_path, said):
    path = tmp_path / "a.json"
    write_json(path, {"sha256": "0123", "told": ["x"]})
    content = path.read_bytes()
    for place in range(len(content)):
        for change in (1, 2, 0x80):
            damaged = bytearray(content)
            damaged[place] ^= change
            path.write_bytes(damaged)
            assert read_json(path) is None
    assert said == [f"{path} is damaged. What it held is made again; no result changes."]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert read_json(path) is None
    path.write_bytes(content)
    assert read_json(path) == {"sha256": "0123", "told": ["x"]}
    assert len(said) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [(b'{\n "sha256": "1"\n}', 0), (b"{}", 0), (b"", 1), (b"[]", 1), (b"\0" * 100, 1), (b'{"checksum": "', 1)],
)
def test_what_another_version_wrote_is_not_called_damaged(tmp_path, said, content, told):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None
    assert len(said) == told


def test_an_object_in_the_place_of_another_does_not_come_back(tmp_path, said):
    write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    assert read_json(tmp_path / "b.json") is None and len(said) == 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "circle", "unreadable"])
def test_something_else_in_the_place_of_an_object(tmp_path, kind, said, monkeypatch):
    path = tmp_path / "a.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "circle":
        path.symlink_to(path)
    else:
        write_json(path, {"a": 1})
        monkeypatch.setattr(type(path), "read_bytes", lambda self: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert read_json(path) is None
    write_json(path, {"a": 2})
    monkeypatch.undo()
    assert read_json(path) == (None if kind == "folder" else {"a": 2})


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "file"))
    write_json(cache_dir() / "a.json", {"a": 1})
    assert read_json(cache_dir() / "a.json") is None
    with creation_lock(cache_dir() / "a"):
        pass
    assert fingerprint(tmp_path / "file") == fingerprint(tmp_path / "file")


# --- files ------------------------------------------------------------------------------------------------------------


def flip(path, times=None):
    """One bit, in place."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    if times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("times", [False, True])
def test_a_fingerprint_is_taken_again_only_when_the_file_changes(tmp_path, readings, times):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert cached_fingerprint(path) is None
    first = fingerprint(path)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert cached_fingerprint(path) == first == fingerprint(path)
    flip(path, times)
    assert cached_fingerprint(path) is None
    assert fingerprint(path) != first
    assert readings == ["file"] * 2
    (note,) = (cache_dir() / "hashes").iterdir()
    note.write_bytes(note.read_bytes().replace(b'"sha256": "', b'"sha256": "0', 1))
    assert cached_fingerprint(path) is None


@pytest.mark.parametrize("name", ["none", "circle", "folder", "pipe"])
def test_a_file_that_cannot_be_read(tmp_path, name):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert cached_fingerprint(tmp_path / name) is None
    with pytest.raises(VertebraError, match=rf"{name} cannot be read \(.+\)\."):
        fingerprint(tmp_path / name)


def test_a_state_tells_a_file_from_another(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    status = path.stat()
    assert file_state(path) == {"size": 3, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    assert module._state(status) == {**file_state(path), "ctime_ns": status.st_ctime_ns}


def test_what_was_found_to_be_intact(tmp_path, readings):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert not is_verified(path, path.stat())
    record_verified(path, path.stat())
    assert is_verified(path, path.stat()) and cached_fingerprint(path) is None
    record_verified(path, path.stat(), "f" * 64)
    assert fingerprint(path) == "f" * 64 and readings == []
    flip(path, times=True)
    assert not is_verified(path, path.stat())


def test_a_kept_file_and_its_note(tmp_path, said, readings):
    path = tmp_path / "a.onnx"
    assert read_sidecar(path) is None
    write_sidecar(path, {"told": []})  # no file, no note
    assert read_sidecar(path) is None
    path.write_bytes(b"content")
    assert read_sidecar(path) is None
    write_sidecar(path, {"told": ["x"]})
    del readings[:]
    assert read_sidecar(path) == {"told": ["x"]} and readings == []
    # Touched, it is hashed once; and always, where that is asked for.
    path.touch()
    for _ in range(2):
        assert read_sidecar(path) == {"told": ["x"]}
    assert readings == ["a.onnx"]
    assert read_sidecar(path, thorough=True) == {"told": ["x"]}
    assert readings == ["a.onnx"] * 2 and said == []
    path.unlink()
    assert read_sidecar(path) is None and said == []
    path.write_bytes(b"contant")
    assert read_sidecar(path) is None
    assert said == [f"{path} is damaged. What it held is made again; no result changes."]


def test_what_changes_without_a_trace_is_found_where_it_is_asked_for(tmp_path, said, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"content")
    write_sidecar(path, {})
    state = module._state(path.stat())
    flip(path)
    monkeypatch.setattr(module, "_state", lambda status: state)
    assert read_sidecar(path) == {} and said == []
    assert read_sidecar(path, thorough=True) is None and len(said) == 1


def test_a_kept_file_that_cannot_be_read(tmp_path, said):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"content")
    write_sidecar(path, {})
    path.unlink()
    path.mkdir()
    assert read_sidecar(path) is None and len(said) == 1


def test_things_are_told_once(tmp_path, said):
    for name in ("a", "b", "a"):
        warn_damaged(tmp_path / name)
        warn_once("the same")
    assert said == [said[0], "the same", said[2]] and said[0] != said[2]


# --- one process at a time --------------------------------------------------------------------------------------------


def test_one_makes_and_the_other_waits(tmp_path):
    path = tmp_path / "far" / "below" / "a"
    inside, go_on, order = threading.Event(), threading.Event(), []

    def first():
        with creation_lock(path):
            inside.set()
            assert go_on.wait(60)
            order.append("first")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(first)
        assert inside.wait(60)
        with creation_lock(tmp_path / "far" / "below" / "another"):  # which is none of its business
            pass
        with creation_lock(path, go_on.set):
            order.append("second")
        done.result()
    assert order == ["first", "second"]
    assert list(path.parent.iterdir()) == []


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    asked = []

    def locked(path, remedy, *, wait, waiting):
        asked.append((path, wait))
        raise InUseError("held")

    monkeypatch.setattr(module, "locked", locked)
    with creation_lock(tmp_path / "a"):
        asked.append("made")
    assert asked == [(tmp_path / "a", 900.0), "made"]


def test_an_error_of_the_making_itself_is_told(tmp_path):
    with pytest.raises(OSError, match="full"), creation_lock(tmp_path / "a"):
        raise OSError("full")
    with creation_lock(tmp_path / "a"):
        pass
