"""Folders, tables and names → labelled photos."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vertebra.data import DataError, open_dataset
from vertebra.errors import MissingExtraError, UsageError


def test_class_folders(folder):
    root = folder(dog=2, cat=3)
    (root / "cat" / "more").mkdir()
    (root / "cat" / "0.png").rename(root / "cat" / "more" / "UPPER.PNG")
    (root / "cat" / "notes.txt").write_text("hi")
    (root / "cat" / "._1.png").write_text("macOS")
    (root / "list.csv").write_text("")
    found = open_dataset(root)
    assert found.classes == ("cat", "dog")
    assert found.counts() == {"cat": 3, "dog": 2}
    assert [found.shown(photo.path) for photo in found.photos][:3] == ["cat/1.png", "cat/2.png", "cat/more/UPPER.PNG"]
    assert not found.has_splits
    assert set(found.others) == {"cat/notes.txt", "list.csv"}
    assert found.shown(Path("/elsewhere/x.png")) == "/elsewhere/x.png"
    assert len(found.only(lambda photo: photo.label == "dog").photos) == 2


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(folder, tmp_path, val):
    for name in ("train", val, "test"):
        folder(tmp_path / "data" / name, cat=2, dog=1)
    found = open_dataset(tmp_path / "data")
    assert {photo.split for photo in found.photos} == {"train", "val", "test"}
    assert found.classes == ("cat", "dog")
    assert len(found.photos) == 9


def test_a_class_may_be_called_train(folder):
    found = open_dataset(folder(train=2, plane=2))
    assert found.classes == ("plane", "train")
    assert not found.has_splits


def test_links_are_followed_but_not_in_a_circle(folder):
    root = folder(cat=2, dog=2)
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "all").symlink_to(root)
    (root / "dog" / "same").symlink_to(root / "cat")
    found = open_dataset(root)
    assert found.counts() == {"all": 0, "cat": 2, "dog": 4}
    assert any("all is a link to a folder that it lies in" in line for line in found.unreadable)
    assert any("cat/again is a link" in line for line in found.unreadable)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_named(folder):
    root = folder(cat=2, dog=2, closed=1)
    (root / "closed").chmod(0)
    found = open_dataset(root)
    (root / "closed").chmod(0o755)
    assert any("closed cannot be listed" in line for line in found.unreadable)


def test_a_folder_that_vanishes_is_named(folder, monkeypatch):
    root = folder(cat=2, dog=2)
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="photos of one class only, 'dog'"):
        open_dataset(root)
    monkeypatch.setattr(os, "scandir", lambda path: refuse("cat"))
    with pytest.raises(DataError, match="cannot be listed"):
        open_dataset(root)


def test_nothing_to_tell_apart(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no photos in class folders.*photos/cat/1\.jpg"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "cat").mkdir()
    with pytest.raises(DataError, match="1 class folders, all empty"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "1.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"In no class folder, and left out: 1\.jpg\. Put"):
        open_dataset(tmp_path / "empty")
    for number in range(2, 6):
        (tmp_path / "empty" / f"{number}.jpg").touch()
    (tmp_path / "empty" / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(
        DataError, match=r"left out: 5, such as 1\.jpg, 2\.jpg and 3\.jpg\. Left out, as no photos: a vid"
    ):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "Labels.CSV").touch()
    with pytest.raises(DataError, match=r"If Labels\.CSV has their labels, give .*/empty/Labels\.CSV instead\.$"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(DataError, match="one class only, 'cat'"):
        open_dataset(folder(cat=2))


def test_a_mistyped_folder(folder):
    root = folder(cat=1, dog=1)
    with pytest.raises(UsageError, match=rf"no folder, table or data set .*\. Did you mean '{root.name}'\?$"):
        open_dataset(f"{root}s")


@pytest.mark.parametrize("name", ["", "digit", "no/such/folder", "nothing"])
def test_unknown_data(name):
    with pytest.raises(UsageError, match=r"DATA is empty|Did you mean 'digits'|there is no folder"):
        open_dataset(name)


def test_a_file_that_is_no_table(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match="is a file that is no table"):
        open_dataset(tmp_path / "photos.zip")


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables(tmp_path, suffix):
    rows = [
        ("b/2.png", "dog", "valid"),
        ("1.png", "cat", ""),
        ("/far/3.png", "cat", "train"),
        ("c.png", "dog", " TRAIN"),
    ]
    path = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = [list(column) for column in zip(*rows, strict=True)]
        parquet.write_table(pyarrow.table(dict(zip(("path", "label", "split"), columns, strict=True))), path)
    else:
        separator = "\t" if suffix == ".tsv" else ","
        path.write_text("\n".join(separator.join(row) for row in [("path", "label", "split"), *rows]))
    (tmp_path / "1.png").write_bytes(b"")
    found = open_dataset(path)
    assert [(found.shown(p.path), p.label, p.split) for p in found.photos] == [
        ("/far/3.png", "cat", "train"),
        ("1.png", "cat", None),
        ("b/2.png", "dog", "val"),
        ("c.png", "dog", "train"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\n1.png,cat", "no column 'label'.*Did you mean 'lable'"),
        ("path,label\n1.png,\n", "line 2: the label is empty"),
        ("path,label\n,cat\n", "line 2: the path is empty"),
        ("path,label,split\n1.png,cat,tset\n", "the split is 'tset'.*Did you mean 'test'"),
        (
            "path,label\n1.png,cat\n1.png,dog\n",
            "line 3: 1.png is listed already, in line 2, as 'cat', and here",
        ),
        ("", "has no column 'path'"),
    ],
)
def test_tables_with_mistakes(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "list.csv")


def test_tables_that_are_none(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "a.parquet").write_bytes(b"no")
    for name, message in (("a.csv", "no table of text"), ("a.parquet", "no Parquet table"), ("b.csv", "no such file")):
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / name)
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(DataError, match="no photos"):
        open_dataset(tmp_path / "c.csv")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.parquet").write_bytes(b"no")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"vertebra\[parquet\]"):
        open_dataset(tmp_path / "a.parquet")


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digits(cache):
    pytest.importorskip("sklearn")
    found = open_dataset("digits")
    assert found.name == "digits"
    assert len(found.photos) == 1797
    assert found.classes == tuple("0123456789")
    from sklearn.datasets import load_digits

    first = np.asarray(Image.open(next(p.path for p in found.photos if p.path.stem == "000000")))
    assert np.array_equal(first, np.round(load_digits().images[0] * 255 / 16))
    before = found.photos[0].path.stat().st_mtime_ns
    assert open_dataset("digits").photos[0].path.stat().st_mtime_ns == before  # made once
    assert not [path for path in (cache / "datasets").iterdir() if path.name.startswith(".")]


def test_sets_that_torchvision_downloads(cache, monkeypatch, draw, tmp_path):
    datasets = pytest.importorskip("torchvision").datasets

    class Pictures(list):
        """As CIFAR-10: pictures in memory."""

        classes = ("plane", "car/van")

        def __init__(self, root, train, download):
            super().__init__((draw(10 * train + i), i % 2) for i in range(4))

    class Files(list):
        """As Flowers: files and numbers."""

        def __init__(self, root, split, download):
            for i in range(2):
                draw(i).save(tmp_path / f"{i}.png")
            self._image_files, self._labels = [tmp_path / "0.png", tmp_path / "1.png"], [0, 1]
            super().__init__([None, None])

    class Samples(list):
        def __init__(self, root, split, download):
            draw(5).save(tmp_path / "5.png")
            self._samples, self.classes = (
                [(str(tmp_path / "5.png"), 0), (str(tmp_path / "5.png"), 1)],
                [("a", "b"), "c"],
            )
            super().__init__([None, None])

    monkeypatch.setattr(datasets, "CIFAR10", Pictures)
    monkeypatch.setattr(datasets, "Flowers102", Files)
    monkeypatch.setattr(datasets, "GTSRB", Samples)
    cifar = open_dataset("cifar10")
    assert cifar.classes == ("car-van", "plane")
    assert {photo.split for photo in cifar.photos} == {"train", "test"}
    assert len(cifar.photos) == 8
    flowers = open_dataset("flowers102")
    assert flowers.classes == ("0", "1")
    assert {photo.split for photo in flowers.photos} == {"train", "val", "test"}
    assert open_dataset("gtsrb").classes == ("a", "c")


def test_a_download_that_fails(cache, monkeypatch):
    datasets = pytest.importorskip("torchvision").datasets

    def fail(root, download):
        raise RuntimeError("no\n route")

    monkeypatch.setattr(datasets, "EuroSAT", fail)
    with pytest.raises(DataError, match=r"eurosat cannot be downloaded \(no route\)\. If you have a copy"):
        open_dataset("eurosat")
    assert not list((cache / "datasets").iterdir())


def test_names_without_their_packages(cache, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("digits", "mnist"):
        with pytest.raises(MissingExtraError, match=rf"the data set {name} needs .*vertebra\[train\]"):
            open_dataset(name)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written"):
        open_dataset("digits")


def test_unknown_split_of_a_fake_class_is_kept_by_number(cache, monkeypatch, draw):
    datasets = pytest.importorskip("torchvision").datasets

    class Plain(SimpleNamespace):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return draw(index), index

    monkeypatch.setattr(datasets, "EuroSAT", lambda root, download: Plain())
    assert open_dataset("eurosat").classes == ("0", "1")


@pytest.mark.parametrize("training", [True, False])
def test_data_that_cannot_be_reached(tmp_path, training):
    (tmp_path / "ring").symlink_to("ring")
    (tmp_path / "file").touch()
    for name, message in (
        ("ring", r"ring cannot be read \(Too many levels of symbolic links\)"),
        ("ring/x.csv", r"x.csv cannot be read \(Too many levels of symbolic links\)"),
        ("a" * 300, r"a cannot be read \(File name too long\)"),
        ("file/x", "there is no folder, table or data set"),
        ("\0", "there is no folder, table or data set"),
    ):
        with pytest.raises(UsageError, match=message):
            open_dataset(tmp_path / name, training=training)
