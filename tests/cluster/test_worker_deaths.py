"""Photos of which processes die: the one that does it is found, and work that no photo explains is given up."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import deadly_photo
import pytest

from vertebra.cluster import worker_deaths as module
from vertebra.cluster.worker_deaths import Attempt, DeadlyWorkError, attempted
from vertebra.errors import ImageError

ATTEMPT = """
import os, sys
from vertebra.cluster.worker_deaths import attempted

kind = sys.argv[1]
with attempted("run-7", "photos/ 1 to 3") as attempt:
    attempt.decode_alone([("a.png", lambda: None), ("b\\n.png", lambda: kind == "memory" or os._exit(11))])
    if kind == "memory" or "b\\n.png" not in attempt.deadly:
        os._exit(11)
print(sorted(attempt.deadly))
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder of temporary files, this test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def attempt_elsewhere(kind, temporary):
    return subprocess.run(
        [sys.executable, "-c", ATTEMPT, kind], capture_output=True, text=True, env=os.environ | {"TMPDIR": temporary}
    )


def test_the_photo_that_kills_is_left_out_after_three_deaths(temporary):
    codes = [attempt_elsewhere("photo", temporary).returncode for _ in range(3)]
    assert codes == [11, 11, 11] and len(list(temporary.iterdir())) == 3
    done = attempt_elsewhere("photo", temporary)
    assert done.stdout == "['b\\n.png']\n", done.stderr
    assert list(temporary.iterdir()) == []


def test_what_no_photo_explains_is_given_up_after_three_deaths(temporary):
    for _ in range(module.DEATHS):
        assert attempt_elsewhere("memory", temporary).returncode == 11
    with pytest.raises(DeadlyWorkError, match=r"^photos/ 1 to 3: 3 processes have died of these photos"):
        attempted("run-7", "photos/ 1 to 3").__enter__()
    with attempted("run-7", "photos/ 1 to 3"):  # counted anew
        pass


def test_other_work_and_processes_that_live_are_not_counted(temporary, dead):
    (temporary / f"vertebra-run-7-{os.getpid()}-x").mkdir()
    for number in range(module.DEATHS):
        (temporary / f"vertebra-run-77-{dead}-{number}").mkdir()
    with attempted("run-7", "photos"):
        pass
    assert len(list(temporary.iterdir())) == 1 + module.DEATHS


def test_several_photos_that_kill(temporary, dead):
    for number in range(module.PHOTOS + 1):
        folder = temporary / f"vertebra-run-7-{dead}-{number}"
        folder.mkdir()
        (folder / "decoding").write_text(f"{number}.png")
        if number < module.PHOTOS:
            with attempted("other", "photos"):
                found = Attempt(temporary, list(temporary.glob("vertebra-run-7-*")))
            assert len(found.deadly) == number + 1
    with pytest.raises(DeadlyWorkError), attempted("run-7", "photos"):
        pass


def test_photos_are_decoded_alone_in_the_last_attempt_only(tmp_path):
    decoded = []

    def damaged():
        decoded.append(sorted(path.name for path in tmp_path.iterdir()))
        raise ImageError("it is damaged")

    Attempt(tmp_path, [tmp_path / "died"]).decode_alone([("a", damaged)])
    assert decoded == []
    Attempt(tmp_path, [tmp_path / "died", tmp_path / "too"]).decode_alone([("a", damaged), ("b", damaged)])
    assert decoded == [["decoding"], ["decoding"]]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    return done.stdout.strip()


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def deadly(tmp_path):
    """Variables of a process, and a folder of 17 photos."""
    return deadly_photo.made(tmp_path)


def python(environment, *arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.mark.slow
def test_predict_leaves_out_the_photo_alone(deadly, tiny_export, tmp_path):
    pytest.importorskip("ray")
    environment, folder = deadly
    target = tmp_path / "all.jsonl"
    arguments = ("--model", tiny_export, "--engine", "onnxruntime", "--ray", "--out", target)
    done = python(environment, "-m", "vertebra", "predict", folder, *arguments)
    assert done.returncode == 1 and "1 of 17 photos could not be classified" in done.stderr, done.stderr
    rows = [json.loads(line) for part in sorted(target.glob("*.jsonl")) for line in part.open()]
    failed = [row for row in rows if row["error"]]
    assert len(rows) == 17 and [Path(row["path"]).name for row in failed] == ["deadly.png"]
    assert "the process that decoded it has died" in failed[0]["error"]


DATASET = """
import logging, sys
import ray, ray.data, vertebra
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, _node_ip_address="127.0.0.1",
         log_to_driver=False, logging_level=logging.CRITICAL)
model, *photos = sys.argv[1:]
data = ray.data.from_items([{"path": photo} for photo in photos])
found = vertebra.predict_dataset(data, model, engine="onnxruntime", concurrency=1).take_all()
print(*(f"{row['path']}: {row['class_1']}: {row['error']}" for row in found), sep="\\n")
"""


@pytest.mark.slow
def test_a_dataset_leaves_out_the_photo_alone(deadly, tiny_export):
    pytest.importorskip("ray")
    environment, folder = deadly
    photos = sorted(folder.glob("*/*.png"))
    done = python(environment | {"RAY_USAGE_STATS_ENABLED": "0"}, "-c", DATASET, tiny_export, *photos)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(str(folder))]  # Ray tells of the deaths
    assert len(rows) == 17
    assert [row.partition(": ")[0].endswith("deadly.png") for row in rows if not row.endswith(": None")] == [True]
