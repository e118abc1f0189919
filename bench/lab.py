"""Every claim's experiment in full, as `vertebra lab run` runs them: verdicts, figures, seconds.

Claims about Caltech-101 and about scaling run with `--data CALTECH101`. Kept results are used again, so that a second
run repeats what has changed; `-n` is the number of seeds, 0 for as many as each experiment says.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import _common

from vertebra.lab import entries, run
from vertebra.progress import progress_bar

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
ON_PHOTOS = ("parameters-and-overfitting", "compound-scaling")
PACKAGES = ("torch", "numpy", "scikit-learn")


def measure(n: int) -> Path:
    start = time.perf_counter()
    results = measure_on("cpu", n)
    return _common.write("lab", PACKAGES, {"seconds": round(time.perf_counter() - start, 1), "results": results})


def measure_on(device: str, n: int) -> dict[str, Any]:
    """Each experiment's result on that device, by name; what a reader of the claims needs."""
    results = {}
    for entry in entries():
        seeds = n if n and entry.load().CLAIM.seeds else None
        data = DATA if entry.name in ON_PHOTOS and DATA.is_dir() else None
        with progress_bar(entry.name) as progress:
            result = run(entry.name, data=data, device=device, seeds=seeds, progress=progress)
        print(f"{result.number} {result.name}: {result.verdict} ({result.seconds:.0f} s)", flush=True)
        results[result.name] = portable(result.to_dict(), data)
    return results


def portable(values: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """The result with the name of the data in place of its path, which is nobody's business."""
    settings = values["settings"]
    if settings["data"] is not None and data is not None:
        settings = {**settings, "data": data.name}
    return {**values, "settings": settings}


def render(document: dict[str, Any]) -> str:
    rows = [
        [
            result["number"],
            result["claim"]["claim"],
            f"**{result['verdict']}**",
            "; ".join(shown(name, result["measured"]["figures"][name]) for name in result["decided_by"][:3]),
        ]
        for result in document["results"].values()
    ]
    head = ["#", "claim", "verdict", "decided by"]
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{text}\n\n{_common.footnote(document)} {document['seconds'] / 60:.0f} minutes in all."


def shown(name: str, figure: dict[str, Any]) -> str:
    """A figure in a cell: name, value, unit, interval."""
    from vertebra.lab.experiment import Figure

    return f"{name} {Figure.from_dict(figure).text()}"


if __name__ == "__main__":
    _common.main("lab", measure, render, n=0)
