"""On a GPU: forward passes beside the bound that `inspect --device h100` predicts, and training beside a plain loop.

The bound is max(arithmetic, memory traffic) + launch for each kernel of well-fused software. It is compared with
torch in channels-last, run eagerly in a CUDA graph and compiled. Training decodes JPEGs, so the processor's cores count
as much as the GPU; the plain loop is that of `steps.py`, with whichever number of workers suits it best.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import steps

NETWORKS = ("vgg16", "googlenet", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")
NETWORKS += ("efficientnet_v2_s", "resnext50_32x4d", "wide_resnet50_2")
COMPILED = ("resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")
TRAINED = ("resnet50", "mobilenet_v2")
SIZE = 224  # of all images, also where the weights are for larger ones
BATCHES = (1, 128)
DTYPES = ("float32", "bfloat16")
DEVICE = "h100"
BATCH, STEPS = 64, 20
WORKERS = {"vertebra": (0,), "torch": (8, 15)}


def milliseconds(run: Callable[[], object], n: int = 30) -> float:
    """The median of n runs by the GPU's own clock."""
    import torch

    found = []
    for _ in range(n):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


def forward(name: str, batch: int, dtype: str, compiled: bool) -> dict[str, float]:
    """Milliseconds a batch, predicted and measured."""
    import torch

    import vertebra

    anatomy = vertebra.anatomy(name, SIZE, batch_size=batch, dtype=dtype)
    found = {"bound": anatomy.latency(DEVICE).total_ms}
    network = vertebra.create_model(name).eval().to("cuda", getattr(torch, dtype), memory_format=torch.channels_last)
    images = torch.randn(batch, 3, SIZE, SIZE, device="cuda", dtype=getattr(torch, dtype))
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(3):
            network(images)
        torch.cuda.synchronize()
        found["eager"] = milliseconds(lambda: network(images))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            network(images)
        found["graph"] = milliseconds(graph.replay)
        if compiled:
            fast = torch.compile(network, mode="reduce-overhead")
            for _ in range(4):
                fast(images)
            found["compiled"] = milliseconds(lambda: fast(images))
    return {key: round(value, 4) for key, value in found.items()}


def measure(n: int) -> Path:
    import torch

    if not torch.cuda.is_available():
        print("There is no GPU here; the figures in bench/results/gpu.json stay.")
        sys.exit()
    torch.backends.cudnn.benchmark = True
    rows = []
    for name in NETWORKS:
        for batch in BATCHES:
            for dtype in DTYPES:
                compiled = name in COMPILED and dtype == "bfloat16"
                rows.append({"network": name, "batch": batch, "dtype": dtype, **forward(name, batch, dtype, compiled)})
                print(rows[-1], flush=True)
    # The median step: cuDNN compiles depthwise convolutions at their first use, for seconds.
    training = {name: steps.compare(name, n, STEPS, BATCH, WORKERS, statistics.median) for name in TRAINED}
    document = {
        "batch": BATCH,
        "gpu": torch.cuda.get_device_name(),
        "device": DEVICE,
        "forward": rows,
        "training": training,
    }
    return _common.write("gpu", ("torch", "torchvision"), document)


def best(row: dict[str, Any]) -> float:
    """Of the ways in which a forward pass was run."""
    return min(row[key] for key in ("eager", "graph", "compiled") if key in row)


def render(document: dict[str, Any]) -> str:
    kinds = [(batch, dtype) for dtype in reversed(DTYPES) for batch in BATCHES]
    rows = []
    for name in NETWORKS:
        cells = [name + " (compiled)" * (name in COMPILED)]
        for kind in kinds:
            row = next(r for r in document["forward"] if (r["network"], r["batch"], r["dtype"]) == (name, *kind))
            cells.append(f"{row['bound']:.2f} / {best(row):.2f} ({row['bound'] / best(row):.0%})")
        rows.append(cells)
    heads = [f"{dtype}, batch {batch}" for batch, dtype in kinds]
    forward = _common.table(["ms a batch: bound / measured", *heads], rows)
    training = _common.table(
        ["images/s in training", "vertebra", "plain torch", "ratio"],
        [
            [name, f"**{ours:.0f}**", f"{theirs:.0f}", f"{ours / theirs:.2f}×"]
            for name, found in document["training"].items()
            for ours, theirs in [[found[key]["images_per_second"] for key in ("vertebra", "torch")]]
        ],
    )
    return (
        f"{forward}\n\n{document['gpu']}. The bound is that of `inspect --device {document['device']}`; measured is "
        f"the best of eager, in a CUDA graph and, where it says so, compiled (bfloat16 alone).\n\n{training}\n\n"
        f"Batch {document['batch']}, float32 with TF32 in convolutions, JPEGs decoded and cut at random on the way. "
        f"{_common.footnote(document)}"
    )


if __name__ == "__main__":
    _common.main("gpu", measure, render, 2)
