"""What every benchmark needs: fair timing, the machine, a JSON file, a table in the docs made from it.

A benchmark writes `bench/results/NAME.json` and the part of a page, README.md or docs/*.md, between
`<!-- bench:NAME -->` and `<!-- /bench:NAME -->`. `--table` makes that part again from the JSON, without measuring.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vertebra.machine import affinity_cores, processor_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def alternate(candidates: Mapping[str, Callable[[], object]], n: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of `n` calls of each candidate, taken in turns, so that a slow minute of the machine hits all alike.

    The order is turned round every time; the first `warm` rounds are not counted. What a call returns is thrown away
    outside the measured time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm + n):
        for name in list(candidates)[:: 1 if turn % 2 else -1]:
            gc.collect()
            start = time.perf_counter()
            result = candidates[name]()
            taken = time.perf_counter() - start
            del result
            if turn >= warm:
                seconds[name].append(taken)
    return seconds


def summary(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> dict[str, float]:
    """n, median, min and max of measured values; `scale=1000` makes milliseconds of seconds."""
    return {
        "n": len(values),
        "median": round(statistics.median(values) * scale, digits),
        "min": round(min(values) * scale, digits),
        "max": round(max(values) * scale, digits),
    }


def in_a_process(*arguments: object, environment: Mapping[str, str] | None = None) -> tuple[Any, float]:
    """Run this benchmark with `--one` and these arguments; the JSON of its last line, and its peak memory in MB."""
    command = [sys.executable, str(sys.modules["__main__"].__file__), "--one", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, env={**os.environ, **(environment or {})})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        output.seek(0)
        return json.loads(output.read().splitlines()[-1]), usage.ru_maxrss * 1024 / 1e6


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, system, Python, and how busy the machine is."""
    return {
        "processor": processor_name() or platform.machine(),
        "cores": affinity_cores(),
        "memory_gb": _memory(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _memory() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions; "-" for what is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "-"
    return found


def write(name: str, packages: Iterable[str], results: Mapping[str, Any]) -> Path:
    """Write a benchmark's figures, with the machine and the versions, to `bench/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "benchmark": name,
        "command": f"python bench/{name}.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "threads": _threads(),
        "versions": versions("vertebra", *packages),
        **results,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _threads() -> int | None:
    """Of torch, where the benchmark has loaded it."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are flush right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def footnote(document: Mapping[str, Any]) -> str:
    """The line under a table that says what it was measured on."""
    where = document["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in document["versions"].items() if name != "vertebra")
    return (
        f"`{document['command']}`, {document['date']}: {where['processor']}, {where['cores']} cores, "
        f"{where['memory_gb']} GB; {packages}."
    )


def pages() -> list[Path]:
    """The pages that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def tables(page: str) -> dict[str, str]:
    """Name -> text between its markers, of all tables in a page's source."""
    return {found[1]: found[2] for found in re.finditer(r"<!-- bench:(\w+) -->\n(.*?)\n<!-- /bench:\1 -->", page, re.S)}


def publish(name: str, text: str) -> None:
    """Put `text` between the markers of that name, in every page that has them, and the headline figures after it."""
    import headlines

    made = {name: text, "headlines": headlines.render()}
    for path in pages():
        page = path.read_text(encoding="utf-8")
        for table_name, old in tables(page).items():
            start = f"<!-- bench:{table_name} -->\n"
            page = page.replace(f"{start}{old}\n", f"{start}{made.get(table_name, old)}\n")
        path.write_text(page, encoding="utf-8")


def main(name: str, measure: Callable[[int], Path], render: Callable[[dict[str, Any]], str], n: int) -> None:
    """The command line of a benchmark: `measure(n)` writes the JSON, `render(JSON)` is its table in the docs."""
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or name).partition("\n")[0])
    parser.add_argument("-n", type=int, default=n, help=f"measurements of each candidate (default {n})")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    options = parser.parse_args()
    if not options.table:
        print(f"written: {measure(options.n).relative_to(ROOT)}")
    text = render(read(name))
    publish(name, text)
    print(text)
