"""Every claim's experiment in full, as `vertebra lab run all --data CALTECH101` runs them: verdicts, figures, seconds.

Kept results are used again, so that a second run repeats what has changed; `-n` is the number of seeds, 0 for as many
as each experiment says.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import _common

from vertebra.lab import Result, run_all
from vertebra.progress import progress_bar

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
PACKAGES = ("torch", "numpy", "scikit-learn")


def measure(n: int) -> Path:
    start = time.perf_counter()
    data = DATA if DATA.is_dir() else None
    results, failed = {}, []
    with progress_bar("experiments") as progress:
        for result in run_all(data=data, seeds=n or None, progress=progress):
            if isinstance(result, Result):
                print(f"{result.number} {result.name}: {result.verdict} ({result.seconds:.0f} s)", flush=True)
                # What a reader of the claims needs; where the user's folder lies is nobody's business.
                results[result.name] = portable(result.to_dict(), data)
            else:
                failed.append(f"{result.name}: {result.reason}")
    if failed:
        sys.exit("\n".join(failed))
    return _common.write("lab", PACKAGES, {"seconds": round(time.perf_counter() - start, 1), "results": results})


def portable(values: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """The result without the place of the data, only its name."""
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
