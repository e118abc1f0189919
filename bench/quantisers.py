"""Vertebra's int8 quantiser beside `onnxruntime.quantization`, and each of its parts replaced by the library's way.

All calibrate on the same photos, quantise the same layers of the same graph (by default the library quantises the
softmax too, which costs it far more), and are judged on other photos: agreement with float32 and KL divergence. Each
runs in a process of its own, for its peak memory. Times are CPU times, which a busy machine changes little.
"""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _common
import numpy as np
import onnx

DATA = _common.ROOT.parent / "shared" / "data"
CALIBRATION = 50  # photos of ImageNet; the other 50 and photos of Caltech-101 judge
OTHERS = 250
_BOTH = ("vertebra", "onnxruntime MinMax")  # the library's fastest method
CANDIDATES = {
    "efficientnet_lite0": (
        *(*_BOTH, "onnxruntime Entropy", "onnxruntime Percentile"),
        *("min-max ranges", "each weight rounded alone", "7-bit weights", "normalisation not fused"),
    ),
    "efficientnet_b0": _BOTH,
    "resnet50": _BOTH,
}


def pixels(name: str) -> tuple[Any, Any]:
    """Pixels to calibrate on and to judge on, (N, H, W, 3)."""
    from vertebra.models import get_model_weights

    steps = get_model_weights(name)["DEFAULT"].preprocessing
    imagenet = sorted((DATA / "imagenet-photos").iterdir())
    found = network_input([*imagenet[::2], *imagenet[1::2], *caltech_photos()], steps)
    return found[:CALIBRATION], found[CALIBRATION:]


