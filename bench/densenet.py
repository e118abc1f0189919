"""A training step of DenseNet-121 with and without `memory_efficient`: time and peak memory, beside torchvision.

"Kernels" is as `vertebra train` computes steps with `speed=auto` where there is a C compiler. "Recomputed" is
memory_efficient layer by layer, by torch's checkpointing, as it is done on a GPU.

Forward, backward and SGD with momentum on random images, channels-last, float32. Each subject runs in processes of its
own, in turns; all begin with the same weights and images. Vertebra's run with the memory settings of `vertebra train`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import _common

NETWORK, BATCH, SIZE = "densenet121", 16, 224
OURS, PEER, EFFICIENT, RECOMPUTED = "Vertebra", "torchvision", ", memory_efficient", ", memory_efficient, recomputed"
KERNELS = ", kernels"
SUBJECTS = (OURS, OURS + KERNELS, OURS + EFFICIENT, OURS + RECOMPUTED, PEER, PEER + EFFICIENT)


def one(subject: str, steps: int) -> dict[str, Any]:
    """Seconds and losses of the steps of a subject; the time of the first step is not counted."""
    import torch

    options = {"num_classes": 100, "memory_efficient": EFFICIENT in subject}
    if subject.startswith(PEER):
        import torchvision

        build, contexts = getattr(torchvision.models, NETWORK), (nullcontext(), nullcontext())
    else:
        from vertebra import models
        from vertebra.malloc import retain_freed_memory
        from vertebra.models.dense_training import layer_by_layer

        by_layers = subject.endswith(RECOMPUTED)
        build, contexts = (
            getattr(models, NETWORK),
            (retain_freed_memory(), layer_by_layer() if by_layers else nullcontext()),
        )
    torch.manual_seed(0)
    network = build(**options).to(memory_format=torch.channels_last).train()
    module = network
    if subject.endswith(KERNELS):
        from vertebra.cpu_kernels import fuse

        module = fuse(network)
    images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, fused=True)
    seconds, losses = [], []
    with contexts[0], contexts[1]:
        for _ in range(1 + steps):
            start = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(module(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - start)
            losses.append(loss.item())
    return {"seconds": seconds[1:], "losses": losses}


def measure(turns: int, steps: int) -> Path:
    runs: dict[str, list[dict[str, Any]]] = {subject: [] for subject in SUBJECTS}
    for turn in range(turns):
        for subject in SUBJECTS[:: 1 if turn % 2 == 0 else -1]:
            run, memory = _common.in_a_process(subject, steps)
            runs[subject].append({**run, "memory_mb": memory})
            print(f"{subject}: {statistics.median(run['seconds']):.2f} s, {memory:.0f} MB", flush=True)
    rows = {
        subject: {
            "step": _common.summary([second for run in found for second in run["seconds"]], digits=3),
            "memory_mb": round(max(run["memory_mb"] for run in found)),
            "losses": found[0]["losses"],
        }
        for subject, found in runs.items()
    }
    details = {"unit": f"s of a step of {NETWORK}, batch {BATCH}", "turns": turns, "steps": steps, "rows": rows}
    return _common.write("densenet", ("torch", "torchvision"), details)


def render(document: dict[str, Any]) -> str:
    peer = document["rows"][PEER]
    rows = []
    for subject, row in document["rows"].items():
        pairs = zip(row["losses"], peer["losses"], strict=True)
        rows.append(
            [
                subject,
                f"{row['step']['median']:.2f} ({row['step']['min']:.2f}–{row['step']['max']:.2f})",
                f"{peer['step']['median'] / row['step']['median']:.2f}×",
                f"{row['memory_mb']:,}",
                f"{row['memory_mb'] / peer['memory_mb']:.2f}×",
                f"{max(abs(ours - theirs) / theirs for ours, theirs in pairs):.0e}",
            ]
        )
    heads = ["DenseNet-121, batch 16", "step, s", "speed", "peak memory, MB", "memory", "losses differ by"]
    return (
        f"{_common.table(heads, rows)}\n\nMedian (least–most). Ratios and differences are to torchvision in "
        f"channels-last. {_common.footnote(document)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps of DenseNet-121: time and memory")
    parser.add_argument("-n", type=int, default=2, help="turns of each subject (default 2)")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a turn (default 4)")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]))))
        return
    if not options.table:
        measure(options.n, options.steps)
    text = render(_common.read("densenet"))
    _common.publish("densenet", text)
    print(text)


if __name__ == "__main__":
    main()
