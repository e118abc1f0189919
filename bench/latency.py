"""Latency and batch-16 throughput of eight networks: Vertebra's choice of engine beside other backends.

The comparison is that of `vertebra bench`, with two engines more that Vertebra does not run, OpenVINO and ncnn: every
backend turns the same pixels into probabilities, in turns with the others, each in a process of its own. The JSON is
written after each network, and `--only` measures some again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import _common
import numpy as np

from vertebra import bench
from vertebra.bench import Backend, NetworkFiles, PreparedBackend, compare, installed_backends
from vertebra.bench.backends import mean_and_std
from vertebra.pixels import Pixels

NETWORKS = (
    "vgg16",
    "googlenet",
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_b0",
    "efficientnet_v2_s",
)
BATCHES = (1, 16)
SECONDS = 0.7
PACKAGES = ("torch", "onnxruntime", "openvino", "MNN", "ncnn")


def openvino(files: NetworkFiles, batch: int, threads: int) -> PreparedBackend:
    """OpenVINO for latency, in float32."""
    import openvino as library

    core = library.Core()
    model = core.read_model(files.exported)
    size = files.preprocessing.crop_size
    model.reshape([batch, size, size, 3])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(pixels: Pixels) -> Any:
        request.infer([pixels])
        return request.get_tensor("probabilities").data

    return run, f"openvino {library.__version__.partition('-')[0]}"


def ncnn(files: NetworkFiles, batch: int, threads: int) -> PreparedBackend:
    """ncnn with its default settings but in float32; it takes one image at a time."""
    import ncnn as library
    import pnnx
    import torch as maker

    size = files.preprocessing.crop_size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        pnnx.export(files.network(), os.fspath(path), maker.zeros(1, 3, size, size), fp16=False)
        net = library.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.load_param(os.fspath(path.with_suffix(".ncnn.param")))
        net.load_model(os.fspath(path.with_suffix(".ncnn.bin")))
    mean, std = mean_and_std(files.preprocessing)
    factors = [1 / value for value in std]

    def run(pixels: Pixels) -> Any:
        logits = []
        for image in pixels:
            entry = library.Mat.from_pixels(image, library.Mat.PixelType.PIXEL_RGB, size, size)
            entry.substract_mean_normalize(mean, factors)
            extractor = net.create_extractor()
            extractor.input("in0", entry)
            logits.append(np.array(extractor.extract("out0")[1]))
        powers = np.exp(logits - np.max(logits, 1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    return run, f"ncnn {library.__version__}"


BACKENDS = {
    # The kernels are Vertebra's own, and no peer: bench/kernels.py has them.
    **{name: backend for name, backend in bench.BACKENDS.items() if name not in ("mnn", "kernels")},
    "openvino": Backend(openvino, ("openvino",)),
    "mnn": bench.BACKENDS["mnn"],
    "ncnn": Backend(ncnn, ("ncnn", "pnnx")),
}


def measure(turns: int, only: tuple[str, ...]) -> Path:
    path = _common.RESULTS / "latency.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() and only != NETWORKS else {}
    how = {"batches": BATCHES, "turns": turns, "seconds": SECONDS}
    for network in only:
        found = [timing.as_dict() for timing in compare([network], installed_backends(BACKENDS), **how)]
        for batch in BATCHES:
            rows[f"{network}, batch {batch}"] = {
                timing.pop("backend"): timing for timing in (dict(t) for t in found) if timing["batch"] == batch
            }
        _common.write("latency", PACKAGES, {"unit": "ms an image", "turns": turns, "rows": rows})
        print(f"{network} done", flush=True)
    return path


def render(document: dict[str, Any]) -> str:
    rows = []
    worst = 0.0
    for label, found in document["rows"].items():
        medians = {name: entry["median_ms"] for name, entry in found.items() if entry["median_ms"] is not None}
        best = min(value for name, value in medians.items() if name != "vertebra")
        ratio = medians["vertebra"] / best
        worst = max(worst, ratio)
        cells = [f"{medians[name]:.3g}" if name in medians else "-" for name in BACKENDS]
        rows.append([label, f"**{cells[0]}**", *cells[1:], f"{ratio:.2f}"])
    text = _common.table(["ms an image", *BACKENDS, "to best peer"], rows)
    return (
        f"{text}\n\nMedians; pixels to probabilities, float32, 2 threads; torch-compiled is channels-last and frozen. "
        f"Vertebra takes ONNX Runtime or MNN, whichever it measured to be faster. {_common.footnote(document)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency of eight networks beside their peers")
    parser.add_argument("-n", type=int, default=4, help="turns of each backend (default 4)")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS, help="measure these networks again")
    options = parser.parse_args()
    if not options.table:
        measure(options.n, tuple(options.only))
    text = render(_common.read("latency"))
    _common.publish("latency", text)
    print(text)


if __name__ == "__main__":
    main()
