"""WebDataset shards: their labels, splits and names of classes; what is ambiguous is refused."""

import pytest
from packed_photos import pack_tar

from vertebra.data import DataError, open_dataset
from vertebra.errors import UsageError
from vertebra.sources.photo_place import parse_place
from vertebra.storage import StorageError

PNG = b"\x89PNG\r\n\x1a\n"
TWO = [("a/1.png", PNG, "cat"), ("a/2.png", PNG, "dog")]


def read(path, **options):
    return open_dataset(path, **options)


def labels(dataset):
    return [photo.label for photo in dataset.photos]


@pytest.mark.parametrize("sidecar", ["cls", "json"])
def test_photos_keep_their_order_and_places(tmp_path, sidecar):
    pack_tar(tmp_path / "b 1.tar", [("z::1.png", PNG, "cat"), ("a\n%41.png", PNG, "dog")], sidecar)
    pack_tar(tmp_path / "a-0.tar", [("x.png", PNG, "dog")], sidecar)
    (tmp_path / "README.md").write_text("x")
    found = read(tmp_path)
    assert labels(found) == ["dog", "cat", "dog"] and found.classes == ("cat", "dog")
    assert [found.shown(photo.path) for photo in found.photos] == [
        "a-0.tar::x.png",
        "b 1.tar::z::1.png",
        "b 1.tar::a\n%41.png",
    ]
    assert [photo.path.read_bytes() for photo in found.photos] == [PNG] * 3
    assert [parse_place(str(photo.path)) for photo in found.photos] == [photo.path for photo in found.photos]
    assert found.others == ("README.md",) and not found.has_splits
    assert parse_place(found.place_of("a-0.tar::x.png")) == found.photos[0].path


@pytest.mark.parametrize(
    "names", [("train-000.tar", "train-001.tar", "val-000.tar"), ("train/0.tar", "train/1.tar", "validation/0.tar")]
)
def test_splits_are_of_the_names_of_shards_or_folders(tmp_path, names):
    for name in names:
        pack_tar(tmp_path / name, TWO)
    found = read(tmp_path)
    assert [photo.split for photo in found.photos] == ["train"] * 4 + ["val"] * 2
    assert {photo.split for photo in read(tmp_path, ignore=["val"], allow_unseen=True).photos} <= {"train", "val"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train-0.tar", "extra-0.tar"), r"train-0\.tar, whose name says the split, and extra-0\.tar, .* --ignore"),
        (("train/val-0.tar",), r"train/val-0\.tar names the splits train and val"),
    ],
)
def test_splits_that_cannot_be_told(tmp_path, names, message):
    for name in names:
        pack_tar(tmp_path / name, TWO)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_shard_that_is_left_out(tmp_path):
    pack_tar(tmp_path / "train-0.tar", TWO)
    (tmp_path / "extra.tar").write_bytes(b"no tar")
    with pytest.raises(StorageError, match=r"extra\.tar"):
        read(tmp_path, ignore=["train-0.tar"])
    found = read(tmp_path, ignore=["extra.tar"])
    assert "Ignored, as asked: extra.tar." in found.notes
    with pytest.raises(UsageError, match=r"nothing named 'extre\.tar' to ignore"):
        read(tmp_path, ignore=["extra.tar", "extre.tar"])


def test_numbers_get_the_names_beside_them(tmp_path):
    pack_tar(tmp_path / "0.tar", [("1.png", PNG, 1), ("2.png", PNG, 0)])
    assert labels(read(tmp_path)) == ["1", "0"]
    assert (
        "The labels are numbers, and there is no classes.txt beside the shards that names them." in read(tmp_path).notes
    )
    (tmp_path / "classes.txt").write_text("cat\ngreat dane\n\n")
    found = read(tmp_path)
    assert labels(found) == ["great dane", "cat"]
    assert f"The labels are numbers of the classes in {tmp_path / 'classes.txt'}." in found.notes
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"0\.tar::1\.png: the label is 1, and .*classes\.txt names 1 classes"):
        read(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(DataError, match="has the class 'cat' twice"):
        read(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "dataset_info.json").write_text('{"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}')
    assert labels(read(tmp_path)) == ["b", "a"]


def test_photos_without_a_label_and_several_of_one_key(tmp_path):
    path = pack_tar(tmp_path / "x.tar", [*TWO, ("cat/3.png", PNG, None)])
    with pytest.raises(DataError, match=r"x\.tar::cat/3\.png has no label: .* neither cat/3\.cls nor cat/3\.json"):
        read(path)
    pack_tar(path, [("1.png", PNG, "cat"), ("1.seg.png", PNG, None), ("2.png", PNG, "dog")])
    with pytest.raises(DataError, match=r"1\.png and 1\.seg\.png share the key '1'.* --ignore seg\.png"):
        read(path)
    found = read(path, ignore=["seg.png"])
    assert labels(found) == ["cat", "dog"] and "Ignored, as asked: 'seg.png' (1)." in found.notes


def test_damaged_empty_and_compressed_shards(tmp_path):
    pack_tar(tmp_path / "0.tar", TWO)
    pack_tar(tmp_path / "1.tar", [])
    assert "Without any photo, and left out: 1.tar." in read(tmp_path).notes
    (tmp_path / "2.tar.zst").write_bytes(b"x")
    assert any("Not read, as only plain tar files are: 2.tar.zst" in note for note in read(tmp_path).notes)
    (tmp_path / "1.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:700])
    with pytest.raises(StorageError, match=r"1\.tar .*Make or copy it anew"):
        read(tmp_path)
    pack_tar(tmp_path / "1.tar", [TWO[0], TWO[0]])
    with pytest.raises(StorageError, match=r"1\.tar::a/1\.png stands in the shard twice"):
        read(tmp_path)


def test_shards_beside_other_data(tmp_path):
    pack_tar(tmp_path / "0.tar", TWO)
    (tmp_path / "x.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"has tar shards, such as .*0\.tar, and Parquet files, such as .*x\.parquet"):
        read(tmp_path)
    for label in ("cat", "dog"):  # photos in folders are the data then, as ever
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(PNG)
    assert all(photo.path.is_file() for photo in read(tmp_path).photos)


def test_patterns_and_single_shards(tmp_path, monkeypatch):
    for number in range(3):
        pack_tar(tmp_path / f"s-{number:03}.tar", TWO)
    monkeypatch.chdir(tmp_path)
    assert len(read("s-{000..001}.tar").photos) == 4
    assert len(read("s-*.tar").photos) == 6
    assert len(read("s-001.tar").photos) == 2
    with pytest.raises(UsageError, match=r"stands for 5 files, and 2 of them are not there, such as s-003\.tar"):
        read("s-{000..004}.tar")
    with pytest.raises(UsageError, match="no file matches"):
        read("t-*.tar")
    with pytest.raises(UsageError, match=r"there is no folder, table or data set 't-000\.tar'"):
        read("t-000.tar")
