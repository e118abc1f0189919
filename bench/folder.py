"""A folder of 1,000 JPEGs through EfficientNet-Lite0: Vertebra, float and int8, beside torch with a DataLoader.

The photos are Caltech-101's, every fifth or so, or those in the folder that VERTEBRA_BENCH_PHOTOS names. The peer is
well written: inference mode, channels last, the number of workers and threads that is best here. Each run is a process
of its own, timed from the first photo to the last result with the network loaded; runs alternate. The bound is what
the cores could do if decoding and the network, each measured on one core alone, were all that there is and a core did
not slow the others. How much it does, a bare loop shows: a process for each core decodes and runs its share of the
photos, all of them at the same time, and does nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common

COUNT = 1000
PAIRS = 3  # runs in turns with the bare loop, for each run of torch
DATA = _common.ROOT.parent / "shared" / "data"
# Workers of the DataLoader, threads of torch.
TORCH_SETTINGS = ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2))


def photos(count: int = COUNT) -> list[str]:
    folder = Path(os.environ.get("VERTEBRA_BENCH_PHOTOS", DATA / "caltech101"))
    found = sorted(str(path) for path in folder.rglob("*.jp*g"))
    if len(found) < count:
        sys.exit(f"{folder} has {len(found)} JPEGs; set VERTEBRA_BENCH_PHOTOS to a folder with {count} of them.")
    return found[:: len(found) // count][:count]


def with_vertebra(paths: list[str], model: str, engine: str = "auto") -> dict[str, Any]:
    import vertebra

    network = vertebra.load(model, engine=engine)
    plan = network.runner(network.batch, tune=True).plan
    network.probabilities(_trial(network, 16))  # every lane awake
    start = time.perf_counter()
    best = [result.predictions[0]["index"] for result in network.predict_many(paths, top=1, count=len(paths))]
    return {"seconds": time.perf_counter() - start, "best": best, "setting": str(plan)}


def with_torch(paths: list[str], workers: int, threads: int) -> dict[str, Any]:
    import torch
    from PIL import Image

    import vertebra

    torch.set_num_threads(threads)
    weights = vertebra.get_weight("EfficientNet_Lite0_Weights.IMAGENET1K_V1")
    network = vertebra.create_model("efficientnet_lite0", weights=weights).eval()
    network = network.to(memory_format=torch.channels_last)
    transforms = weights.transforms()

    class Photos(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            return transforms(Image.open(paths[index]).convert("RGB"))

    loader = torch.utils.data.DataLoader(Photos(), batch_size=16, num_workers=workers)
    best: list[int] = []
    with torch.inference_mode():
        network(torch.zeros(16, 3, 224, 224).to(memory_format=torch.channels_last))
        start = time.perf_counter()
        for batch in loader:
            best += network(batch.to(memory_format=torch.channels_last)).softmax(1).argmax(1).tolist()
    return {"seconds": time.perf_counter() - start, "best": best, "setting": f"{workers} workers, {threads} threads"}


def core_times(paths: list[str], model: str) -> dict[str, Any]:
    """Seconds of one core for one image: decoding, and the network by the engine that the folder is run with."""
    from vertebra.pixels import network_pixels

    network, runner = _one_core(paths, model)
    start = time.perf_counter()
    for path in paths:
        network_pixels(path, network.card.preprocessing)
    decode = (time.perf_counter() - start) / len(paths)
    images = _trial(network, runner.plan.micro_batch)
    least = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        runner.call(images)
        least = min(least, (time.perf_counter() - start) / len(images))
    return {"decode": decode, "model": least}


def _one_core(paths: list[str], model: str) -> tuple[Any, Any]:
    """The network, and its engine for one core, once the process has loaded what decodes and resizes."""
    from dataclasses import replace

    import vertebra
    from vertebra.pixels import network_pixels
    from vertebra.runtime.engine_runner import Runner, open_engine

    network = vertebra.load(model)
    plan = replace(network.runner(network.batch, tune=True).plan, lanes=1, threads=1)
    for path in paths[:16]:
        network_pixels(path, network.card.preprocessing)
    return network, Runner(open_engine(Path(model), network.card, plan), plan)


def bare_share(paths: list[str], model: str) -> dict[str, Any]:
    """Seconds in which one of the bare loop's processes decodes and runs its share, from when it is told to begin."""
    import numpy as np

    from vertebra.pixels import network_pixels

    network, runner = _one_core(paths, model)
    size = runner.plan.micro_batch
    runner.call(_trial(network, size))
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    best: list[int] = []
    for first in range(0, len(paths), size):
        part = [network_pixels(path, network.card.preprocessing) for path in paths[first : first + size]]
        best += runner.call(np.stack(part))[0].argmax(1).tolist()
    return {"seconds": time.perf_counter() - start}


