"""How long the analysis of each network takes: `vertebra.anatomy(name)` of every model, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common


def measure(n: int) -> Path:
    import vertebra

    vertebra.anatomy("resnet18")  # what is imported at first use is not the network's
    calls = {name: (lambda name=name: vertebra.anatomy(name)) for name in vertebra.list_models()}
    seconds = _common.alternate(calls, n, warm=0)
    return _common.write("anatomy", ("torch",), {"ms": {name: _common.summary(s, 1000) for name, s in seconds.items()}})


def render(document: dict[str, Any]) -> str:
    longest = sorted(document["ms"], key=lambda name: -document["ms"][name]["median"])
    middle = document["ms"][longest[len(longest) // 2]]["median"]
    slowest = ", ".join(f"{name} {document['ms'][name]['median']:.0f} ms" for name in longest[:3])
    return (
        f"The analysis of a network takes {middle:.0f} ms (median of {len(longest)} networks), and longest for "
        f"{slowest}. {_common.footnote(document)}"
    )


if __name__ == "__main__":
    _common.main("anatomy", measure, render, n=5)
