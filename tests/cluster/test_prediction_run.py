"""`vertebra predict --ray` through the command."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from installed import needs

needs("ray")

pytestmark = pytest.mark.slow


def predict(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "vertebra", "predict", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_the_rows_are_those_of_one_process(tiny_export, tiny_photos, tmp_path):
    (tmp_path / "photos").symlink_to(tiny_photos)
    plain, parts = tmp_path / "plain.jsonl", tmp_path / "parts.jsonl"
    model = ("--model", tiny_export, "--engine", "onnxruntime")
    assert predict(tmp_path / "photos", *model, "--out", plain).returncode == 0
    done = predict(tmp_path / "photos", *model, "--out", parts, "--ray")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "so far" not in line] == []
    assert "36 photos" in done.stdout
    rows = [json.loads(line) for part in sorted(parts.glob("*.jsonl")) for line in part.open()]
    wanted = [json.loads(line) for line in plain.open()]
    assert [row["path"] for row in rows] == [row["path"] for row in wanted]
    assert [row["predictions"][0]["class"] for row in rows] == [row["predictions"][0]["class"] for row in wanted]


def test_what_is_left_out_is_told_also_where_photos_fail(tiny_export, tiny_photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(tiny_photos / "red", folder)
    (folder / "broken.png").write_bytes(b"x")
    (folder / "more.parquet").write_bytes(b"PAR1")
    model = ("--model", tiny_export, "--engine", "onnxruntime")
    done = predict(folder, *model, "--out", tmp_path / "x.csv", "--ray")
    assert done.returncode == 1
    assert "Parquet files beside its photos, which are left out" in done.stderr
    assert "1 of 13 photos could not be classified" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("seconds", [1.0, 3.0, 6.0])
def test_ctrl_c_ends_the_command_and_all_its_processes(tiny_export, tiny_photos, tmp_path, seconds):
    (tmp_path / "photos").mkdir()
    for number in range(2_000):
        (tmp_path / "photos" / f"{number:04}.png").symlink_to(tiny_photos / "red" / f"{number % 12:02}.png")
    arguments = [tmp_path / "photos", "--model", tiny_export, "--ray", "--out", tmp_path / "x.csv"]
    started = subprocess.Popen(
        [sys.executable, "-m", "vertebra", "predict", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal sends it: to all processes
    try:
        errors = started.communicate(timeout=60)[1]
        left = subprocess.run(["ps", "-s", str(started.pid), "-o", "stat="], capture_output=True, text=True).stdout
        assert [state for state in left.split() if not state.startswith("Z")] == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 130
    assert "Traceback" not in errors
    assert "stopped" in errors.splitlines()[-1]
