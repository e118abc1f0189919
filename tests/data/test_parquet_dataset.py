"""Parquet with the bytes of photos: labels and their names, splits, columns; what is ambiguous is refused."""

import pytest

pytest.importorskip("pyarrow")
import pyarrow as pa
from packed_photos import pack_parquet
from pyarrow import parquet

from vertebra.data import DataError, open_dataset
from vertebra.errors import UsageError
from vertebra.sources.photo_place import parse_place

PNG = b"\x89PNG\r\n\x1a\n"
ENTRIES = [("a.png", PNG + b"1", "cat"), ("a.png", PNG + b"2", "dog"), (None, PNG + b"3", "cat")]


def labels(dataset):
    return [photo.label for photo in dataset.photos]


def contents(dataset):
    return [photo.path.read_bytes()[len(PNG) :] for photo in dataset.photos]


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("names", [None, ["bird", "cat", "dog"]])
@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_rows_in_their_order(tmp_path, struct, names, row_group_size):
    path = pack_parquet(tmp_path / "x.parquet", ENTRIES, names, row_group_size, struct)
    found = open_dataset(path)
    assert labels(found) == ["cat", "dog", "cat"] and contents(found) == [b"1", b"2", b"3"]
    assert [photo.path.read_bytes()[-1:] for photo in reversed(found.photos)] == [b"3", b"2", b"1"]
    assert [str(photo.path) for photo in found.photos] == [f"{path}::{row}" for row in range(3)]
    assert [parse_place(str(photo.path)) for photo in found.photos] == [photo.path for photo in found.photos]


def test_splits_of_names_and_columns(tmp_path):
    for name in (
        "train-00000-of-00002-a1val.parquet",
        "train-00001-of-00002-b2.parquet",
        "test-00000-of-00001.parquet",
    ):
        pack_parquet(tmp_path / "data" / name, ENTRIES)
    found = open_dataset(tmp_path)
    assert [photo.split for photo in found.photos] == ["test"] * 3 + ["train"] * 6
    assert {photo.split for photo in open_dataset(tmp_path, ignore=["test"]).photos} == {"train"}
    table = pa.table({"image": [PNG] * 3, "label": ["cat", "dog", "dog"], "split": ["train", "train", "val"]})
    parquet.write_table(table, tmp_path / "own.parquet")
    assert [photo.split for photo in open_dataset(tmp_path / "own.parquet").photos] == ["train", "train", "val"]
    parquet.write_table(table, tmp_path / "train-own.parquet")
    with pytest.raises(DataError, match=r"row 3: the split is val, and the file's name says train"):
        open_dataset(tmp_path / "train-own.parquet")


def test_labels_that_are_missing_or_beyond_the_names(tmp_path):
    path = pack_parquet(tmp_path / "x.parquet", ENTRIES, ["cat", "dog"])
    table = parquet.read_table(path)
    for label, message in ((-1, r"row 3: the label is empty"), (2, "has the label 2, and names 2 classes")):
        column = pa.array([0, 1, label])
        parquet.write_table(table.set_column(1, "label", column), path)
        with pytest.raises(DataError, match=message):
            open_dataset(path)


def test_columns_are_chosen_as_of_other_tables(tmp_path):
    values = {
        "jpg": [PNG + b"1", PNG + b"2"],
        "thumb": [PNG + b"3", PNG + b"4"],
        "species": ["cat", "dog"],
        "n": [1, 2],
    }
    parquet.write_table(pa.table(values), tmp_path / "x.parquet")
    with pytest.raises(
        UsageError, match=r"2 columns of photos: 'jpg', 'thumb'.*--path-column jpg or --path-column thumb"
    ):
        open_dataset(tmp_path / "x.parquet")
    found = open_dataset(tmp_path / "x.parquet", path_column="thumb", label_column="species")
    assert contents(found) == [b"3", b"4"]
    assert "Not read: the columns 'jpg' and 'n'." in found.notes
    # As the table of a run lists them.
    assert [parse_place(str(photo.path)).read_bytes()[-1:] for photo in found.photos] == [b"3", b"4"]
    with pytest.raises(UsageError, match="no column 'kind'"):
        open_dataset(tmp_path / "x.parquet", path_column="jpg", label_column="kind")


def test_files_that_differ_are_refused(tmp_path):
    pack_parquet(tmp_path / "0.parquet", ENTRIES)
    parquet.write_table(pa.table({"path": ["a.png"], "label": ["cat"]}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet has no column of photos' bytes .* --ignore 1\.parquet"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, ignore=["1.parquet"]).photos) == 3


def test_a_table_of_paths_stays_one(tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(PNG)
    parquet.write_table(pa.table({"path": [b"1.png", b"2.png"], "label": [b"cat", b"dog"]}), tmp_path / "x.parquet")
    assert [photo.path for photo in open_dataset(tmp_path / "x.parquet").photos] == [
        tmp_path / "1.png",
        tmp_path / "2.png",
    ]


def test_a_row_without_bytes_is_broken(tmp_path):
    from vertebra.data import read_image_info

    path = pack_parquet(tmp_path / "x.parquet", [*ENTRIES, ("x", None, "dog")])
    assert read_image_info(open_dataset(path))[3].broken == "empty"
