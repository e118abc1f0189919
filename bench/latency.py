"""Latency and batch-16 throughput of eight networks: Vertebra's choice of engine beside each backend used by hand.

The comparison is that of `vertebra bench`: every backend turns the same pixels into probabilities, in turns with the
others, each in a process of its own. The JSON is written after each network, and `--only` measures some again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import _common

from vertebra.bench import BACKENDS, compare

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


def measure(turns: int, only: tuple[str, ...]) -> Path:
    path = _common.RESULTS / "latency.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() and only != NETWORKS else {}
    for network in only:
        found = [timing.as_dict() for timing in compare([network], batches=BATCHES, turns=turns, seconds=SECONDS)]
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
