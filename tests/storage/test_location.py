"""A file or folder by path or URI: both kinds answer alike."""

import errno
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from vertebra import files
from vertebra.storage import Location, StorageError

ODD_NAMES = ("a b.jpg", "a%20b.jpg", "a+b.jpg", "a#b.jpg", "a?b=1.jpg", "ü😀.jpg", "a::b.jpg", "a@b:c.jpg", "&<'>.jpg")


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """An empty folder of each kind."""
    if request.param == "s3":
        return Location(request.getfixturevalue("s3").uri) / "photos"
    return Location(str(tmp_path)) / "photos"


def test_what_is_written_is_listed_and_read(folder):
    file = folder / "1.txt"
    file.write(b"hello")
    assert file.read_bytes() == b"hello"
    assert [(entry.location, entry.size) for entry in folder.list()] == [(file, 5)]
    assert file.is_file() and not file.is_folder()
    assert folder.is_folder() and not folder.is_file()
    assert (file.name, (folder / "a.TAR").suffix) == ("1.txt", ".tar")


def test_a_file_is_replaced_and_its_state_tells(folder):
    file = folder / "1.txt"
    file.write(b"one")
    before = file.state()
    file.write(b"two")
    after = file.state()
    assert (before.size, after.size) == (3, 3)
    assert before.version != after.version
    assert file.state() == after
    assert [entry.size for entry in folder.list()] == [3]  # no temporary file is left


def test_ranges_and_seeking(folder):
    content = bytes(range(256)) * 40
    (folder / "x").write(content)
    assert (folder / "x").read_range(100, 50) == content[100:150]
    assert (folder / "x").read_range(len(content) - 3, 50) == content[-3:]
    assert (folder / "x").read_range(len(content) + 3, 50) == b""
    with (folder / "x").open() as file:
        assert file.read(10) == content[:10]
        assert file.seek(-5, io.SEEK_END) == len(content) - 5
        assert file.read() == content[-5:]
        assert (file.read(), file.read(5), file.tell()) == (b"", b"", len(content))


def test_a_tar_is_read_through_an_opened_file(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(__file__, "test.py")
    (folder / "x.tar").write_file(tmp_path / "x.tar")
    with (folder / "x.tar").open() as file, tarfile.open(fileobj=io.BufferedReader(file)) as tar:
        assert tar.extractfile("test.py").read() == Path(__file__).read_bytes()


def test_empty_and_large_files(folder, tmp_path):
    (folder / "empty").write(b"")
    assert (folder / "empty").read_bytes() == b""
    assert (folder / "empty").state().size == 0
    large = os.urandom(1_000_000) * 17  # in several parts
    (tmp_path / "large").write_bytes(large)
    (folder / "large").write_file(tmp_path / "large")
    assert (folder / "large").read_bytes() == large


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_taken_as_it_is(folder, name):
    (folder / name).write(name.encode())
    assert (folder / name).read_bytes() == name.encode()
    assert [entry.location for entry in folder.list()] == [folder / name]
    (folder / name).delete()
    assert list(folder.list()) == []


def test_a_location_is_pickled(folder):
    (folder / "1").write(b"1")
    assert pickle.loads(pickle.dumps(folder / "1")).read_bytes() == b"1"


def test_deleting_twice_is_no_error(folder):
    (folder / "1").write(b"1")
    (folder / "1").delete()
    (folder / "1").delete()
    assert not (folder / "1").is_file()


def test_what_is_missing(folder):
    (folder / "1").write(b"1")
    for action in (
        (folder / "2").read_bytes,
        (folder / "2").state,
        (folder / "2").open,
        lambda: (folder / "2").read_range(0, 1),
        lambda: list((folder / "sub").list()),
    ):
        with pytest.raises(
            StorageError, match=r"photos/(2|sub) cannot be .*: there is no such file or folder\."
        ) as caught:
            action()
        assert caught.value.is_missing
        assert caught.value.__cause__ is None


def test_a_folder_is_no_file_and_a_file_no_folder(folder):
    (folder / "sub" / "1").write(b"1")
    with pytest.raises(StorageError, match="it is a folder, and a file is needed"):
        (folder / "sub").read_bytes()
    with pytest.raises(StorageError, match=r"file.* folder is needed"):
        list((folder / "sub" / "1").list())


def test_a_missing_bucket_is_told_apart(s3):
    place = Location("s3://no-such-bucket-here/photos")
    for action in ((place / "1").read_bytes, lambda: list(place.list()), lambda: (place / "1").write(b"1")):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket-here.*there is no such bucket\. Check") as caught:
            action()
        assert caught.value.is_missing


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    file = Location(str(tmp_path / "1"))
    file.write(b"old")

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(StorageError, match=r"/1 cannot be written: the disk is full\. Make room") as caught:
        file.write(b"new")
    assert caught.value.is_full
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may read and write all")
def test_permission_denied(tmp_path):
    (tmp_path / "1").write_bytes(b"1")
    (tmp_path / "1").chmod(0)
    with pytest.raises(StorageError, match=r"1 cannot be read: permission denied\. Change its permissions"):
        Location(str(tmp_path / "1")).read_bytes()


def test_names_that_no_file_system_takes(tmp_path, s3):
    with pytest.raises(StorageError, match="cannot be read"):
        Location(f"{tmp_path}/a\0b").read_bytes()
    with pytest.raises(StorageError, match="not valid UTF-8"):
        Location(f"{s3.uri}/\udcff.jpg").read_bytes()
    with pytest.raises(StorageError, match=r"names with // are not supported"):
        Location(f"{s3.uri}/a//b.jpg").read_bytes()
    name = os.fsdecode(b"\xff.jpg")
    Location(str(tmp_path)).__truediv__(name).write(b"1")
    assert [entry.location.name for entry in Location(str(tmp_path)).list()] == [name]
