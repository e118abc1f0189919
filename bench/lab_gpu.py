"""Every claim's experiment on a GPU, as `vertebra lab run all --device cuda` runs them: verdicts and figures.

The table has what is timed, beside the verdict of `bench/results/lab.json`, which is of a CPU, and names whatever else
comes out otherwise than there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import _common
import lab


def measure(n: int) -> Path:
    import torch

    if not torch.cuda.is_available():
        print("There is no GPU here; the figures in bench/results/lab_gpu.json stay.")
        sys.exit()
    results = lab.measure_on("cuda", n)
    seconds = round(sum(result["seconds"] for result in results.values()), 1)
    document = {"gpu": torch.cuda.get_device_name(), "seconds": seconds, "results": results}
    return _common.write("lab_gpu", lab.PACKAGES, document)


def render(document: dict[str, Any]) -> str:
    on_cpu, on_gpu = _common.read("lab")["results"], document["results"]
    timed = [name for name, result in on_gpu.items() if "timing" in result["claim"]["decided_by"]]
    rows = []
    for result in (on_gpu[name] for name in timed):
        figures = result["measured"]["figures"]
        # Those that a device decides have an interval; counts are the same everywhere.
        decided_by = [name for name in result["decided_by"] if figures[name]["interval"]]
        cells = (
            result["number"],
            result["claim"]["claim"],
            on_cpu[result["name"]]["verdict"],
            f"**{result['verdict']}**",
            result["reason"],
            "; ".join(lab.shown(name, figures[name]) for name in decided_by),
        )
        rows.append([str(cell).replace("|", "\\|") for cell in cells])
    heads = ["#", "claim", "on a CPU", "on the GPU", "why", "decided by"]
    lines = [heads, ["---"] * len(heads), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{others(on_cpu, on_gpu, timed)} {document['gpu']}. {_common.footnote(document)}"


def others(on_cpu: dict[str, Any], on_gpu: dict[str, Any], timed: list[str]) -> str:
    """A sentence on the experiments in which nothing is timed."""
    rest = [name for name in on_gpu if name not in timed]
    differing = [name for name in rest if on_gpu[name]["verdict"] != on_cpu[name]["verdict"]]
    if not differing:
        return f"The other {len(rest)} have the same verdict on both."
    named = ", ".join(
        f"{on_gpu[name]['number']} ({on_cpu[name]['verdict']} on the CPU, {on_gpu[name]['verdict']} on the GPU)"
        for name in differing
    )
    return f"Of the other {len(rest)}, {len(rest) - len(differing)} have the same verdict on both; not {named}."


if __name__ == "__main__":
    _common.main("lab_gpu", measure, render, 0)