def bare_loop(paths: list[str], model: str) -> float:
    """Seconds in which a process for each core has done its share of the photos."""
    cores = _common.machine()["cores"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        commands = [_command("share", paths[core::cores], model) for core in range(cores)]
        children = [stack.enter_context(subprocess.Popen(command, **pipes)) for command in commands]
        for child in children:
            if child.stdout.readline() != "ready\n":
                sys.exit("a process of the bare loop has failed; its error is above.")
        for child in children:
            print(file=child.stdin, flush=True)
        return max(float(json.loads(child.communicate()[0])["seconds"]) for child in children)


def _trial(network: Any, count: int) -> Any:
    from vertebra.synthetic_photos import synthetic_photos

    return synthetic_photos(count, network.card.preprocessing.crop_size)


def _command(what: str, *arguments: object) -> list[str]:
    return [sys.executable, __file__, "--run", what, json.dumps(arguments)]


def in_a_process(what: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(_command(what, *arguments), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(n: int) -> Path:
    import vertebra

    paths = photos()
    with tempfile.TemporaryDirectory() as folder:
        float_model, int8_model = f"{folder}/float.onnx", f"{folder}/int8.onnx"
        command = [sys.executable, "-m", "vertebra", "export", "efficientnet_lite0", "--out"]
        subprocess.run([*command, float_model], check=True)
        calibration = ["--precision", "int8", "--calibration", str(DATA / "imagenet-photos")]
        subprocess.run([*command, int8_model, *calibration], check=True)
        for model in (float_model, int8_model):
            network = vertebra.load(model)
            network.runner(network.batch, tune=True)
        trials = {pair: in_a_process("torch", paths[:320], *pair)["seconds"] for pair in TORCH_SETTINGS}
        best = min(trials, key=lambda pair: trials[pair])
        runs = {
            "torch": ("torch", paths, *best),
            "float32": ("vertebra", paths, float_model),
            "int8": ("vertebra", paths, int8_model),
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
        cores: dict[str, list[dict[str, Any]]] = {"float32": [], "int8": []}
        bare: dict[str, list[float]] = {name: [] for name in cores}
        for _ in range(n):
            found["torch"].append(in_a_process(*runs["torch"]))
            for name in cores:
                for _ in range(PAIRS):
                    found[name].append(in_a_process(*runs[name]))
                    bare[name].append(bare_loop(paths, runs[name][2]))
                cores[name].append(in_a_process("cores", paths[:200], runs[name][2]))
    images: dict[str, Any] = {}
    reference = found["torch"][0]["best"]
    for name, results in found.items():
        rate = _common.summary([COUNT / result["seconds"] for result in results], digits=1)
        same = sum(a == b for a, b in zip(results[0]["best"], reference, strict=True))
        images[name] = {
            "images_per_second": rate,
            "setting": results[0]["setting"],
            "same_class_as_torch": same / COUNT,
        }
        if name in cores:
            decode, model = (min(entry[key] for entry in cores[name]) for key in ("decode", "model"))
            bound = _common.machine()["cores"] / (decode + model)
            images[name] |= {
                "decode_ms": round(1000 * decode, 2),
                "model_ms": round(1000 * model, 2),
                "bound_images_per_second": round(bound, 1),
                "of_bound": round(rate["median"] / bound, 3),
                "bare_images_per_second": _common.summary([COUNT / seconds for seconds in bare[name]], digits=1),
                "of_bare": round(_median_ratio(bare[name], [result["seconds"] for result in results]), 3),
                "speedup": round(rate["median"] / images["torch"]["images_per_second"]["median"], 2),
            }
    settings = {f"{workers} workers, {threads} threads": round(320 / s, 1) for (workers, threads), s in trials.items()}
    packages = ("torch", "torchvision", "onnxruntime", "MNN", "vertebra-kernels", "pillow")
    return _common.write("folder", packages, {"photos": COUNT, "torch_settings": settings, "runs": images})


def _median_ratio(these: list[float], those: list[float]) -> float:
    """Of neighbouring runs, between which the machine's speed changes least."""
    return statistics.median(one / other for one, other in zip(these, those, strict=True))


def render(document: dict[str, Any]) -> str:
    labels = {"torch": "torch + DataLoader", "float32": "vertebra predict", "int8": "vertebra predict, int8"}
    rows = []
    for name, run in document["runs"].items():
        rate = run["images_per_second"]
        cells = [f"{rate['median']:.1f} ({rate['min']:.1f}–{rate['max']:.1f})"]
        shares = [f"{run['of_bound']:.0%}", f"{run['of_bare']:.0%}"] if "speedup" in run else ["", ""]
        cells += [f"**{run['speedup']:.1f}×**" if "speedup" in run else "", *shares]
        rows.append([labels[name], *cells, f"{run['same_class_as_torch']:.1%}", run["setting"]])
    head = [
        f"{document['photos']:,} JPEGs, EfficientNet-Lite0",
        "images/s",
        "faster",
        "of bound",
        "of bare loop",
        "same class",
        "setting",
    ]
    exact, int8 = document["runs"]["float32"], document["runs"]["int8"]
    turns = document["runs"]["torch"]["images_per_second"]["n"]
    return (
        f"{_common.table(head, rows)}\n\nMedian of {exact['images_per_second']['n']} (least–most), of torch {turns}. "
        f"The bound: decoding takes {exact['decode_ms']} ms of a core while the others rest, the network "
        f"{exact['model_ms']} ms (int8 {int8['model_ms']} ms). The bare loop, in turns with ours: a process for each "
        "core that decodes and runs its share of the photos and does nothing else; it reaches "
        f"{exact['bare_images_per_second']['median']} images/s (int8 {int8['bare_images_per_second']['median']}). "
        f"{_common.footnote(document)}"
    )


if __name__ == "__main__":
    if "--run" in sys.argv:
        work = {"torch": with_torch, "vertebra": with_vertebra, "cores": core_times, "share": bare_share}[sys.argv[2]]
        print(json.dumps(work(*json.loads(sys.argv[3]))))
    else:
        _common.main("folder", measure, render, n=3)
