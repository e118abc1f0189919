"""The kernels in int8, on Vertebra's own int8 files, beside the engines that run these: latency and a folder.

As `kernels.py` measures it. MNN cannot convert such files, and ncnn has quantisation of its own. OpenVINO computes
other integers, so its probabilities may differ more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import _common
from quantise import export

from kernels import folder_rates, import_kernels, in_a_process, latency_table, settings
from vertebra.bench import NetworkFiles

NETWORKS = ("mobilenet_v2", "efficientnet_lite0")
PEERS = ("onnxruntime", "openvino")
PACKAGES = ("vertebra-kernels", "onnxruntime", "openvino")
TOLERANCE = 0.1  # of a probability, between engines


def measure(n: int, only: Sequence[str], chosen: Sequence[str], folders: bool) -> None:
    """Measure some networks and rows; the others keep their figures."""
    path = _common.RESULTS / "kernels_int8.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    latency, folder = document.get("latency", {}), document.get("folder", {})
    if not import_kernels().supports_int8():
        sys.exit("This processor has no AVX-512 with VNNI.")
    with tempfile.TemporaryDirectory() as name:
        for network in only:
            (_, exported), _ = export(network, name)
            files = NetworkFiles(network, exported)
            for setting in settings():
                label = str(setting)
                if setting.instructions == "avx2" or (chosen and label not in chosen):
                    continue
                row = in_a_process("latency", asdict(files), asdict(setting), n, PEERS, TOLERANCE)
                print(network, label, row["ms"], flush=True)
                latency.setdefault(network, {})[label] = row
            if folders and network == "efficientnet_lite0":
                folder[network] = folder_rates(files)
            _common.write("kernels_int8", PACKAGES, {"unit": "ms an image", "latency": latency, "folder": folder})


def render(document: dict[str, Any]) -> str:
    table, n, off = latency_table(document["latency"], PEERS)
    text = (
        f"{table}\n\nint8 with VNNI; n ≥ {n}; fast is the lower quartile. The kernels' "
        f"features and embeddings are ONNX Runtime's bit for bit, their probabilities within {off:.1g} of the largest."
    )
    for network, found in document["folder"].items():
        ours, theirs = (found[engine]["median"] for engine in ("kernels", "onnxruntime"))
        text += (
            f" A folder of photos with {network}: {ours:.1f} images a second, {theirs:.1f} with ONNX Runtime "
            f"({ours / theirs:.2f}×, {found['same_class']:.1%} same class)."
        )
    return f"{text}\n\n{_common.footnote(document)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The kernels in int8 beside other engines")
    parser.add_argument("-n", type=int, default=200, help="runs of each engine in a row (default 200)")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS, help="measure these networks again")
    parser.add_argument("--rows", nargs="+", default=(), help='latencies to measure: "batch 1, 2 threads, avx512" …')
    parser.add_argument("--no-folder", action="store_true", help="leave the folder out")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    options = parser.parse_args()
    if not options.table:
        measure(options.n, options.only, options.rows, not options.no_folder)
    text = render(_common.read("kernels_int8"))
    _common.publish("kernels_int8", text)
    print(text)


if __name__ == "__main__":
    main()
