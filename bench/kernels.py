"""The kernels beside ONNX Runtime, OpenVINO, MNN and ncnn: latency, memory, one photo from a cold start, a folder.

Latency: the engines take turns in one process. Before each turn there is a pause, in which other engines' threads stop
spinning, and one run that is not counted, which brings the weights into the processor's caches. Of each engine there
are the median of all runs and their lower quartile, "fast", which is disturbed least by other load on the machine. In
rows with AVX2, ONNX Runtime is held to AVX2 as well; see `_onnxruntime_avx2`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _common
import numpy as np
from _onnxruntime_avx2 import block_size, copy_without_avx512

from vertebra.bench import BACKENDS, NetworkFiles
from vertebra.card import read_card
from vertebra.synthetic_photos import synthetic_photos

NETWORKS = ("mobilenet_v2", "efficientnet_lite0", "efficientnet_b0")
ALSO = ("efficientnet_v2_s",)  # measured where they are named
PARTS = ("latency", "memory", "start", "folder")
PEERS = ("onnxruntime", "openvino", "mnn", "ncnn")
PACKAGES = ("vertebra-kernels", "onnxruntime", "openvino", "MNN", "ncnn")
RUNS_OF_A_TURN = 5
REST = 0.08  # seconds; libgomp's threads spin for about 5 ms, ONNX Runtime's for 40
STARTS, FOLDER_RUNS = 15, 3
TOLERANCE = 1e-4  # of a probability, between engines


@dataclass(frozen=True)
class Setting:
    """What a row of the latencies measures."""

    batch: int
    threads: int
    instructions: str

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"batch {self.batch}, {threads}, {self.instructions}"


def settings() -> list[Setting]:
    """Of this machine; AVX2 alone only where there is more to leave out."""
    best = import_kernels().instruction_set()
    narrow = [Setting(1, 2, "avx2")] if best == "avx512" else []
    return [Setting(1, 2, best), *narrow, Setting(1, 1, best), Setting(16, 2, best)]


def import_kernels() -> Any:
    try:
        import vertebra_kernels
    except ImportError:
        sys.exit("vertebra-kernels is not installed. Run: pip install ./kernels")
    return vertebra_kernels


def fused(files: NetworkFiles, setting: Setting) -> Callable[..., Any]:
    """The kernels: pixels → outputs."""
    from vertebra.runtime.kernels_engine import network_graph

    kernels = import_kernels()
    graph = network_graph(Path(files.exported), read_card(files.exported))
    network = kernels.Network(kernels.pack(graph, setting.instructions), setting.threads)
    return lambda pixels, outputs=("probabilities",): network.run(pixels, outputs)


def peers(files: NetworkFiles, setting: Setting, names: Sequence[str]) -> dict[str, Callable[[Any], Any]]:
    """Those of these engines that are installed."""
    from latency import BACKENDS as MORE

    chosen = {name: {**MORE, **BACKENDS}[name] for name in names}
    return {
        name: backend.make(files, setting.batch, setting.threads)[0]
        for name, backend in chosen.items()
        if backend.is_installed
    }


def difference(files: NetworkFiles, run: Callable[..., Any], pixels: Any) -> float:
    """The largest difference of the kernels' outputs from ONNX Runtime's, relative to each output's largest value."""
    import onnxruntime

    names = ("probabilities", "embedding", "features")
    session = onnxruntime.InferenceSession(files.exported, providers=["CPUExecutionProvider"])
    expected = session.run(list(names), {"image": pixels})
    found = run(pixels, names)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))


def in_turns(calls: Mapping[str, Callable[[], object]], n: int) -> dict[str, list[float]]:
    """Seconds of at least `n` runs of each call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.disable()
    for turn in range(1 + -(-n // RUNS_OF_A_TURN)):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            call = calls[name]
            time.sleep(REST)
            call()
            for _ in range(RUNS_OF_A_TURN):
                start = time.perf_counter()
                call()
                if turn:  # the first is to warm up
                    seconds[name].append(time.perf_counter() - start)
    gc.enable()
    return seconds


def one_latency(
    files: NetworkFiles, setting: Setting, n: int, names: Sequence[str], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Measure a row, in this process: the kernels and these engines."""
    pixels = synthetic_photos(setting.batch, files.preprocessing.crop_size)
    ours = fused(files, setting)
    runs: dict[str, Callable[[Any], Any]] = {"kernels": lambda x: ours(x)[0], **peers(files, setting, names)}
    reference = runs["onnxruntime"](pixels)
    for name, run in runs.items():
        if not (largest := float(np.abs(np.asarray(run(pixels)) - reference).max())) <= tolerance:
            sys.exit(f"{name} differs from ONNX Runtime by {largest:.2g} in a probability of {files.name}.")
    seconds = in_turns({name: lambda run=run: run(pixels) for name, run in runs.items()}, n)
    found: dict[str, Any] = {
        name: _common.summary([s / setting.batch for s in values], 1000, 3)
        | {"fast": round(statistics.quantiles(values, n=4)[0] / setting.batch * 1000, 3)}
        for name, values in seconds.items()
    }
    return {**asdict(setting), "ms": found, "difference": float(f"{difference(files, ours, pixels):.2g}")}


