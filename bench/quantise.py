"""int8 beside float, both in ONNX Runtime, in turns: speed, size, accuracy, and where the time goes.

EfficientNet-Lite0 has its published weights and is judged on labelled ImageNet photos, of which those that calibrated
it are told apart; the others have weights drawn at random, which is enough for speed.

The export itself is timed as a whole process, beside a process that does what `onnxruntime.quantization` needs: decode
the photos that Vertebra takes the ranges from, `quantize_static` (MinMax, its fastest method), write the file. It
measures neither accuracy nor speed of the result, and is given the float file. Both int8 files are compared with the
float file on photos of Caltech-101, which neither has seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import _common
import numpy as np

LIBRARY = "onnxruntime.quantization"
PHOTOS = _common.ROOT.parent / "shared" / "data" / "imagenet-photos"
NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_lite0", "efficientnet_b0")
CALLS = 40


def export(name: str, folder: str) -> tuple[tuple[str, str], dict[str, float]]:
    """Write both files; return their paths, and the seconds of each."""
    import torch

    from vertebra import create_model, get_model_weights
    from vertebra.decoding import open_image

    paths = f"{folder}/{name}.onnx", f"{folder}/{name}.int8.onnx"
    source = [name]
    if name != "efficientnet_lite0":
        torch.manual_seed(0)
        network = create_model(name)
        # Batch norms that have seen photos: drawn weights alone let the activations of deep networks die away.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        transforms = get_model_weights(name)["DEFAULT"].transforms()
        photos = [transforms(open_image(path)) for path in sorted(PHOTOS.iterdir())[:32]]
        with torch.no_grad():
            network.train()(torch.stack(photos))
        torch.save(network.state_dict(), f"{folder}/{name}.pth")
        source = [f"{folder}/{name}.pth", "--model", name]
    seconds = {}
    for path, options in zip(paths, ([], ["--precision", "int8", "--calibration", str(PHOTOS)]), strict=True):
        force = ["--force"] if options and name != "efficientnet_lite0" else []
        command = [sys.executable, "-m", "vertebra", "export", *source, "--out", path, *options, *force]
        seconds["int8" if options else "float32"] = timed(command)
    return paths, seconds


def timed(command: list[str]) -> float:
    """Seconds of a process."""
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return round(time.perf_counter() - started, 1)


def export_by_library(path: str, folder: str) -> tuple[str, float]:
    """The float file as the library quantises it, in a process of its own; its path, and the seconds."""
    import onnx
    import quantisers

    out, excluded = f"{folder}/library.onnx", f"{folder}/excluded.json"
    Path(excluded).write_text(json.dumps(quantisers.left_out(onnx.load(path))))
    command = [sys.executable, quantisers.__file__, "--library", path, excluded, str(PHOTOS), out]
    return out, timed(command)


def agreement(paths: dict[str, str]) -> dict[str, dict[str, float]]:
    """Of each file with the one of "float32": the same class in % of photos of Caltech-101, and mean KL divergence."""
    import quantisers

    from vertebra.card import read_card

    steps = read_card(paths["float32"]).preprocessing
    photos = quantisers.network_input(quantisers.caltech_photos(), steps)
    found = {}
    for key, path in paths.items():
        run = session(path).run
        parts = [run(["probabilities"], {"image": photos[i : i + 1]})[0] for i in range(len(photos))]
        found[key] = np.concatenate(parts).astype(float).clip(1e-9, 1)
    wanted = found.pop("float32")
    return {
        key: {
            "same class": round(100 * float((got.argmax(1) == wanted.argmax(1)).mean()), 1),
            "KL divergence": round(float((wanted * np.log(wanted / got)).sum(1).mean()), 5),
        }
        for key, got in found.items()
    }


def session(path: str, profile: str | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _common.machine()["cores"]
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def by_operation(path: str, pixels: Any, folder: str) -> dict[str, float]:
    """Milliseconds of one image by kind of operation."""
    profiled = session(path, f"{folder}/profile")
    for _ in range(30):
        profiled.run(["probabilities"], {"image": pixels})
    nodes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in json.loads(Path(profiled.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"])
    total: dict[str, float] = defaultdict(float)
    for (operation, _), micros in nodes.items():
        total[operation] += float(np.median(micros)) / 1000
    return {name: round(value, 3) for name, value in sorted(total.items(), key=lambda pair: -pair[1]) if value >= 0.02}


def accuracy(paths: tuple[str, str]) -> dict[str, Any]:
    """Photos of ImageNet whose class is the best: the n-th of them is of class 10 · n."""
    import vertebra

    photos = sorted(str(path) for path in PHOTOS.iterdir())
    right = {}
    for precision, path in zip(("float32", "int8"), paths, strict=True):
        results = vertebra.load(path, engine="onnxruntime").predict_many(photos, top=1)
        right[precision] = sum(result.predictions[0]["index"] == 10 * n for n, result in enumerate(results))
    return {"photos": len(photos), **right}


def measure(n: int) -> Path:
    from vertebra.card import read_card
    from vertebra.synthetic_photos import synthetic_photos

    if not PHOTOS.is_dir():
        sys.exit(f"there are no photos to calibrate with in {PHOTOS}")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            paths, taken = export(name, folder)
            by_library, taken[LIBRARY] = export_by_library(paths[0], folder)
            card = read_card(paths[1])
            pixels = synthetic_photos(1, card.preprocessing.crop_size)
            sessions = [session(path) for path in paths]

            def calls(number: int, ready: list[Any] = sessions, given: Any = pixels) -> Any:
                for _ in range(CALLS):
                    ready[number].run(["probabilities"], {"image": given})

            seconds = _common.alternate({"float32": lambda: calls(0), "int8": lambda: calls(1)}, n, warm=2)
            speed = {
                key: _common.summary([value / CALLS for value in values], 1000, 3) for key, values in seconds.items()
            }
            rows[name] = {
                "ms": speed,
                "ratio": round(speed["int8"]["median"] / speed["float32"]["median"], 3),
                "megabytes": [round(Path(path).stat().st_size / 1e6, 2) for path in paths],
                "export_seconds": taken,
                "beside_float": agreement({"float32": paths[0], "int8": paths[1], LIBRARY: by_library}),
                "judged": card.metrics.get("int8 beside float32"),
                "ms_by_operation": {
                    key: by_operation(path, pixels, folder) for key, path in zip(speed, paths, strict=True)
                },
            }
            if name == "efficientnet_lite0":
                rows[name]["top1"] = accuracy(paths)
    return _common.write("quantise", ("onnxruntime",), {"rows": rows})


def render(document: dict[str, Any]) -> str:
    rows = []
    for name, row in document["rows"].items():
        right = row.get("top1")
        told = f"{right['int8']} and {right['float32']} of {right['photos']}" if right else ""
        cells = [f"{row['ms'][key]['median']:.2f}" for key in ("float32", "int8")]
        sizes = f"{row['megabytes'][0]:.1f} → {row['megabytes'][1]:.1f}"
        rows.append([name, *cells, f"**{row['ratio']:.2f}×**", sizes, told])
    head = ["batch 1, ms", "float32", "int8", "ratio", "MB", "right, int8 and float32"]
    tables = [_common.table(head, rows), *_export_table(document)]
    return "\n\n".join([*tables, _common.footnote(document)])


def _export_table(document: dict[str, Any]) -> list[str]:
    """Of the export itself; none where the JSON is of a time before it was measured."""
    exports = []
    for name, row in document["rows"].items():
        if "beside_float" not in row:
            return []
        found = row["beside_float"]
        cells = [
            f"{row['export_seconds'][key]:.1f} s, {found[key]['same class']:.1f} %, {found[key]['KL divergence']:.4f}"
            for key in ("int8", LIBRARY)
        ]
        exports.append([name, *cells])
    head = ["whole process, same class as float, KL", "vertebra export --precision int8", LIBRARY]
    return [_common.table(head, exports)]


if __name__ == "__main__":
    _common.main("quantise", measure, render, n=9)
