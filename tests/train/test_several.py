"""Several processes, for real: they see what one sees, learn what one learns, and write one set of files."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from vertebra.train import resume
from vertebra.train._folder import CHECKPOINT
from vertebra.train._loader import batches_of_epoch
from vertebra.train._log import read_log
from vertebra.train._settings import Settings

THREADS = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SCRIPT = Path(__file__).with_name("several.py")


def together(*what, processes=2):
    """Start it as `torchrun --nproc-per-node 2 …` does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *what]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **THREADS})


@pytest.fixture(scope="module")
def alone(shapes_without_broken, tmp_path_factory):
    """What one process finds."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    subprocess.run([sys.executable, SCRIPT, shapes_without_broken, folder], check=True, env={**os.environ, **THREADS})
    return folder


@pytest.mark.parametrize("processes", [2, 3])
def test_as_many_processes_as_you_like_learn_the_same(processes, alone, shapes_without_broken, tmp_path):
    process = together(str(SCRIPT), str(shapes_without_broken), str(tmp_path / "run"), processes=processes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for rank in range(processes):
        told = [(tmp_path / "run" / f"{name}-{rank}.txt").read_text() for name in ("gone", "away")]
        assert re.search(r"gone\.png: no such file.*--resume", told[0])
        assert re.search(r"away\.png: no such file.*is kept.*--resume", told[1])
    one, several = (np.load(folder / "found.npz") for folder in (alone, tmp_path / "run"))
    assert one["step"] == several["step"]
    assert one["score"] == pytest.approx(several["score"])
    np.testing.assert_allclose(several["logits"], one["logits"], atol=1e-4)
    for mine, theirs in zip(read_log(alone), read_log(tmp_path / "run"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["accuracy"] == pytest.approx(theirs["accuracy"])


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_each_photo_is_seen_once_an_epoch(size):
    labels = np.arange(53) % 4
    settings = Settings("", batch_size=8)
    seen = []
    for batch in batches_of_epoch(labels, settings, 3):
        assert len(batch) in (7, 8)
        parts = [batch[rank::size].tolist() for rank in range(size)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        seen += [photo for part in parts for photo in part]
    assert sorted(seen) == list(range(53))
    assert batches_of_epoch(labels, settings, 3)[0].tolist() == batches_of_epoch(labels, settings, 3)[0].tolist()
    assert batches_of_epoch(labels, settings, 3)[0].tolist() != batches_of_epoch(labels, settings, 4)[0].tolist()


def test_the_command_and_a_killed_process(shapes, small_weights, tmp_path):
    """One set of files; a process that is killed ends the run, and another number of processes goes on with it."""
    folder = tmp_path / "run"
    flags = ["train", str(shapes), "--out", str(folder), "--model=resnet18", f"--weights={small_weights}"]
    flags += ["--method=finetune", "--set=image_size=32", "--batch-size=8", "--set=workers=0", "--epochs=500"]
    process = together("-m", "vertebra", *flags, "--set=checkpoint_seconds=0")
    checkpoint = folder / CHECKPOINT
    first = None
    while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == first):
        first = first or (checkpoint.stat().st_mtime_ns if checkpoint.exists() else None)
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode != 0, errors
    assert "held-out photos" not in output
    assert checkpoint.exists()
    found = resume(folder, epochs=1)
    assert {path.name for path in folder.iterdir()} - {"tensorboard"} == {
        "data.csv", "metrics.json", "metrics.jsonl", "model.onnx", "report.html", "settings.toml",
        "weights.safetensors",
    }  # fmt: skip
    assert found.metrics["n"] > 0
