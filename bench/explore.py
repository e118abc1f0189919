"""How long the page of `vertebra explore` takes and how large it is: the command of each network, on one photo."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common

# The default, one of each other family, and those whose maps, layers or inputs are largest.
NETWORKS = (
    *("efficientnet_lite0", "googlenet", "mobilenet_v2", "resnet50"),
    *("vgg19_bn", "resnet152", "densenet201", "efficientnet_b7"),
)


def measure(n: int) -> Path:
    from vertebra.explore.document import MOST_BYTES

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        photo = _photo(Path(folder))
        for name in NETWORKS:
            weights = "DEFAULT" if name.startswith("efficientnet_lite") else "none"
            page, seconds = Path(folder, f"{name}.html"), []
            command = [sys.executable, "-m", "vertebra", "explore", str(photo), "--model", name, "--html", str(page)]
            for _ in range(n):
                start = time.perf_counter()
                done = subprocess.run([*command, "--weights", weights], capture_output=True, text=True, check=True)
                seconds.append(time.perf_counter() - start)
            notes = [line.removeprefix("vertebra: ") for line in done.stderr.splitlines() if "8 MB" in line]
            results[name] = {"s": _common.summary(seconds), "bytes": page.stat().st_size, "left_out": notes}
    return _common.write("explore", ("torch", "numpy", "pillow"), {"networks": results, "most_bytes": MOST_BYTES})


def _photo(folder: Path) -> Path:
    """A photo of 1,024 × 768 pixels with the spectrum of natural ones: each octave has the same energy."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    total = np.zeros((768, 1024, 3))
    for octave in range(8):
        coarse = Image.fromarray(random.integers(0, 255, (3 * 2**octave, 4 * 2**octave, 3), np.uint8))
        total += np.asarray(coarse.resize((1024, 768), Image.Resampling.BICUBIC)).astype(float) - 127
    path = folder / "photo.jpg"
    Image.fromarray((127 + total / np.abs(total).max() * 127).astype(np.uint8)).save(path)
    return path


def render(document: dict[str, Any]) -> str:
    rows = [
        (name, f"{found['s']['median']:.1f}", f"{found['bytes'] / 1e6:.1f}", len(found["left_out"]) or "")
        for name, found in document["networks"].items()
    ]
    return (
        f"{_common.table(('network', 's', 'MB', 'notes of what was left out'), rows)}\n\n{_common.footnote(document)}"
    )


if __name__ == "__main__":
    _common.main("explore", measure, render, n=1)
