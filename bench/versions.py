"""Two checkouts, this one and another: whole commands, in turns, and the ratio of their times pair by pair.

`python bench/versions.py OTHER/src PHOTOS`, where PHOTOS is a folder of class folders. For changes that should cost
nothing: the upper end of the ratio's 95 % interval is what such a change may have cost at most.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import _common

HERE = Path(__file__).resolve().parents[1] / "src"
LOAD = "import sys, vertebra; vertebra.create_model(sys.argv[1], weights=sys.argv[2])"


def commands(photos: Path, folder: Path) -> dict[str, list[str]]:
    """Name -> arguments of Python; `{new}` is a name that is new in each call, of a file or a folder."""
    vertebra = ["-m", "vertebra"]
    lite0 = str(folder / "lite0.onnx")
    found: dict[str, list[str]] = {
        "predict one photo": [*vertebra, "predict", str(next(photos.glob("*/*.jpg"))), "--model", lite0],
        "predict a folder": [*vertebra, "predict", str(photos), "--model", lite0, "--out", "{new}.csv"],
        "export efficientnet_lite0": [*vertebra, "export", "efficientnet_lite0", "--out", "{new}.onnx"],
        "export resnet50": [
            *vertebra,
            "export",
            str(folder / "resnet50.pth"),
            "--model",
            "resnet50",
            "--out",
            "{new}.onnx",
        ],
        "inspect resnet50": [*vertebra, "inspect", "resnet50"],
        "train a probe": [*vertebra, "train", str(photos), "--out", "{new}"],
    }
    for name in ("resnet50", "vgg16", "efficientnet_v2_s"):
        found[f"load {name}"] = ["-c", LOAD, name, str(folder / f"{name}.pth")]
    return found


def prepare(folder: Path) -> None:
    code = "import sys, torch, vertebra; torch.save(vertebra.create_model(sys.argv[1]).state_dict(), sys.argv[2])"
    for name in ("resnet50", "vgg16", "efficientnet_v2_s"):
        subprocess.run([sys.executable, "-c", code, name, str(folder / f"{name}.pth")], check=True)
    export = ["-m", "vertebra", "export", "efficientnet_lite0", "--out", str(folder / "lite0.onnx")]
    subprocess.run([sys.executable, *export], check=True, stdout=subprocess.DEVNULL)


def seconds(command: Sequence[str], source: Path, folder: Path, numbers: Iterator[int]) -> float:
    """Of one call with the modules of `source`; its cache has exported networks and nothing of the photos."""
    new = str(folder / f"new{next(numbers)}")
    cache = folder / f"cache-{source.parent.name}-{'old' if source != HERE else 'new'}"
    environment = os.environ | {"PYTHONPATH": str(source), "VERTEBRA_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *(part.replace("{new}", new) for part in command)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    taken = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"failed with {source}: {' '.join(command)}\n{done.stderr}")
    for left in folder.glob(f"{Path(new).name}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    for kept in ("features", "photos", "hashes"):
        shutil.rmtree(cache / kept, ignore_errors=True)
    return taken


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median, from order statistics; of fewer than six values, the least and the most."""
    ordered, n = sorted(values), len(values)
    rank = 0
    while rank < n // 2 and 2 * sum(math.comb(n, k) for k in range(rank + 1)) / 2**n <= 0.05:
        rank += 1
    rank = max(rank - 1, 0)
    return ordered[rank], ordered[n - 1 - rank]


def measure(other: Path, photos: Path, n: int, only: str) -> None:
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), itertools.count()
        prepare(folder)
        for task, command in commands(photos, folder).items():
            if only not in task:
                continue
            times: dict[Path, list[float]] = {HERE: [], other: []}
            for turn in range(n + 1):
                for source in (HERE, other) if turn % 2 else (other, HERE):
                    taken = seconds(command, source, folder, numbers)
                    if turn:
                        times[source].append(taken)
            ratios = [new / old for new, old in zip(times[HERE], times[other], strict=True)]
            low, high = interval(ratios)
            rows[task] = {
                "new_s": _common.summary(times[HERE], digits=3),
                "old_s": _common.summary(times[other], digits=3),
                "ratio": {"median": round(statistics.median(ratios), 3), "interval": [round(low, 3), round(high, 3)]},
            }
            print(task, rows[task]["ratio"], rows[task]["new_s"]["median"], "s", flush=True)
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=other, capture_output=True, text=True)
    found = {"old": revision.stdout.strip(), "photos": sum(1 for _ in photos.glob("*/*.jpg"))}
    if only:  # measured again, beside the other rows of the same checkout and photos
        recorded = _common.read("versions")
        if found != {name: recorded[name] for name in found}:
            sys.exit(
                f"nothing written: bench/results/versions.json is of {recorded['old']}, {recorded['photos']} photos"
            )
        rows = recorded["rows"] | rows
    _common.write("versions", ("torch", "onnxruntime"), found | {"rows": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the src folder of the other checkout")
    parser.add_argument("photos", type=Path, help="a folder of class folders with JPEGs")
    parser.add_argument("-n", type=int, default=7, help="pairs of each command")
    parser.add_argument("--only", default="", help="part of a task's name: these rows alone are measured and replaced")
    arguments = parser.parse_args()
    measure(arguments.other.resolve(), arguments.photos.resolve(), arguments.n, arguments.only)
