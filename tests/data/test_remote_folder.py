"""Class folders and tables on S3, read by the rules of local ones."""

import pytest
from installed import needs

pytest.importorskip("pyarrow")

from vertebra.data import DataError, open_dataset, read_image_info
from vertebra.errors import UsageError, VertebraError
from vertebra.sources.photo_place import StoredPhoto, parse_place
from vertebra.storage import StorageError

needs("moto")

PNG = b"\x89PNG\r\n\x1a\n"


def put(s3, *keys):
    for key in keys:
        s3.put(f"photos/{key}", PNG)
    return f"{s3.uri}/photos"


def shown(dataset):
    return [(dataset.shown(photo.path), photo.label, photo.split) for photo in dataset.photos]


def test_class_folders_in_the_order_of_local_ones(s3, tmp_path):
    keys = ["cat/b.png", "cat/a b::%41.PNG", "cat/inner/c.jpg", "dog/1.jpeg", "dog/note.txt", "classes.csv"]
    address = put(s3, *keys)
    for key in keys:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(PNG if not key.endswith(("txt", "csv")) else b"x")
    found, expected = open_dataset(address), open_dataset(tmp_path)
    assert shown(found) == shown(expected) and found.others == expected.others
    assert found.photos[0].path.read_bytes() == PNG
    assert [parse_place(str(photo.path)) for photo in found.photos] == [photo.path for photo in found.photos]
    assert parse_place(found.place_of("cat/b.png")) == StoredPhoto(f"{address}/cat/b.png")
    assert shown(open_dataset(f"{address}/")) == shown(found)


def test_splits_ignored_folders_and_what_is_refused(s3):
    address = put(s3, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "extra/x/4.png")
    with pytest.raises(DataError, match=rf"{address} has the splits train and val and beside them extra"):
        open_dataset(address)
    found = open_dataset(address, ignore=["extra"])
    assert shown(found)[0] == ("train/cat/1.png", "cat", "train") and len(found.photos) == 3
    assert "Ignored, as asked: extra." in found.notes
    with pytest.raises(UsageError, match="nothing named 'extre' to ignore"):
        open_dataset(address, ignore=["extra", "extre"])
    put(s3, "train/cat//5.png")
    with pytest.raises(StorageError, match=r"train/cat// is a folder without a name"):
        open_dataset(address, ignore=["extra"])


def test_folders_that_are_not_there(s3):
    for address, message in (
        (f"{s3.uri}/nothing", "there is no such file or folder"),
        ("s3://no-such-bucket-here/x", "there is no such bucket"),
    ):
        with pytest.raises(StorageError, match=message):
            open_dataset(address)
    with pytest.raises(VertebraError, match=r"credentials") as caught:
        open_dataset("s3://AKIAXXXXXXXXXXXXXXXX:secretsecret@bucket/x")
    assert "secretsecret" not in str(caught.value)
    s3.put("x.bin", b"x")
    with pytest.raises(UsageError, match=r"x\.bin is a file that is no table and no plain \.tar"):
        open_dataset(f"{s3.uri}/x.bin")


def test_a_table_in_a_bucket_and_one_that_lists_it(s3, tmp_path):
    address = put(s3, "cat/1.png", "dog/2.png")
    table = f"path,label\ncat/1.png,cat\n{address}/dog/2.png,dog\ndog/gone.png,dog\n"
    s3.put("photos/list.csv", table.encode())
    found = open_dataset(f"{address}/list.csv")
    assert [str(photo.path) for photo in found.photos] == [
        f"{address}/{name}.png" for name in ("cat/1", "dog/2", "dog/gone")
    ]
    assert f"relative paths are looked up in {address} (the folder of the table)" in found.looked_in
    infos = read_image_info(found)
    assert (infos[2].broken, infos[2].reason) == ("unreadable", "is missing")
    (tmp_path / "list.csv").write_text("path,label\ncat/1.png,cat\ndog/2.png,dog\n")
    assert len(open_dataset(tmp_path / "list.csv", image_root=address).photos) == 2
    for line, message in (("http://x/1.png,cat", "is an address on the web"), (f"{address}/cat/1.png,dog", "already")):
        (tmp_path / "list.csv").write_text(f"path,label\n{address}/cat/1.png,cat\n{line}\n")
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / "list.csv")


def test_storage_that_cannot_be_reached_leaves_no_photo_out(s3, monkeypatch):
    found = open_dataset(put(s3, "cat/1.png", "dog/2.png"))

    def away(self):
        raise StorageError("s3 is away")

    monkeypatch.setattr("vertebra.sources.photo_place.read_kept", away)
    with pytest.raises(StorageError, match="s3 is away"):
        read_image_info(found)
