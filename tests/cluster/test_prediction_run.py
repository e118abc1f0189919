"""`vertebra predict --ray` through the command."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("ray")

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
