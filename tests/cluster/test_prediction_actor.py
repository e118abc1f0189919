"""An actor's calls, without Ray: a part and its record, or why there is none."""

import errno
import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace

import pytest
from installed import needs

from vertebra.cache import fingerprint
from vertebra.cluster import prediction_actor as module
from vertebra.cluster.node_model import NodeModel
from vertebra.cluster.parts import PartFormat
from vertebra.cluster.prediction_actor import PredictionActor, PredictionTask
from vertebra.errors import VertebraError
from vertebra.runtime.prediction import Prediction
from vertebra.runtime.predictor import Predictor
from vertebra.sources import Record
from vertebra.storage import Location, StorageError

needs("ray")


@dataclass
class Photos:
    """A chunk of records; those that are errors are raised."""

    records: list
    name: str = "photos 1 to 3"

    def read(self, threads=8):
        for record in self.records:
            if isinstance(record, Exception):
                raise record
            yield record


@dataclass
class Parts:
    """A source whose every part is this chunk."""

    photos: Photos

    def chunk(self, part):
        return self.photos


def made(actor, chunk):
    """Return what an actor makes of a chunk, which is its part 7."""
    actor.task = replace(actor.task, parts=Parts(chunk))
    return actor({"number": 7})


@pytest.fixture
def task(tiny_export, tmp_path):
    target = Location(str(tmp_path / "x.jsonl"))
    (target / "_vertebra" / "token").write(b"seen")
    model = NodeModel(str(tiny_export), fingerprint(tiny_export), "onnxruntime", 16, 1, False, None, str(tmp_path))
    return PredictionTask(
        model, target, PartFormat(".jsonl", 2, False, False), tune=False, token=b"seen", parts=Parts(Photos([]))
    )


@pytest.fixture
def actor(task, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.chdir(task.model.folder)  # which an actor enters
    return PredictionActor(task)


@pytest.fixture
def chunk(tiny_photos):
    path = tiny_photos / "red" / "00.png"
    return Photos([Record(str(path), path.read_bytes()), Record("b", b"text"), Record("c", error="c is denied")])


def test_a_part_has_a_row_for_each_photo(actor, task, chunk):
    found = made(actor, chunk)
    assert (found["part"], found["rows"], found["errors"], found["failure"]) == ("part-000007.jsonl", 3, 2, "")
    content = (task.target / found["part"]).read_bytes()
    assert len(content) == found["bytes"]
    assert hashlib.sha256(content).hexdigest() == found["sha256"]
    assert (task.target / found["part"]).path.stat().st_mtime_ns == found["mtime_ns"]
    assert content.count(b"\n") == 3
    assert b"c is denied" in content


def test_the_same_chunk_gives_the_same_part(actor, task, chunk):
    contents = set()
    for _ in range(2):
        made(actor, chunk)
        contents.add((task.target / "part-000007.jsonl").read_bytes())
    assert len(contents) == 1


def test_a_chunk_that_cannot_be_read_is_no_part(actor, task, chunk):
    found = made(actor, Photos([*chunk.records, StorageError("the shard is cut off")]))
    assert (found["failure"], found["fatal"]) == ("the shard is cut off", False)
    assert not (task.target / "part-000007.jsonl").is_file()


def test_a_failure_that_passes_is_none(actor, chunk):
    class Once(Photos):
        def read(self, threads=8):
            failures, self.records = self.records[:1], self.records[1:] or self.records
            if isinstance(failures[0], Exception):
                raise failures[0]
            yield from (record for record in [*failures, *self.records] if isinstance(record, Record))

    assert made(actor, Once([StorageError("the connection was cut"), *chunk.records]))["failure"] == ""


def test_a_full_disk_stops_the_run(actor, chunk, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vertebra.storage.location.shutil.copyfile", full)
    found = made(actor, chunk)
    assert found["fatal"]
    assert "part-000007.jsonl cannot be written" in found["failure"]


def test_another_folder_of_the_same_name_is_told(actor, task, chunk):
    actor.task = replace(task, token=b"another")
    found = made(actor, chunk)
    assert found["fatal"]
    assert "is another folder there" in found["failure"]


def test_a_model_that_has_changed_is_refused(task):
    with pytest.raises(VertebraError, match="has changed or is gone"):
        replace(task.model, sha256="0" * 64).load()


@pytest.fixture
def died(tmp_path, monkeypatch):
    """Make what attempts at part 7 leave whose processes have died, the last at the photo of this name."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)

    def make(count, photo=None):
        for number in range(count):
            (folder / f"vertebra-seen-7-{int(dead.stdout)}-{number}").mkdir()
        if photo is not None:
            (folder / f"vertebra-seen-7-{int(dead.stdout)}-0" / "decoding").write_text(photo)

    return make


def test_a_photo_of_which_a_process_died_alone_is_left_out(actor, task, chunk, died):
    died(3, chunk.records[0].name)
    found = made(actor, chunk)
    assert (found["rows"], found["errors"], found["failure"]) == (3, 3, "")
    assert b"the process that decoded it has died" in (task.target / found["part"]).read_bytes()
    assert made(actor, chunk)["errors"] == 2  # tried again


def test_photos_of_which_processes_die_are_given_up_and_told(actor, chunk, died):
    died(3)
    found = made(actor, chunk)
    assert (found["rows"], found["fatal"]) == (0, False)
    assert found["failure"].startswith("photos 1 to 3: 3 processes have died of these photos")
    assert made(actor, chunk)["failure"] == ""


def test_what_two_processes_died_of_is_decoded_alone_first(actor, chunk, died, monkeypatch):
    died(2)
    alone = []
    monkeypatch.setattr(Predictor, "preprocess", lambda self, image, name: alone.append(name))
    monkeypatch.setattr(Predictor, "predict_many", lambda self, photos, **options: map(Prediction, alone))
    assert made(actor, chunk)["rows"] == 2
    assert alone == [record.name for record in chunk.records[:2]]
