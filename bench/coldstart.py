"""One photo classified by a process that starts from nothing: `vertebra predict` beside two minimal scripts.

One is torchvision's, the other ONNX Runtime's with the exported file, the least that predicts without torch. The same
network with the same weights (drawn at random) and the same photo, files in the page cache; whole processes, in turns.
Peak memory is that of the process, as the system counts it.
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


# The least that predicts with the exported file: numpy, Pillow and ONNX Runtime; the class numbers have no names.
ONNXRUNTIME = """
import sys
import numpy, onnxruntime
from PIL import Image

model, photo = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
size = session.get_inputs()[0].shape[1]
picture = Image.open(photo).convert("RGB")
scale = size / 0.875 / min(picture.size)
picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BILINEAR)
left, top = [(side - size) // 2 for side in picture.size]
image = numpy.asarray(picture.crop((left, top, left + size, top + size)))
probabilities = session.run(["probabilities"], {"image": image[None]})[0][0]
for index in probabilities.argsort()[:-6:-1]:
    print(f"{probabilities[index]:.1%} {index}")
"""


def photo() -> str:
    import importlib.util

    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        sys.exit("this benchmark takes its photo from scikit-learn. Run: pip install scikit-learn")
    return str(Path(spec.origin).parent / "datasets" / "images" / "flower.jpg")


def timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds, peak memory in MB, and what was printed."""
    # As on a user's machine: modules are compiled once.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=environment)
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
        bare = Path(folder) / "bare.py"
        bare.write_text(ONNXRUNTIME)
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
                "onnxruntime": [sys.executable, str(bare), model, photo()],
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
            ours, bare_script, theirs = (rows[name][key]["seconds"]["median"] for key in commands)
            rows[name] |= {"speedup": round(theirs / ours, 2), "of_bare": round(ours / bare_script, 3)}
    return _common.write("coldstart", ("torch", "torchvision", "onnxruntime", "typer"), {"rows": rows})


def render(document: dict[str, Any]) -> str:
    rows = []
    for name, row in document["rows"].items():
        cells = [
            f"{row[key]['seconds']['median']:.2f} s, {row[key]['peak_mb']} MB"
            for key in ("vertebra", "onnxruntime", "torchvision")
        ]
        rows.append([name, *cells, f"{row['of_bare']:.2f}×", f"**{row['speedup']:.1f}×**"])
    n = next(iter(document["rows"].values()))["vertebra"]["seconds"]["n"]
    text = _common.table(
        [
            "one photo, whole process",
            "vertebra predict",
            "ONNX Runtime script",
            "torchvision script",
            "of ONNX Runtime's",
            "faster than torchvision",
        ],
        rows,
    )
    return f"{text}\n\nMedian of {n}, and peak memory. {_common.footnote(document)}"


if __name__ == "__main__":
    _common.main("coldstart", measure, render, n=7)
