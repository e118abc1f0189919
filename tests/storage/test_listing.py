"""What a folder holds, in an order that is the same in every run."""

import random

import pytest
from faulty_s3 import Refuse

from vertebra.errors import VertebraWarning
from vertebra.storage import Location, StorageError

NAMES = ("b/2.jpg", "b/1.jpg", "a/x/1.jpg", "a.jpg", "a/1.jpg", "Z.jpg", "ü.jpg", "_dsc1.jpg")
HIDDEN = (".hidden.jpg", ".git/1.jpg", "__MACOSX/a/1.jpg", "b/.DS_Store", "b/@eaDir/1.jpg")


def names(folder, **options):
    return [entry.location.uri.removeprefix(folder.uri).strip("/") for entry in folder.list(**options)]


def make(folder):
    for name in random.sample(NAMES + HIDDEN, len(NAMES + HIDDEN)):
        (folder / name).write(name.encode())


def test_a_local_folder_is_listed_by_name_without_what_is_hidden(tmp_path):
    make(Location(str(tmp_path)))
    assert names(Location(str(tmp_path))) == [
        *("Z.jpg", "_dsc1.jpg", "a/1.jpg", "a/x/1.jpg", "a.jpg", "b/1.jpg", "b/2.jpg", "ü.jpg")
    ]


@pytest.mark.parametrize("prefix", ["", "/photos", "/photos/"])
def test_a_prefix_is_listed_in_the_order_of_its_keys(s3, prefix):
    folder = Location(s3.uri + prefix)
    make(folder)
    assert names(folder) == sorted(NAMES, key=str.encode)
    keys = [f"{s3.uri}/{key}" for key in s3.keys("")]
    assert [entry.location.uri for entry in folder.list()] == [
        key for key in keys if key.removeprefix(folder.uri).strip("/") in NAMES
    ]


def test_markers_of_folders_are_no_files(s3):
    s3.put("photos/", b"")
    s3.put("photos/a/", b"")
    s3.put("photos/a/1.jpg", b"1")
    s3.put("photos/a", b"also a file")
    s3.put("photos/empty.jpg", b"")
    folder = Location(f"{s3.uri}/photos")
    assert names(folder) == ["a", "a/1.jpg", "empty.jpg"]
    assert [entry.size for entry in folder.list()] == [11, 1, 0]


def test_names_without_a_character_are_told(s3):
    s3.put("photos/1.jpg", b"1")
    s3.put("photos/x//2.jpg", b"1")
    folder = Location(f"{s3.uri}/photos")
    skipped = []
    assert names(folder, on_skipped=lambda place, error: skipped.append((place, str(error)))) == ["1.jpg"]
    assert skipped[0][0] == f"{s3.uri}/photos/x//"
    assert "is a folder without a name, which is not supported" in skipped[0][1]
    with pytest.raises(StorageError, match="not supported"):
        names(folder)


def test_more_files_than_one_answer_holds_in_many_folders(faulty):
    for folder in range(7):
        for number in range(1_500 if folder == 3 else 3):
            faulty.objects[f"bucket/many/{folder}/{number:05}.jpg"] = b"1"
    found = names(Location("s3://bucket/many"))
    assert len(found) == 1_518
    assert found == sorted(found)


def test_a_folder_that_cannot_be_listed_halfway_ends_the_listing(faulty):
    faulty.objects.update({f"bucket/many/{folder}/1.jpg": b"1" for folder in "abcdefghijkl"})
    found = Location("s3://bucket/many").list()
    assert next(found).location.name == "1.jpg"
    faulty.faults.append(Refuse())
    with pytest.raises(StorageError, match=r"s3://bucket/many/[b-l] cannot be listed: access is denied"):
        list(found)


def test_links_locally(tmp_path):
    folder = Location(str(tmp_path / "photos"))
    (folder / "a" / "1.jpg").write(b"1")
    (tmp_path / "photos" / "a" / "circle").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "photos" / "link").symlink_to("a")
    skipped = []
    with pytest.warns(VertebraWarning, match="circle is a link to a folder that it lies in: it is not followed"):
        found = names(folder, on_skipped=lambda place, error: skipped.append((place, str(error))))
    assert found == ["a/1.jpg", "link/1.jpg"]
    assert skipped == [(str(folder / "broken.jpg"), f"{folder}/broken.jpg is a link to nothing.")]
    with pytest.warns(VertebraWarning), pytest.raises(StorageError, match="is a link to nothing"):
        names(folder)


def test_an_empty_folder_and_bucket_have_no_files(tmp_path, s3):
    assert names(Location(str(tmp_path))) == []
    assert names(Location(s3.uri)) == []
