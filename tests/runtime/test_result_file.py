"""Results in files: complete, killed half-way, gone on with."""

import contextlib
import csv
import errno
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vertebra.errors import InUseError, MissingExtraError, UsageError
from vertebra.runtime import result_file as output_module
from vertebra.runtime.photo import Photo
from vertebra.runtime.predictor import Prediction
from vertebra.runtime.result_file import ResultError, ResultFile
from vertebra.runtime.resumed_rows import replacement_line

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


def opened(path, **options):
    return ResultFile(path, **{"model": "tiny.onnx", "sha256": "ab" * 32, "embed": False} | options)


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
    with opened(path, top=2, resume=resume, embed=options.get("embed", False), unsure="unsure" in options) as output:
        photos = list(output.remaining([Photo(f"{index}.jpg") for index in indices]))
        for photo in photos:
            output.write(result(photo.path.removesuffix(".jpg"), **options))
    return len(photos)


def leave(output):
    """As a killed process does: nothing is finished."""
    output._lines.close()
    output._lock.close()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with opened(path, top=2, embed=True, unsure=True) as output:
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
    beside = [] if suffix == ".parquet" else [f"{path.name}.meta.json"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, *beside]


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
    output = opened(path, top=2)
    for index in range(3):
        output.write(result(index))
    leave(output)
    journal = path if suffix != ".parquet" else path.with_name(f"{path.name}.partial")
    written = journal.read_bytes()
    beside = path.with_name(f"{path.name}.meta.json")
    record = beside.read_bytes()
    for cut in range(0, len(written) + 1, 17):
        journal.write_bytes(written[:cut])
        beside.write_bytes(record)
        path.unlink() if suffix == ".parquet" and path.exists() else None
        fill(path, range(4), resume=True)
        assert rows(path) == rows(whole), cut


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_resume_it_begins_again(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    fill(path, range(5))
    assert len(rows(path)) == 5
    with opened(path, top=1, embed=True) as output:  # of other columns
        assert output.replaced == 5
    with opened(path, top=2) as output:
        assert output.replaced == 0
    fill(path, range(2))
    assert len(rows(path)) == 2
    with opened(path, top=2, resume=True) as output:
        assert output.replaced == 0


def test_a_photo_given_twice_is_written_twice(tmp_path):
    path = tmp_path / "out.csv"
    assert fill(path, [0, 0, 1]) == 3
    assert fill(path, [0, 0, 0, 1], resume=True) == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_of_someone_else_is_left_alone(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("name,age\nAda,36\n")
    with pytest.raises(UsageError, match="not a file that this command has written"):
        opened(path, top=2, resume=True)
    assert path.read_text() == "name,age\nAda,36\n"


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "out.csv"
    fill(path, range(2))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"made with --top 2, and this run is with --top 3, so it cannot be resumed"):
        opened(path, top=3, resume=True)
    assert path.read_bytes() == before


def test_a_parquet_file_of_someone_else(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"
    path.write_text("not parquet")
    with pytest.raises(UsageError, match="not a file that this command has written"):
        opened(path, top=2, resume=True)
    assert path.read_text() == "not parquet"


@pytest.mark.parametrize("name", ["out", "out.txt", "out.csv.gz"])
def test_another_suffix(tmp_path, name):
    with pytest.raises(UsageError, match=r"must end in \.csv or \.jsonl or \.parquet"):
        opened(tmp_path / name, top=1)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_link_to_itself(tmp_path, suffix):
    (tmp_path / f"out{suffix}").symlink_to(f"out{suffix}")
    with pytest.raises(ResultError, match="cannot be written"):
        fill(tmp_path / f"out{suffix}", range(1))


def test_missing_folders_are_made(tmp_path):
    assert fill(tmp_path / "my files" / "of today" / "out.csv", range(2)) == 2
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResultError, match=r"file/out\.csv cannot be written .*Give another place with --out\.$"):
        opened(tmp_path / "file" / "out.csv", top=1)


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ResultError, match="cannot be written"):
        opened(tmp_path / "out.csv", top=1)


