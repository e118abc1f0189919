"""The files by which a machine tells that it sees each folder of a source."""

import pytest

from vertebra.sources import folder_sample as module
from vertebra.sources.folder_sample import MOST, FolderSample


def sample(*folders, photos=3):
    return FolderSample(f"{folder}/{number}.jpg" for folder in folders for number in range(photos)).files()


def tops(files, depth=1):
    return {"/".join(name.split("/")[:depth]) for name in files}


def test_each_folder_has_its_first_file():
    assert sample("a", "b/c", "b", "a") == ["a/0.jpg", "b/c/0.jpg", "b/0.jpg"]
    assert FolderSample(["1.jpg", "2.jpg"]).files() == ["1.jpg"]
    assert FolderSample().files() == []


def test_of_many_folders_those_above_are_all_there():
    found = sample("last/x", *(f"{top}/{number:03}" for top in ("train", "val", "test") for number in range(300)))
    assert len(found) <= MOST and tops(found) == {"last", "train", "val", "test"}
    assert len(tops(found, 2)) == len(found)  # the others evenly among them


def test_of_folders_side_by_side_some_are_taken_evenly():
    found = sample(*(f"/photos/{number:03}" for number in range(1_000)))
    assert 16 <= len(found) <= MOST
    assert found[0] == "/photos/000/0.jpg" and found[-1] > "/photos/95"


@pytest.mark.parametrize("top", ["/data", "/data/x/y"])
def test_memory_is_bounded_and_no_top_is_lost(monkeypatch, top):
    monkeypatch.setattr(module, "_KEPT", 50)
    deep = [f"{top}/{first}/{second:02}/{third}" for first in range(9) for second in range(40) for third in range(3)]
    found = FolderSample(f"{folder}/1.jpg" for folder in [*deep, f"{top}/late/a"])
    assert len(found._files) <= 50
    names = [name.removeprefix(top)[1:] for name in found.files()]
    assert tops(names) == {*map(str, range(9)), "late"}
    flat = FolderSample(f"/data/{number}/1.jpg" for number in range(200))
    assert len(flat._files) == 50


def test_a_bucket_is_one_folder():
    assert sample("s3://one/a", "s3://one/b", "s3://two/a", "c") == ["s3://one/a/0.jpg", "s3://two/a/0.jpg", "c/0.jpg"]
