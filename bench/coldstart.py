"""One photo classified by a process that starts from nothing: `vertebra predict` beside a minimal torchvision script.

The same network with the same weights (drawn at random) and the same photo, files in the page cache; whole processes,
in turns. Peak memory is that of the process, as the system counts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common

NETWORKS = ("mobilenet_v2", "efficientnet_b0", "resnet50", "vgg16")

# What one writes first after reading torchvision's documentation.
TORCHVISION = """
import sys
import torch, torchvision
from PIL import Image

name, weights, photo = sys.argv[1:]
model = torchvision.models.get_model(name)
model.load_state_dict(torch.load(weights))
model.eval()
enum = torchvision.models.get_model_weights(name).DEFAULT
with torch.inference_mode():
    probabilities = model(enum.transforms()(Image.open(photo).convert("RGB"))[None]).softmax(1)[0]
values, indices = probabilities.topk(5)
for value, index in zip(values.tolist(), indices.tolist()):
    print(f"{value:.1%} {enum.meta['categories'][index]}")
"""


def photo() -> str:
    import importlib.util

    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        sys.exit("this benchmark takes its photo from scikit-learn. Run: pip install scikit-learn")
    return str(Path(spec.origin).parent / "datasets" / "images" / "flower.jpg")


def timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds, peak memory in MB, and what was printed."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode()
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss / 1000, text


def measure(n: int) -> Path:
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(TORCHVISION)
        for name in NETWORKS:
            weights, model = f"{folder}/{name}.pth", f"{folder}/{name}.onnx"
            # In processes of their own: a child's peak memory counts what its parent has at the fork.
            code = f"import torch, vertebra; torch.save(vertebra.create_model({name!r}).state_dict(), {weights!r})"
            subprocess.run([sys.executable, "-c", code], check=True)
            subprocess.run(
                [sys.executable, "-m", "vertebra", "export", weights, "--model", name, "--out", model], check=True
            )
            commands = {
                "vertebra": [sys.executable, "-m", "vertebra", "predict", photo(), "--model", model],
                "torchvision": [sys.executable, str(script), name, weights, photo()],
            }
            found: dict[str, list[tuple[float, float, str]]] = {key: [] for key in commands}
            for turn in range(n + 1):
                for key in list(commands)[:: 1 if turn % 2 else -1]:
                    result = timed(commands[key])
                    if turn:  # the first fills the page cache
                        found[key].append(result)
            rows[name] = {
                key: {
                    "seconds": _common.summary([entry[0] for entry in entries], digits=3),
                    "peak_mb": round(max(entry[1] for entry in entries)),
                }
                for key, entries in found.items()
            }
            ours, theirs = (rows[name][key]["seconds"]["median"] for key in ("vertebra", "torchvision"))
            rows[name]["speedup"] = round(theirs / ours, 2)
    return _common.write("coldstart", ("torch", "torchvision", "onnxruntime", "typer"), {"rows": rows})


def render(document: dict[str, Any]) -> str:
    rows = []
    for name, row in document["rows"].items():
        cells = [
            f"{row[key]['seconds']['median']:.2f} s, {row[key]['peak_mb']} MB" for key in ("vertebra", "torchvision")
        ]
        rows.append([name, *cells, f"**{row['speedup']:.1f}×**"])
    n = next(iter(document["rows"].values()))["vertebra"]["seconds"]["n"]
    text = _common.table(["one photo, whole process", "vertebra predict", "torchvision script", "faster"], rows)
    return f"{text}\n\nMedian of {n}, and peak memory. {_common.footnote(document)}"


if __name__ == "__main__":
    _common.main("coldstart", measure, render, n=7)
