"""Runs of `torchrun --max-restarts` in which a process is killed at a random moment, and one that is left alone.

Two processes train MobileNetV2 from random weights on 90 photos of noise. One of the two, chosen at random, gets
SIGKILL after a time chosen uniformly from the length of the undisturbed run. What counts is whether the final weights
are the same, bit for bit, and how much longer the run takes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

TRAIN = ["--model=mobilenet_v2", "--method=scratch", "--epochs=4", "--batch-size=10", "--set=image_size=32"]
TRAIN += ["--set=workers=1", "--set=checkpoint_seconds=0"]


def make_photos(folder: Path) -> None:
    chosen = np.random.default_rng(0)
    for number in range(90):
        path = folder / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chosen.integers(0, 256, (48, 48, 3), np.uint8)).save(path)


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def trained(photos: Path, run: Path, kill_after: float | None, chosen: random.Random) -> float:
    """Seconds of a run; after `kill_after` seconds one of its processes is killed."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--max-restarts=3",
        "-m",
        "vertebra",
    ]
    command += ["train", str(photos), *TRAIN, "--out", str(run)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if kill_after is not None:
        time.sleep(kill_after)
        if process.poll() is None and (pids := children(process)):
            os.kill(chosen.choice(pids), signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    if process.returncode:
        sys.exit(f"a run failed after it was killed at {kill_after} s:\n{errors}")
    return time.perf_counter() - start


def measure(n: int) -> Path:
    chosen, kills = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        make_photos(photos)
        undisturbed = trained(photos, Path(folder, "undisturbed"), None, chosen)
        expected = load_file(Path(folder, "undisturbed", "weights.safetensors"))
        for number in range(n):
            run, after = Path(folder, str(number)), chosen.uniform(0, undisturbed)
            seconds = trained(photos, run, after, chosen)
            weights = load_file(run / "weights.safetensors")
            same = weights.keys() == expected.keys() and all(
                np.array_equal(weights[name], tensor) for name, tensor in expected.items()
            )
            restarts = json.loads((run / "torchrun.json").read_text())["restarts"]
            kills.append({"after": round(after, 2), "seconds": round(seconds, 2), "restarts": restarts, "same": same})
            print(kills[-1], flush=True)
    return _common.write("restarts", ("torch",), {"undisturbed": round(undisturbed, 2), "kills": kills})


def render(document: dict[str, Any]) -> str:
    kills = document["kills"]
    same = sum(kill["same"] for kill in kills)
    rows = [
        [
            f"{len(kills)} runs, each with a process killed",
            f"{same} of {len(kills)}",
            f"{document['undisturbed']:.0f} s",
        ]
    ]
    seconds = _common.summary([kill["seconds"] for kill in kills], digits=0)
    rows[0].append(f"{seconds['median']:.0f} s ({seconds['min']:.0f}–{seconds['max']:.0f})")
    text = _common.table(["torchrun --max-restarts 3", "same final weights", "undisturbed", "killed once"], rows)
    return f"{text}\n\nMedian (least–most) of whole runs, the restart included. {_common.footnote(document)}"


if __name__ == "__main__":
    _common.main("restarts", measure, render, n=20)