def one_memory(exported: str, engine: str, batch: int) -> float:
    """Peak resident memory of this process in MB, after a few runs by an engine of Vertebra's."""
    from memory import resident_mb

    from vertebra.runtime.engine import Plan
    from vertebra.runtime.engine_runner import open_engine

    card = read_card(exported)
    engine_opened = open_engine(Path(exported), card, Plan(engine, threads=2))
    pixels = synthetic_photos(batch, card.preprocessing.crop_size)
    for _ in range(3):
        engine_opened.run(pixels)
    return round(resident_mb(os.getpid())["VmHWM"], 1)


def in_a_process(task: str, *arguments: Any, path: Path | None = None) -> Any:
    """Run one of `TASKS` in a process of its own; `path` goes before others in PYTHONPATH."""
    found = [*([str(path)] if path else []), *sys.path]
    command = [sys.executable, __file__, "--run", task, json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run_task(task: str, arguments: Sequence[Any]) -> Any:
    """Run in the process that `in_a_process` starts."""
    if task == "latency":
        files, setting, *more = arguments
        return one_latency(NetworkFiles(**files), Setting(**setting), *more)
    if task == "folder":
        from folder import with_vertebra

        from vertebra import resizing

        if arguments[2] != "kernels":
            resizing._kernels = lambda: None  # Pillow, as without the package
        return with_vertebra(*arguments)
    return one_memory(*arguments)


def latencies(files: NetworkFiles, n: int, folder: Path, only: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its label."""
    for setting in settings():
        if only and str(setting) not in only:
            continue
        narrow = setting.instructions == "avx2" and import_kernels().instruction_set() == "avx512"
        path = None
        if narrow:
            path = copy_without_avx512(Path(tempfile.mkdtemp(dir=folder)))
            if files.name == "mobilenet_v2" and block_size(files.exported, folder, path) != 8:
                sys.exit("ONNX Runtime still uses AVX-512.")
        names = PEERS[:1] if narrow else PEERS  # held to AVX2 as well
        row = in_a_process("latency", asdict(files), asdict(setting), n, names, path=path)
        print(files.name, setting, row["ms"], flush=True)
        yield str(setting), row


def memory(files: NetworkFiles) -> dict[str, Any]:
    """Peak memory with both engines; the packed form is in the cache by the first, uncounted run."""
    in_a_process("memory", files.exported, "kernels", 1)
    return {
        f"batch {batch}": {
            engine: in_a_process("memory", files.exported, engine, batch) for engine in ("kernels", "onnxruntime")
        }
        for batch in (1, 16)
    }


def starts(files: NetworkFiles, folder: Path) -> dict[str, Any]:
    """Whole processes that classify one photo; the first use by the kernels packs the weights and verifies them."""
    from coldstart import photo, timed

    command = [sys.executable, "-m", "vertebra", "predict", photo(), "--model", files.exported, "--engine"]
    fresh = tempfile.mkdtemp(dir=folder)
    first, _, _ = timed(["env", f"VERTEBRA_CACHE={fresh}", *command, "kernels"])
    found = _common.alternate({engine: lambda e=engine: timed([*command, e]) for engine in ("kernels", "auto")}, STARTS)
    return {
        "first use": round(first, 3),
        **{engine: _common.summary(values, digits=3) for engine, values in found.items()},
    }


def folder_rates(files: NetworkFiles) -> dict[str, Any]:
    """Images a second of a folder of photos: the kernels, which also resize, and ONNX Runtime with Pillow."""
    from folder import COUNT, photos

    paths = photos()
    found: dict[str, list[float]] = {"kernels": [], "onnxruntime": []}
    best = {}
    for turn in range(1 + FOLDER_RUNS):
        for engine in list(found)[:: 1 if turn % 2 else -1]:
            result = in_a_process("folder", paths[: None if turn else 100], files.exported, engine)
            if turn:  # the first finds the fastest plan
                found[engine].append(COUNT / result["seconds"])
                best[engine] = result["best"]
    same = sum(a == b for a, b in zip(*best.values(), strict=True)) / COUNT
    return {**{name: _common.summary(values, digits=1) for name, values in found.items()}, "same_class": same}


def measure(n: int, only: Sequence[str], parts: Sequence[str], chosen: Sequence[str]) -> None:
    """Measure some networks, parts and settings; the others keep their figures."""
    from vertebra.bench.network_files import network_files

    path = _common.RESULTS / "kernels.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found = {part: document.get(part, {}) for part in PARTS}

    def write() -> None:
        instructions = import_kernels().instruction_set()
        _common.write("kernels", PACKAGES, {"unit": "ms an image", "instructions": instructions, **found})

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in only:
            files = network_files(network, folder)
            for label, row in latencies(files, n, folder, chosen) if "latency" in parts else ():
                rows = {**found["latency"].get(network, {}), label: row}
                found["latency"][network] = {str(s): rows[str(s)] for s in settings() if str(s) in rows}
                write()
            if "memory" in parts:
                found["memory"][network] = memory(files)
            if "start" in parts:
                found["start"][network] = starts(files, folder)
            if "folder" in parts and network == "efficientnet_lite0":
                found["folder"][network] = folder_rates(files)
            write()


def render(document: dict[str, Any]) -> str:
    table, n, largest = latency_table(document["latency"], PEERS)
    text = (
        f"{table}\n\nfloat32; n ≥ {n}; fast is the lower quartile. The kernels' outputs differ "
        f"from ONNX Runtime's by at most {largest:.1g} of the largest value. In rows with avx2 both have AVX2 alone."
    )
    return f"{text}\n\n{_other_parts(document)}\n\n{_common.footnote(document)}"


def latency_table(latency: Mapping[str, dict[str, Any]], names: Sequence[str]) -> tuple[str, int, float]:
    """The table of what `one_latency` measured, the fewest runs and the largest difference."""
    found = {f"{network}, {label}": row for network, rows in latency.items() for label, row in rows.items()}
    rows = []
    for label, row in found.items():
        ms = row["ms"]
        cells = [f"{ms[e]['fast']:.3g} ({ms[e]['median']:.3g})" if e in ms else "-" for e in ("kernels", *names)]
        ratios = [min(ms[e][key] for e in names if e in ms) / ms["kernels"][key] for key in ("fast", "median")]
        rows.append([label, f"**{cells[0]}**", *cells[1:], *(f"{ratio:.2f}×" for ratio in ratios)])
    heads = ["ms an image: fast (median)", "kernels", *names, "than best, fast", "than best, median"]
    n = min(entry["n"] for row in found.values() for entry in row["ms"].values())
    return _common.table(heads, rows), n, max(row["difference"] for row in found.values())


def _other_parts(document: dict[str, Any]) -> str:
    """Memory, starts and folders."""
    rows: list[list[str]] = []
    for network, found in document["memory"].items():
        for label, mb in found.items():
            ours, theirs = mb["kernels"], mb["onnxruntime"]
            rows.append(
                [f"{network}: peak memory, {label}", f"{ours:.0f} MB", f"{theirs:.0f} MB", f"{ours / theirs:.2f}"]
            )
    for network, found in document["start"].items():
        ours, theirs = (found[engine]["median"] for engine in ("kernels", "auto"))
        label = f"{network}: one photo from a cold start ({found['first use']:.2f} s at first use)"
        rows.append([label, f"{ours:.3f} s", f"{theirs:.3f} s", f"{ours / theirs:.2f}"])
    for network, found in document["folder"].items():
        ours, theirs = (found[engine]["median"] for engine in ("kernels", "onnxruntime"))
        label = f"{network}: folder of photos, beside ONNX Runtime and Pillow ({found['same_class']:.1%} same class)"
        rows.append([label, f"{ours:.1f} images/s", f"{theirs:.1f} images/s", f"{ours / theirs:.2f}"])
    return _common.table(["", "kernels", "onnxruntime", "ratio"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="The kernels beside other engines")
    parser.add_argument("-n", type=int, default=200, help="runs of each engine in a row (default 200)")
    parser.add_argument(
        "--only", nargs="+", choices=(*NETWORKS, *ALSO), default=NETWORKS, help="measure these networks again"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="measure these parts again")
    parser.add_argument("--rows", nargs="+", default=(), help='latencies to measure: "batch 1, 2 threads, avx2" …')
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run_task(options.run[0], json.loads(options.run[1]))))
        return
    if not options.table:
        measure(options.n, options.only, options.parts, options.rows)
    text = render(_common.read("kernels"))
    _common.publish("kernels", text)
    print(text)


if __name__ == "__main__":
    main()
