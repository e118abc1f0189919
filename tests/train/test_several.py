"""Several processes, for real: they see what one sees, learn what one learns, and write one set of files."""

import csv
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import ONE_THREAD, Forked

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from safetensors.numpy import load_file

from vertebra.files import locked
from vertebra.train import Classifier, TrainError, resume, train
from vertebra.train.batch_loader import batches_of_epoch
from vertebra.train.run_checkpoint import read_state
from vertebra.train.run_folder import CHECKPOINT
from vertebra.train.train_settings import Settings
from vertebra.train.training_log import read_log

SCRIPT = Path(__file__).with_name("several.py")


def together(*what, processes=2):
    """Start it as `torchrun --nproc-per-node 2 …` does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *map(str, what)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **ONE_THREAD})


class Several:
    """The same without torchrun, where that is not what is tested: no interpreter has to start."""

    def __init__(self, *what, processes=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        self.processes = [
            Forked(*what, RANK=rank, LOCAL_RANK=rank, **size, **meeting) for rank in map(str, range(processes))
        ]

    @property
    def returncode(self):
        """None while one of them runs, then whether one of them failed."""
        codes = [process.poll() for process in self.processes]
        return None if None in codes else int(any(codes))

    poll = returncode.fget

    def communicate(self, timeout):
        return tuple(map("".join, zip(*(process.communicate(timeout) for process in self.processes), strict=True)))


@pytest.fixture(scope="module")
def alone(shapes_without_broken, tmp_path_factory):
    """What one process finds."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    runpy.run_path(str(SCRIPT))["main"](shapes_without_broken, folder)
    return folder


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_as_many_processes_as_you_like_learn_the_same(processes, alone, shapes_without_broken, tmp_path):
    process = Several(SCRIPT, shapes_without_broken, tmp_path / "run", processes=processes)
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


def told(errors):
    """The lines that are Vertebra's own, but for its progress; torchrun adds a report of its own."""
    lines = [line for line in errors.splitlines() if line.startswith("vertebra: ")]
    return [line for line in lines if not re.search(r"(so far|left)$", line)]


@pytest.fixture
def begun(shapes_without_broken, tmp_path):
    """A run of one process that was stopped before its first step, and its photos."""
    photos = shutil.copytree(shapes_without_broken, tmp_path / "photos")

    def stop(what, done, total):
        if what.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(TrainError, match="stopped"):
        train(
            photos, tmp_path / "run", progress=stop, model="mobilenet_v2", method="scratch", image_size=32,
            batch_size=8, epochs=30, workers=0,
        )  # fmt: skip
    return tmp_path / "run"


def test_a_photo_lost_in_one_process_ends_all_and_is_said_once(begun, tiny_command, shapes_without_broken):
    rows = list(csv.DictReader((begun / "data.csv").open()))
    lost = next(Path(row["path"]) for row in rows if row["split"] == "train")
    lost.unlink()
    process = Several(tiny_command, "train", "--resume", begun)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = told(errors)
    assert line.startswith(f"vertebra: {lost}: no such file. What was trained until step ")
    assert line.endswith(f"Resume with: vertebra train --resume {begun}")
    # What they kept is sound: one process goes on with it.
    shutil.copy(shapes_without_broken / lost.parent.name / lost.name, lost)
    assert resume(begun, epochs=1).metrics["n"] > 0


@pytest.mark.slow
def test_a_run_that_another_process_holds_ends_all_and_is_said_once(begun, tiny_command):
    with locked(begun, "stop"):
        process = together(tiny_command, "train", "--resume", begun)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert told(errors) == [
        f"vertebra: {begun} is being written by another process. Wait until that has ended, or stop it first."
    ]


FILES = {
    "data.csv", "metrics.json", "metrics.jsonl", "model.onnx", "report.html", "settings.toml", "weights.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def command(tiny_command):
    """`vertebra train` on a folder: `command(folder, …, processes=2)`, by torchrun unless they are to be forked."""

    def start(folder, *flags, processes, resumed=False, by=together):
        return by(tiny_command, "train", "--resume" if resumed else "--out", folder, *flags, processes=processes)

    return start


def after_a_checkpoint(process, folder, count=2):
    """Wait until the run has written so many of its own; the ids of its processes."""
    checkpoint, seen = folder / CHECKPOINT, set()
    while process.poll() is None and len(seen) <= count:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.02)
    assert process.poll() is None, process.communicate(60)
    if isinstance(process, Several):
        return [one.pid for one in process.processes]
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def ended(process, *, well):
    output, errors = process.communicate(timeout=240)
    assert (process.returncode == 0) == well, errors
    assert ("held-out photos" in output) == well
    return output, errors


