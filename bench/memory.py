"""Memory of a bulk run: `vertebra predict` over 10,000 photos, its resident memory sampled while it runs.

The list is 1,000 photos ten times over, on standard input; results go into a CSV file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common
from folder import photos

TIMES = 10
ENGINES = ("auto", "mnn")


def resident_mb(process: int) -> dict[str, float]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {name: int(value) * 1024 / 1e6 for name, value in found.items()}


def run(model: str, engine: str, listing: str, folder: str) -> dict[str, Any]:
    out = Path(folder) / "out.csv"
    command = [
        sys.executable,
        "-m",
        "vertebra",
        "predict",
        "-",
        "--model",
        model,
        "--out",
        str(out),
        "--engine",
        engine,
    ]
    samples: list[float] = []
    peak = 0.0
    start = time.perf_counter()
    with Path(listing).open("rb") as names, tempfile.TemporaryFile() as nowhere:
        process = subprocess.Popen(command, stdin=names, stdout=nowhere)
        while process.poll() is None:
            try:
                found = resident_mb(process.pid)
                samples.append(found["VmRSS"])
                peak = found["VmHWM"]
            except (OSError, KeyError):  # it has just ended
                break
            time.sleep(0.2)
    if process.wait():
        sys.exit("the run has failed")
    rows = sum(1 for _ in out.open("rb")) - 1
    return {
        "photos": rows,
        "images_per_second": round(rows / (time.perf_counter() - start), 1),
        "peak_mb": round(peak),
        **{f"at_{share}_percent_mb": round(samples[len(samples) * share // 100 - 1]) for share in (10, 50, 100)},
    }


def measure(n: int) -> Path:
    paths = photos()
    with tempfile.TemporaryDirectory() as folder:
        model, listing = f"{folder}/m.onnx", f"{folder}/list.txt"
        subprocess.run([sys.executable, "-m", "vertebra", "export", "efficientnet_lite0", "--out", model], check=True)
        Path(listing).write_text("\n".join(paths * TIMES))
        rows = {engine: run(model, engine, listing, folder) for engine in ENGINES}
    return _common.write("memory", ("onnxruntime", "MNN", "pillow"), {"rows": rows})


def render(document: dict[str, Any]) -> str:
    shares = (10, 50, 100)
    rows = [
        [engine, f"{row['photos']:,}", *(row[f"at_{share}_percent_mb"] for share in shares), f"**{row['peak_mb']}**"]
        for engine, row in document["rows"].items()
    ]
    head = ["resident memory, MB", "photos", *(f"after {share} %" for share in shares), "peak"]
    return f"{_common.table(head, rows)}\n\n{_common.footnote(document)}"


if __name__ == "__main__":
    _common.main("memory", measure, render, n=1)
