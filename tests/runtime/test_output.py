"""Results in files: complete, killed half-way, gone on with."""

import csv
import errno
import json
import sys

import numpy as np
import pytest

from vertebra.errors import MissingExtraError, UsageError
from vertebra.runtime.output import Output, OutputError
from vertebra.runtime.predictor import Prediction
from vertebra.runtime.sources import Photo

SUFFIXES = (".csv", ".jsonl", ".parquet")


def result(index, *, error=None, embed=False, unsure=None):
    if error is not None:
        return Prediction(f"{index}.jpg", error=error)
    predictions = [
        {"class": 'cat, "big"\nand old', "index": 1, "probability": 0.75},
        {"class": "dög", "index": 0, "probability": 0.25},
    ]
    embedding = np.arange(3, dtype=np.float32) / 2 if embed else None
    return Prediction(f"{index}.jpg", predictions, unsure=unsure, embedding=embedding)


def rows(path):
    """Each row as a dict, whatever the format."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).to_pylist()


def fill(path, indices, *, resume=False, **options):
    with Output(path, top=2, resume=resume, embed=options.get("embed", False), unsure="unsure" in options) as output:
        photos = list(output.remaining([Photo(f"{index}.jpg") for index in indices]))
        for photo in photos:
            output.write(result(photo.path.removesuffix(".jpg"), **options))
    return len(photos)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with Output(path, top=2, embed=True, unsure=True) as output:
        output.write(result(0, embed=True, unsure=False))
        output.write(result(1, error="1.jpg: no such file"))
    first, second = rows(path)
    assert first["path"] == "0.jpg" and second["path"] == "1.jpg"
    assert second["error"] == "1.jpg: no such file"
    if suffix == ".jsonl":
        assert first["predictions"][0]["class"] == 'cat, "big"\nand old' and first["embedding"] == [0, 0.5, 1]
        assert first["unsure"] is False
    else:
        assert first["class_1"] == 'cat, "big"\nand old' and first["class_2"] == "dög"
        assert float(first["probability_1"]) == 0.75
        assert first["unsure"] in ("false", False)
        vector = json.loads(first["embedding"]) if suffix == ".csv" else first["embedding"]
        assert vector == [0, 0.5, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("options", [{}, {"embed": True}, {"unsure": True}])
def test_a_finished_run_is_gone_on_with(tmp_path, suffix, options):
    path = tmp_path / f"out{suffix}"
    assert fill(path, range(3), **options) == 3
    assert fill(path, range(5), resume=True, **options) == 2
    assert fill(path, range(5), resume=True, **options) == 0
    assert [row["path"] for row in rows(path)] == [f"{index}.jpg" for index in range(5)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_run_is_gone_on_with(tmp_path, suffix):
    """Whatever byte it was killed at."""
    whole = tmp_path / f"whole{suffix}"
    fill(whole, range(4))
    path = tmp_path / f"out{suffix}"
    output = Output(path, top=2, embed=False)
    for index in range(3):
        output.write(result(index))
    output._file.close()  # as if killed: never left
    journal = path if suffix != ".parquet" else path.with_name(f"{path.name}.partial")
    written = journal.read_bytes()
    for cut in range(0, len(written) + 1, 7):
        journal.write_bytes(written[:cut])
        path.unlink() if suffix == ".parquet" and path.exists() else None
        fill(path, range(4), resume=True)
        assert rows(path) == rows(whole), cut


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_resume_it_begins_again(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    fill(path, range(5))
    fill(path, range(2))
    assert len(rows(path)) == 2


def test_a_photo_given_twice_is_written_twice(tmp_path):
    path = tmp_path / "out.csv"
    assert fill(path, [0, 0, 1]) == 3
    assert fill(path, [0, 0, 0, 1], resume=True) == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_of_someone_else_is_left_alone(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("name,age\nAda,36\n")
    with pytest.raises(UsageError, match="cannot be gone on with"):
        Output(path, top=2, embed=False, resume=True)
    assert path.read_text() == "name,age\nAda,36\n"


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "out.csv"
    fill(path, range(2))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="other columns"):
        Output(path, top=3, embed=False, resume=True)
    assert path.read_bytes() == before


def test_a_parquet_file_of_someone_else(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"
    path.write_text("not parquet")
    with pytest.raises(UsageError, match="not a file that this command has written"):
        Output(path, top=2, embed=False, resume=True)
    assert path.read_text() == "not parquet"


@pytest.mark.parametrize("name", ["out", "out.txt", "out.csv.gz"])
def test_another_suffix(tmp_path, name):
    with pytest.raises(UsageError, match=r"must end in \.csv or \.jsonl or \.parquet"):
        Output(tmp_path / name, top=1, embed=False)


def test_no_folder(tmp_path):
    with pytest.raises(OutputError, match=r"there is no folder .* to write out\.csv in"):
        Output(tmp_path / "none" / "out.csv", top=1, embed=False)


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        Output(tmp_path / "out.csv", top=1, embed=False)


class FullDisk:
    """An open file on a disk with room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        fits = data[: self.room]
        self.file.write(fits)
        self.room -= len(fits)
        if len(fits) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_full_disk_ends_in_a_whole_line(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with (
        pytest.raises(OutputError, match=r"disk is full: .* holds the results up to here.*--resume"),
        Output(path, top=2, embed=False) as output,
    ):
        output._file = FullDisk(output._file, 400)
        for index in range(10):
            output.write(result(index))
    kept = len(rows(path))
    assert 0 < kept < 10 and path.read_bytes().endswith(b"\n")
    assert fill(path, range(10), resume=True) == 10 - kept


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"vertebra\[parquet\]"):
        Output(tmp_path / "out.parquet", top=1, embed=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_no_unicode(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with Output(path, top=1, embed=False) as output:
        output.write(Prediction("caf\udce9.jpg", error="caf\udce9.jpg: no such file"))
    if suffix != ".parquet":
        with Output(path, top=1, embed=False, resume=True) as output:
            assert list(output.remaining([Photo("caf\udce9.jpg"), Photo("b.jpg")])) == [Photo("b.jpg")]
    else:
        assert rows(path)[0]["path"] == "caf\\xe9.jpg"