def picture_weights(folder):
    assert {path.name for path in folder.iterdir()} - {"tensorboard", "torchrun.json"} == FILES
    return load_file(folder / "weights.safetensors")


def flags_of(shapes, small_weights, **options):
    values = {"image_size": 32, "batch_size": 8, "workers": 0, "checkpoint_seconds": 0} | options
    return [
        str(shapes), "--model=resnet18", f"--weights={small_weights}", "--method=finetune",
        *(f"--set={name}={value}" for name, value in values.items()),
    ]  # fmt: skip


@pytest.mark.slow  # test_restarts kills quickly, and resumes with as many
@pytest.mark.parametrize("resumed", [1, 3])
def test_killed_and_resumed_by_another_number_of_processes(resumed, command, shapes, small_weights, tmp_path):
    """Of the head alone, whose features no batch's statistics change: one process learns what two and others do.

    But for float32 sums in another order: to 1e-5 of the weights, which are about 0.1.
    """
    options = {"freeze": 5, "epochs": 8, "lr": 0.02}
    folder = tmp_path / "run"
    by = Several if resumed == 1 else together  # torchrun ends the other process; without, it finds its neighbour gone
    process = command(folder, *flags_of(shapes, small_weights, **options), processes=2, by=by)
    children = after_a_checkpoint(process, folder)
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    ended(process, well=False)
    assert 0 < read_state(folder).step < 8 * 4
    if resumed == 1:
        found = resume(folder)
    else:
        ended(command(folder, processes=resumed, resumed=True), well=True)
        found = Classifier(folder)
    whole = train(
        shapes, tmp_path / "whole", model="resnet18", method="finetune", weights=str(small_weights), image_size=32,
        batch_size=8, workers=0, checkpoint_seconds=0, **options,
    )  # fmt: skip
    several, alone = picture_weights(folder), picture_weights(tmp_path / "whole")
    for name, tensor in alone.items():
        np.testing.assert_allclose(several[name], tensor, rtol=0, atol=1e-5)
    assert np.abs(alone["fc.weight"]).mean() > 0.01
    assert found.metrics["top1"] == whole.metrics["top1"]
    assert found.metrics["best_step"] == whole.metrics["best_step"]
    logs = ([record for record in read_log(run) if "val_loss" in record] for run in (folder, tmp_path / "whole"))
    for mine, theirs in zip(*logs, strict=True):
        assert mine["step"] == theirs["step"]
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_all_at_once_and_resumed_by_as_many(number, command, shapes, small_weights, tmp_path):
    """Of the whole network: two processes that were killed, or stopped, learn what two that were not do, to the bit."""
    flags = flags_of(shapes, small_weights, epochs=3, ema=0.9, accumulate=3)
    whole = command(tmp_path / "whole", *flags, processes=2)
    output, _ = ended(whole, well=True)
    assert output.count("report:") == 1  # the first process speaks for all
    folder = tmp_path / "run"
    process = command(folder, *flags, processes=2)
    children = after_a_checkpoint(process, folder)
    # torchrun sends what it is stopped by on to its own; a terminal sends Ctrl-C to all of them besides.
    for pid in [process.pid, *(children if number != signal.SIGTERM else [])]:
        os.kill(pid, number)
    _, errors = ended(process, well=False)
    assert 0 < read_state(folder).step < 3 * 4
    if number != signal.SIGKILL:
        assert "stopped after step" in errors
        assert f"--resume {folder}" in errors
    process = command(folder, processes=2, resumed=True)
    ended(process, well=True)
    several, alone = picture_weights(folder), picture_weights(tmp_path / "whole")
    for name, tensor in alone.items():
        np.testing.assert_array_equal(several[name], tensor)


@pytest.mark.slow  # test_limits asks for the same without processes
def test_what_several_processes_cannot_train(command, shapes, small_weights, tmp_path):
    """Is refused at once, in one line of the first."""
    process = command(tmp_path / "run", *flags_of(shapes, small_weights, batch_size=1), processes=2)
    _, errors = ended(process, well=False)
    told = [line for line in errors.splitlines() if line.startswith("vertebra:")]
    assert len(set(told)) == 1
    assert "batch_size is 1, and 2 processes share a step: " in told[0]
    assert not (tmp_path / "run").exists()
