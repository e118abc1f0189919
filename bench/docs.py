"""How long `make -j 2 docs` takes from nothing, and what it builds: both editions, at once and one after the other."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _common

EDITIONS = {"en": "English", "ja": "Japanese"}
BOTH = "both at once, and links checked"


def measure(n: int) -> Path:
    seconds: dict[str, list[float]] = {name: [] for name in (*EDITIONS.values(), BOTH)}
    built: dict[str, Any] = {}
    for _ in range(n):
        with tempfile.TemporaryDirectory() as folder:
            for language, name in EDITIONS.items():
                start = time.perf_counter()
                build(language, Path(folder, "one", language))
                seconds[name].append(time.perf_counter() - start)
            both = Path(folder, "both")
            start = time.perf_counter()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(build, EDITIONS, [both / language for language in EDITIONS]))
            subprocess.run([sys.executable, _common.ROOT / "docs" / "check_links.py", both], check=True)
            seconds[BOTH].append(time.perf_counter() - start)
            files = [path for path in both.rglob("*") if path.is_file() and ".doctrees" not in path.parts]
            pages = sum(path.suffix == ".html" for path in files)
            built = {"pages": pages, "bytes": sum(path.stat().st_size for path in files)}
    found = {name: _common.summary(values, digits=1) for name, values in seconds.items()}
    return _common.write("docs", ("sphinx", "furo", "myst-parser", "matplotlib"), {"seconds": found, **built})


def build(language: str, out: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--fresh-env"]
    subprocess.run([*command, _common.ROOT / "docs", "-D", f"language={language}", out], check=True)


def render(document: dict[str, Any]) -> str:
    rows = [(name, f"{s['median']:.0f}", f"{s['min']:.0f} – {s['max']:.0f}") for name, s in document["seconds"].items()]
    table = _common.table(["edition", "s", "range"], rows)
    megabytes = document["bytes"] / 1e6
    return f"{table}\n\n{document['pages']} pages, {megabytes:.0f} MB. {_common.footnote(document)}"


if __name__ == "__main__":
    _common.main("docs", measure, render, 3)