def caltech_photos() -> list[Path]:
    """Photos of Caltech-101, evenly over its classes."""
    found = sorted((DATA / "caltech101").rglob("*.jpg"))
    return found[:: max(1, len(found) // OTHERS)][:OTHERS]


def network_input(paths: Sequence[Path], steps: Any) -> Any:
    """Pixels (N, H, W, 3) as the network's preprocessing makes them."""
    from vertebra.pixels import network_pixels

    return np.stack([network_pixels(path, steps) for path in paths])


def float_file(name: str, path: str) -> None:
    """Export the network; without published weights at hand random ones, with batch norms that have seen photos."""
    import torch

    import vertebra

    if name == "efficientnet_lite0":
        vertebra.export(name, path)
        return
    steps = vertebra.get_model_weights(name)["DEFAULT"].preprocessing
    torch.manual_seed(0)
    network = vertebra.create_model(name)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (steps.mean, steps.std))
    photos = torch.from_numpy(pixels(name)[0][:32]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network.train()((photos - mean) / std)
    vertebra.export(network, path, preprocessing=steps)


def left_out(model: onnx.ModelProto) -> list[str]:
    """The nodes that the library is to leave in float32: those that Vertebra leaves."""
    from vertebra.export.int8_plan import quantisable
    from vertebra.export.onnx_model import OnnxModel

    candidates = {*quantisable(OnnxModel(model)), *(n.name for n in model.graph.node if n.op_type in ("Relu", "Clip"))}
    return [node.name for node in model.graph.node if node.name not in candidates]


def library(model: onnx.ModelProto, photos: Any, method: str, excluded: Sequence[str]) -> onnx.ModelProto:
    """The model as `quantize_static` makes it: QDQ, uint8 activations, int8 weights per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(photos)

        def get_next(self) -> Any:
            image = next(self.images, None)
            return None if image is None else {"image": image[None]}

    model = onnx.ModelProto.FromString(model.SerializeToString())  # the library moves the weights of what it is given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method),
            nodes_to_exclude=list(excluded),
        )
        return onnx.load(path)


def ours(model: onnx.ModelProto, photos: Any, part: str) -> onnx.ModelProto:
    """The model as Vertebra makes it, one part of it replaced."""
    from vertebra.export import activation_ranges, int8_plan
    from vertebra.export.onnx_model import OnnxModel
    from vertebra.export.weight_rounding import nearest_levels
    from vertebra.progress import silent

    def seven_bits(weight: Any, *_: object) -> Any:
        largest = np.abs(weight.reshape(len(weight), -1)).max(1)
        return np.where(largest > 0, largest / 63, 1).astype(np.float32)

    replaced: dict[str, tuple[Any, str, Callable[..., Any]]] = {
        "min-max ranges": (activation_ranges, "best_range", lambda low, high, counts: (low, high)),
        "each weight rounded alone": (
            int8_plan,
            "best_levels",
            lambda weight, scale, _: nearest_levels(weight, scale),
        ),
        "7-bit weights": (int8_plan, "weight_scales", seven_bits),
        "normalisation not fused": (int8_plan, "fuse_normalisation", lambda model: model),
    }
    if part in replaced:
        setattr(*replaced[part])
    return int8_plan.prepare_plan(OnnxModel(model), photos, silent).write()


def export_by_library(model: str, excluded: str, folder: str, out: str) -> None:
    """`quantize_static` from a float file to an int8 file, calibrated on every second photo of a folder."""
    from vertebra.card import read_card

    photos = network_input(sorted(Path(folder).iterdir())[::2], read_card(model).preprocessing)
    onnx.save(library(onnx.load(model), photos, "MinMax", json.loads(Path(excluded).read_text())), out)


def session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def worker(name: str, path: str, candidate: str, rounds: int) -> None:
    """One candidate; prints its row as JSON."""
    logging.disable(logging.WARNING)
    photos, judged = (np.load(f"{path}.npz")[key] for key in ("calibration", "judged"))
    model = onnx.load(path)
    excluded = left_out(model)
    started = time.process_time()
    kind, _, method = candidate.partition(" ")
    if kind == "onnxruntime":
        int8 = library(model, photos, method, excluded)
    else:
        int8 = ours(model, photos, candidate)
    row: dict[str, Any] = {"cpu_seconds": round(time.process_time() - started, 1)}
    row["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    row["mb"] = round(int8.ByteSize() / 1e6, 2)
    sessions = session(model), session(int8)
    expected, found = (
        np.concatenate([each.run(["probabilities"], {"image": image[None]})[0] for image in judged])
        for each in sessions
    )
    p, q = (np.clip(values.astype(float), 1e-9, 1) for values in (expected, found))
    row["agreement"] = round(100 * float((p.argmax(1) == q.argmax(1)).mean()), 1)
    row["divergence"] = round(float((p * np.log(p / q)).sum(1).mean()), 5)
    if name == "efficientnet_lite0":  # the n-th photo of ImageNet is of class 10 · n, and every second one judges
        labels = 10 * np.arange(1, 2 * CALIBRATION, 2)
        row["right"] = [int((values[: len(labels)].argmax(1) == labels).sum()) for values in (expected, found)]
    least = [float("inf")] * 2
    for _ in range(rounds):
        for number, each in enumerate(sessions):
            for _ in range(5):
                before = time.process_time()
                each.run(["probabilities"], {"image": judged[:1]})
                least[number] = min(least[number], time.process_time() - before)
    row["ms"] = [round(1000 * value, 2) for value in least]
    print(json.dumps(row))


def measure(n: int) -> Path:
    if not DATA.is_dir():
        sys.exit(f"there are no photos to calibrate with in {DATA}")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, candidates in CANDIDATES.items():
            path = f"{folder}/{name}.onnx"
            calibration, judged = pixels(name)
            np.savez(f"{path}.npz", calibration=calibration, judged=judged)
            float_file(name, path)
            rows[name] = {}
            for candidate in candidates:
                command = [sys.executable, __file__, "--worker", name, path, candidate, str(n)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                rows[name][candidate] = json.loads(done.stdout.splitlines()[-1])
                print(name, candidate, rows[name][candidate], flush=True)
    return _common.write("quantisers", ("onnxruntime", "onnx"), {"photos": [CALIBRATION, OTHERS + 50], "rows": rows})


def render(document: dict[str, Any]) -> str:
    rows = [
        [
            name,
            candidate,
            f"{row['agreement']:.1f} %",
            f"{row['divergence']:.4f}",
            f"{row['ms'][1]:.2f} of {row['ms'][0]:.2f}",
            f"{row['mb']:.2f}",
            f"{row['cpu_seconds']:.1f}",
            row["peak_mb"],
        ]
        for name, candidates in document["rows"].items()
        for candidate, row in candidates.items()
    ]
    head = ["network", "quantiser", "same class", "KL", "ms, int8 of float32", "MB", "CPU s to quantise", "peak MB"]
    return f"{_common.table(head, rows)}\n\n{_common.footnote(document)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, name, path, candidate, rounds = sys.argv
        worker(name, path, candidate, int(rounds))
    elif sys.argv[1:2] == ["--library"]:
        export_by_library(*sys.argv[2:])
    else:
        _common.main("quantisers", measure, render, n=40)