class FullDisk:
    """An open file on a disk with room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        # As the system does: what fits is taken, and only the number says so.
        fits = data[: self.room]
        self.file.write(fits)
        self.room -= len(fits)
        return len(fits)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_full_disk_ends_in_a_whole_line(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with (
        pytest.raises(ResultError, match=r"disk is full: .* holds the results up to here.*--resume"),
        opened(path, top=2) as output,
    ):
        output._lines.file = FullDisk(output._lines.file, 400)
        for index in range(10):
            output.write(result(index))
    kept = len(rows(path))
    assert 0 < kept < 10 and path.read_bytes().endswith(b"\n")
    assert fill(path, range(10), resume=True) == 10 - kept


@contextlib.contextmanager
def largest_file(size):
    """What the system gives on a real disk that fills: a part of a write, then an error."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("size", [500, 1000, 1500])
def test_the_system_writes_no_more(tmp_path, suffix, size):
    """For each row that it may stop in, and for a Parquet file when that is made in the end."""
    path = tmp_path / f"out{suffix}"
    for name in (path, tmp_path / f"whole{suffix}"):
        fill(name, range(4))
    with (
        pytest.raises(ResultError, match=r"cannot be written \(file too large\).* holds the .* again with --resume\.$"),
        largest_file(size),
    ):
        fill(path, range(40), resume=suffix != ".parquet")
    journal = path if suffix != ".parquet" else path.with_name(f"{path.name}.partial")
    assert journal.read_bytes().endswith(b"\n")
    if suffix == ".parquet":
        assert rows(path) == rows(tmp_path / f"whole{suffix}")  # that of the run before
    fill(path, range(40), resume=True)
    fill(tmp_path / f"whole{suffix}", range(40))
    assert rows(path) == rows(tmp_path / f"whole{suffix}")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_system_writes_not_even_the_first_line(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with (
        pytest.raises(ResultError, match=r"file too large\)\. Allow larger files and run the same command again\.$"),
        largest_file(700),
        opened(path, top=500) as output,
    ):
        output.write(Prediction("a.jpg", [{"class": "c" * 700, "index": 0, "probability": 0.5}] * 500))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_the_system_says_in_the_end_only(tmp_path, suffix, number, monkeypatch):
    """Network file systems tell of a full disk when a file is synced."""
    path = tmp_path / f"out{suffix}"
    message = "disk is full" if number != errno.EIO else r"cannot be written \(input/output error\)"
    with (
        pytest.raises(ResultError, match=rf"{message}: .* holds the results up to here.*--resume"),
        opened(path, top=2) as output,
    ):
        output.write(result(0))
        monkeypatch.setattr(os, "fsync", failing(number))
    monkeypatch.undo()
    assert fill(path, range(2), resume=True) == 1
    assert [row["path"] for row in rows(path)] == ["0.jpg", "1.jpg"]


def failing(number):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return fail


def test_no_room_to_make_the_parquet_file(tmp_path, monkeypatch):
    path = tmp_path / "out.parquet"
    with (
        pytest.raises(ResultError, match=r"disk is full: .*out\.parquet\.partial holds the results up to here\. Make"),
        opened(path, top=2) as output,
    ):
        output.write(result(0))
        monkeypatch.setattr("vertebra.runtime.result_file.write_parquet", failing(errno.ENOSPC))
    monkeypatch.undo()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.parquet.meta.json", "out.parquet.partial"]
    assert fill(path, range(1), resume=True) == 0
    assert len(rows(path)) == 1


def test_no_room_to_go_on_with_a_parquet_file(tmp_path, monkeypatch):
    path = tmp_path / "out.parquet"
    fill(path, range(2))
    monkeypatch.setattr("vertebra.runtime.result_file.atomic_write", failing(errno.ENOSPC))
    with pytest.raises(ResultError, match=r"the disk is full for .*\. Make room and run the same command again\.$"):
        opened(path, top=2, resume=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_room_to_put_rows_in_their_place(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"out{suffix}"
    run_over(path, "abc", {"b"}, resume=False)
    with (
        pytest.raises(ResultError, match=r"disk is full: .* holds the results up to here"),
        opened(path, top=1, resume=True) as output,
    ):
        (photo,) = output.remaining(map(Photo, "abc"))
        output.write(good(photo.path))
        monkeypatch.setattr("vertebra.runtime.resumed_rows.atomic_write", failing(errno.ENOSPC))
    monkeypatch.undo()
    assert run_over(path, "abc", set())[0] == []
    assert told(path) == [(name, False) for name in "abc"]


def test_what_ended_a_run_is_what_is_told(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "out.csv", top=1) as output:
        output.write(good("a"))
        monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
        raise KeyboardInterrupt
    monkeypatch.undo()
    assert run_over(tmp_path / "out.csv", "a", set())[0] == []


# --- one process at a time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_is_being_written(tmp_path, suffix, resume, monkeypatch):
    path = tmp_path / f"out{suffix}"
    (tmp_path / f"link{suffix}").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with opened(path, top=1) as output:
        output.write(good("a"))
        before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir() if entry.is_file()}
        for other in (path, Path(f"out{suffix}"), tmp_path / f"link{suffix}"):
            with pytest.raises(
                InUseError, match=r"is being written by another process\. .*give another file with --out"
            ):
                opened(other, top=1, resume=resume)
        assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir() if entry.is_file()} == before
        output.write(good("b"))
    assert told(path) == [("a", False), ("b", False)]
    assert not list(tmp_path.glob(".*"))
    assert run_over(path, "ab", set())[0] == []


def test_what_cannot_be_opened_is_not_held(tmp_path):
    path = tmp_path / "out.csv"
    run_over(path, "a", set())
    with pytest.raises(UsageError):
        opened(path, top=2, resume=True)
    assert run_over(path, "ab", set())[0] == ["b"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_process_holds_nothing(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    ready, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            output = opened(path, top=1).__enter__()
            output.write(good("a"))
            os.write(writing, b".")
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"."
    with pytest.raises(InUseError):
        opened(path, top=1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert run_over(path, "ab", set())[0] == ["b"]
    assert told(path) == [("a", False), ("b", False)]


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"vertebra\[parquet\]"):
        opened(tmp_path / "out.parquet", top=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_no_unicode(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with opened(path, top=1) as output:
        output.write(Prediction("caf\udce9.jpg", [{"class": "cat", "index": 0, "probability": 0.5}]))
    assert rows(path)[0]["path"] == "caf\\xe9.jpg"
    with opened(path, top=1, resume=True) as output:
        assert list(output.remaining([Photo("caf\udce9.jpg"), Photo("b.jpg")])) == [Photo("b.jpg")]


# --- what is tried again ---------------------------------------------------------------------------------------------

# Names that a table must quote, and one that is no Unicode.
NAMES = ["a.jpg", 'b, "c"\nd.jpg', "caf\udce9.jpg", "e.jpg", "f'.jpg"]


def good(name):
    return Prediction(name, [{"class": "cat", "index": 0, "probability": 0.5}])


def run_over(path, names, broken, *, resume=True, killed_after=None, **options):
    """Predict all that remains, those in `broken` with an error; the names that were predicted."""
    predicted = []
    output = opened(path, top=1, resume=resume, **options)
    with output:
        for photo in list(output.remaining([Photo(name) for name in names])):
            if len(predicted) == killed_after:
                # As if killed: nothing is put in order, and what was written last is half a line.
                torn = output._lines if output._again is None else output._again
                torn.file.write(b'{"path": "half a' if path.suffix != ".csv" else b'"half a')
                output._finish_parquet = output._apply_replacements = lambda: None
                break
            predicted.append(photo.path)
            name = photo.path
            output.write(Prediction(name, error=f"{name}: no such file") if name in broken else good(name))
    return predicted, output


def told(path):
    """Each path, and whether it failed."""
    return [(row["path"], bool(row["error"])) for row in rows(path)]


def written(name):
    return name.replace("\udce9", "\\xe9")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failed_rows_are_tried_again_and_replaced_in_their_place(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    broken = {NAMES[1], NAMES[2], NAMES[4]}
    _, output = run_over(path, NAMES, broken, resume=False)
    assert (output.total, output.failed, output.done) == (5, 3, 0)
    predicted, output = run_over(path, [*NAMES, "g.jpg"], {NAMES[2]})
    assert predicted == [NAMES[1], NAMES[2], NAMES[4], "g.jpg"]
    assert (output.total, output.failed, output.done, output.again) == (6, 1, 5, 3)
    assert told(path) == [(written(name), name == NAMES[2]) for name in [*NAMES, "g.jpg"]]
    predicted, output = run_over(path, [*NAMES, "g.jpg"], set())
    assert predicted == [NAMES[2]] and output.failed == 0
    assert told(path) == [(written(name), False) for name in [*NAMES, "g.jpg"]]
    assert not list(tmp_path.glob("*.again"))
    assert run_over(path, [*NAMES, "g.jpg"], set())[0] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_killed_while_trying_again(tmp_path, suffix, killed_after):
    path = tmp_path / f"out{suffix}"
    names = list("abcde")
    run_over(path, names, {"b", "d", "e"}, resume=False)
    first, _ = run_over(path, [*names, "f"], {"d"}, killed_after=killed_after)
    assert first == ["b", "d", "e"][:killed_after]
    second, output = run_over(path, [*names, "f"], set())
    assert second == [name for name in "bdef" if name not in first or name == "d"]
    assert told(path) == [(name, False) for name in "abcdef"] and (output.total, output.failed) == (6, 0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_photo_given_twice_that_failed_once(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with opened(path, top=1) as output:
        for result in (good("a"), Prediction("a", error="gone"), Prediction("b", error="gone")):
            output.write(result)
    predicted, output = run_over(path, ["a", "a", "b", "b"], set())
    assert predicted == ["a", "b", "b"]
    assert told(path) == [(name, False) for name in "aabb"]
    assert (output.total, output.failed, output.again, output.absent) == (4, 0, 2, 0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_photos_that_are_not_given_now_stay(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    run_over(path, "abc", {"b"}, resume=False)
    predicted, output = run_over(path, "ad", set())
    assert predicted == ["d"] and output.absent == 2 and output.failed == 1
    assert told(path) == [("a", False), ("b", True), ("c", False), ("d", False)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_photo_that_changed_since_its_row_is_predicted_again(tmp_path, suffix):
    names = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    for name in names[:2]:
        Path(name).write_bytes(b"first")
    path = tmp_path / f"out{suffix}"
    run_over(path, names, {names[2]}, resume=False)
    assert run_over(path, names[:2], set())[0] == []
    time.sleep(0.02)  # clocks of file systems are coarse
    Path(names[1]).write_bytes(b"second")
    Path(names[2]).write_bytes(b"there now")
    os.utime(names[1], (1, 1))  # a copy that keeps the time of the original
    predicted, output = run_over(path, names, set())
    assert predicted == names[1:] and output.again == 2
    assert told(path) == [(name, False) for name in names]
    # Their new rows are newer than they are.
    assert run_over(path, names, set())[0] == []


@pytest.mark.parametrize(
    "links",
    [
        {"x.png": "v{}/x.png"},
        {"x.png": "current.png", "current.png": "v{}/x.png"},
        {"p": "v{}"},
        {"p": "data/now", "data": "sets", "sets/now": "../v{}"},
        {"p": "sets/here/../../v{}", "sets/here": "deep"},
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_photo_behind_a_link_that_leads_elsewhere_now_is_predicted_again(tmp_path, monkeypatch, links, absolute):
    monkeypatch.chdir(tmp_path)
    for folder in ("v1", "v2", "sets/deep"):
        Path(folder).mkdir(parents=True)
        Path(folder, "x.png").write_bytes(folder.encode())
    for name, target in links.items():
        Path(name).symlink_to(target.format(1))
    photo = next(iter(links)) + ("/x.png" if "p" in links else "")
    names = [str(tmp_path / photo) if absolute else photo, "v1/x.png"]
    time.sleep(0.02)  # clocks of file systems are coarse
    assert run_over(Path("out.csv"), names, set(), resume=False)[0] == names
    assert run_over(Path("out.csv"), names, set())[0] == []
    time.sleep(0.02)
    (name,) = [name for name, target in links.items() if "{}" in target]
    Path(name).unlink()
    Path(name).symlink_to(links[name].format(2))
    assert run_over(Path("out.csv"), names, set())[0] == names[:1]
    assert run_over(Path("out.csv"), names, set())[0] == []


def test_a_photo_that_came_between_two_runs(tmp_path):
    """It is older than its row, and newer than the first run."""
    names = [str(tmp_path / name) for name in ("a.png", "b.png")]
    path = tmp_path / "out.csv"
    for count in (1, 2):
        Path(names[count - 1]).write_bytes(b"x")
        time.sleep(0.02)  # clocks of file systems are coarse
        assert run_over(path, names[:count], set())[0] == [names[count - 1]]
    assert run_over(path, names, set())[0] == []


# --- what the rows were made with -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sha256": "cd" * 32, "model": "other.onnx"}, r"by the model tiny\.onnx .*abab…\), and this run's is other"),
        ({"top": 2}, "with --top 1, and this run is with --top 2"),
        ({"embed": True}, "without --embed, and this run is with --embed"),
        ({"options": {"--fast-jpeg": True}}, "without --fast-jpeg, and this run is with --fast-jpeg"),
    ],
)
def test_rows_of_another_kind_are_not_added(tmp_path, suffix, partial, options, message):
    path = tmp_path / f"out{suffix}"
    run_over(path, "abc", {"b"}, resume=False, killed_after=2 if partial else None)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=message):
        opened(path, **{"top": 1, "resume": True} | options)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    # A model by another name is the same one.
    assert run_over(path, "abc", set(), model="moved.onnx")[0] == ["b", "c"][: 1 + partial]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_does_not_say_what_made_it(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    run_over(path, "abc", set(), resume=False)
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(parquet.read_table(path).replace_schema_metadata(None), path)
    else:
        path.with_name(f"{path.name}.meta.json").unlink()
    with pytest.raises(UsageError, match=r"cannot be resumed: .* by which model"):
        opened(path, top=1, resume=True)
    assert len(rows(path)) == 3
    run_over(path, "d", set(), resume=False)
    assert told(path) == [("d", False)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_a_row_begins_with_any_settings(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    for options in ({}, {"sha256": "cd" * 32}):
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.partial").unlink(missing_ok=True)
        assert run_over(path, "a", set(), **options)[0] == ["a"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_relative_paths_belong_to_their_folder(tmp_path, suffix, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    path = tmp_path / f"out{suffix}"
    run_over(path, ["a.jpg"], set(), resume=False)
    monkeypatch.chdir(tmp_path / "two")
    before = sorted(entry.name for entry in tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"relative to the folder '.*one', and this run is in '.*two'"):
        opened(path, top=1, resume=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before
    run_over(path, ["/x/a.jpg", "https://example.org/a.jpg"], set(), resume=False)
    monkeypatch.chdir(tmp_path / "one")
    assert run_over(path, ["/x/a.jpg", "b.jpg"], set())[0] == ["b.jpg"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_file_is_not_replaced(tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    path.write_text("path,label\n1.jpg,cat\n")
    with pytest.raises(UsageError, match="not a file that this command has written"):
        opened(path, top=1)
    assert path.read_text() == "path,label\n1.jpg,cat\n" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".jsonl", '{"path": "1.jpg", "label": "cat"}\n{"path": "2.jpg", "label": "dog"}\n'),
        (".jsonl", '{"path": "1.jpg", "label": "cat"}'),
        (".jsonl", '{"path": "1.jpg", "predictions": ["cat"], "label": "cat"}\n'),
        (".jsonl", '{"path": "1.jpg", "predictions": [], "error": null, "label": "cat"}\n'),
        (".jsonl", '{"path": "1.jpg",\n"label": "cat"}\n'),
        (".csv", "path,class_1,probability_1,label\n1.jpg,cat,0.5,dog\n"),
        (".csv", "path,class_1,probability_1,error,label\n1.jpg,cat,0.5,,dog\n"),
        (".csv", "path\n1.jpg\n"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_begins_like_results_is_not_replaced(tmp_path, suffix, text, resume):
    path = tmp_path / f"labels{suffix}"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"not a file that this command has written\. Give another file\.$"):
        opened(path, top=1, resume=resume)
    assert path.read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_a_parquet_file_with_a_column_more_is_not_replaced(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    fill(path, range(2))
    table = parquet.read_table(path)
    parquet.write_table(table.append_column("label", [["cat", "dog"]]), path)
    with pytest.raises(UsageError, match="not a file that this command has written"):
        opened(path, top=2)
    assert parquet.read_table(path).num_columns == table.num_columns + 1


@pytest.mark.parametrize(
    ("suffix", "ending"),
    [(suffix, ending) for suffix in SUFFIXES for ending in ("meta.json", "again")] + [(".parquet", "partial")],
)
@pytest.mark.parametrize("text", ['{"path": "1.jpg", "label": "cat"}\n', "[1, 2]", "my notes"])
@pytest.mark.parametrize("resume", [False, True])
def test_files_of_something_else_beside_the_results_are_left_alone(tmp_path, suffix, ending, text, resume):
    path = tmp_path / f"out{suffix}"
    fill(path, range(2))
    other = tmp_path / f"out{suffix}.{ending}"
    other.write_text(text)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=rf"{ending} is not a file that .* written, and .* Move it, or give another"):
        opened(path, top=2, resume=resume)
    assert other.read_text() == text and path.read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_results_cut_off_anywhere_are_replaced(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    for options in ({}, {"embed": True, "unsure": True}):
        fill(tmp_path / "whole.jsonl" if suffix == ".parquet" else path, range(2), **options)
        journal = tmp_path / f"{path.name}.partial" if suffix == ".parquet" else path
        content = (tmp_path / "whole.jsonl" if suffix == ".parquet" else path).read_bytes()
        for cut in range(len(content)):
            journal.write_bytes(content[:cut])
            leave(output := opened(path, top=1))
            assert journal.read_bytes() == output._format.head


def test_replacements_cut_off_anywhere_are_resumed(tmp_path):
    path = tmp_path / "out.csv"
    run_over(path, "ab", {"a"}, resume=False)
    line = replacement_line(0, time.time(), b"a,cat,1,\n")
    for cut in range(len(line)):
        path.with_name("out.csv.again").write_bytes(line[:cut])
        leave(opened(path, top=1, resume=True))
        assert told(path) == [("a", True), ("b", False)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_is_refused(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    os.mkfifo(path)
    with pytest.raises(UsageError, match="is a pipe, which cannot be resumed"):
        opened(path, top=2)


@pytest.mark.skipif(sys.platform == "win32", reason="where one is cannot be removed there")
def test_where_one_is_may_be_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    path = tmp_path / "out.csv"
    assert fill(path, range(2)) == 2
    assert [row["path"] for row in rows(path)] == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("suffix", "places"), [(".csv", "no out.csv.meta"), (".parquet", "its metadata or out.parquet.meta")]
)
def test_rows_without_a_record_say_where_it_was_looked_for(tmp_path, suffix, places):
    path = tmp_path / f"out{suffix}"
    with opened(path, top=2) as output:
        output.write(result(0))
        with pytest.raises(UsageError, match=re.escape(places)):
            output._require_same_run(None)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_first_photo_that_failed_is_right_the_second_time(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    fill(path, [0], error="it cannot be read")
    with opened(path, top=2, resume=True) as output:
        assert output.failed == 1
        assert [photo.path for photo in output.remaining([Photo("0.jpg")])] == ["0.jpg"]
        output.write(result(0))
        assert (output.total, output.failed, output.again) == (1, 0, 1)
    assert [bool(row["error"]) for row in rows(path)] == [False]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_photo_that_changed_between_two_runs_is_predicted_again(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path, photo = tmp_path / f"out{suffix}", tmp_path / "0.jpg"
    photo.write_bytes(b"one")
    assert fill(path, [0]) == 1
    photo.write_bytes(b"another")
    with opened(path, top=2, resume=True) as output:
        assert [entry.path for entry in output.remaining([Photo("0.jpg")])] == ["0.jpg"]
        output.write(result(0))
        assert (output.total, output.failed, output.again) == (1, 0, 1)
    assert fill(path, [0], resume=True) == 0


def test_a_finished_table_is_durable(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    seen, path = [], tmp_path / "out.parquet"
    replacing = output_module.atomic_write

    def noted(name, **how):
        seen.append((name, how))
        return replacing(name, **how)

    monkeypatch.setattr(output_module, "atomic_write", noted)
    fill(path, range(2))
    assert seen == [(path, {"durable": True})]


def test_a_reason_without_a_number(tmp_path, monkeypatch):
    path = tmp_path / "out.csv"
    with opened(path, top=2) as output:
        assert (
            output._error_message(OSError("it broke"))
            == f"{path} cannot be written (it broke). Give another place with --out."
        )
