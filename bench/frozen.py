"""Fine-tuning with frozen stages: their maps computed once a view and kept, or in each epoch, or by torch.

The first table has the speed of `vertebra train`'s own loop on photos of Caltech-101, decoding included: all stages
in torch, the frozen ones by ONNX Runtime for new crops in each epoch, while the maps of views are made, and once
they are there. Where not all are torch's, the steps of the trained stages are computed as `speed=auto` chooses.
Beside it is what the MACs of the network allow: backward passes take twice those of the forward pass, and the
frozen stages have none, so that leaving them out cannot make an epoch faster than (frozen + 3 × trained) / (3 ×
trained).

The second table has whole runs of the command on 30 photos of each class, and their accuracy on others.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _common

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
PACKAGES = ("torch", "torchvision", "onnxruntime")
FREEZE = 4
# Network -> photos of an epoch: an epoch of the slowest takes half a minute.
NETWORKS = {"mobilenet_v2": 384, "efficientnet_lite0": 384, "resnet18": 768, "resnet50": 512}
TRAINED, CHOSE, TESTED = 15, 5, 20  # photos of a class
SIZE = 128  # pixels of the whole runs, so that they take minutes


def photos_by_class() -> dict[str, list[Path]]:
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is missing: it has the photos to train on.")
    return {folder.name: sorted(folder.glob("*.jpg")) for folder in sorted(DATA.iterdir()) if folder.is_dir()}


def epochs(network: str, kind: str, count: int, folder: Path) -> list[float]:
    """Images a second of each epoch of training, as `Trainer` logs them."""
    import hashlib

    import numpy as np

    from vertebra.cpu_kernels import measured_gain
    from vertebra.models import create_model, get_model_weights
    from vertebra.progress import silent
    from vertebra.train.distributed import init_distributed
    from vertebra.train.fit import Trainer
    from vertebra.train.run_checkpoint import TrainingState, save, save_best
    from vertebra.train.train_settings import Settings
    from vertebra.train.training_log import read_log
    from vertebra.train.validation import Split

    found = [path for paths in photos_by_class().values() for path in paths]
    files = found[:: len(found) // (count + 16)][: count + 16]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    labels = np.arange(len(files)) % 101
    train, val = (Split(files[part], labels[part], digests[part]) for part in (slice(16, None), slice(16)))
    settings = Settings(
        "", model=network, method="scratch", batch_size=32, freeze=FREEZE, frozen_views=int(kind == "views"),
        augment="flip", crop_scale=0.35, epochs=3 if kind == "views" else 2, lr=1e-3, checkpoint_seconds=1e6,
        speed="fused" if measured_gain() >= 1.05 else "eager",
    )  # fmt: skip
    preprocessing = get_model_weights(network)["DEFAULT"].preprocessing
    built = create_model(network, num_classes=101)
    distributed = init_distributed()
    folder.mkdir()
    save_best(folder, 0, built.state_dict(), distributed)
    save(folder, TrainingState(), built, None, {}, distributed)
    trainer = Trainer(settings, built, preprocessing, train, val, folder, distributed, silent)
    if kind == "torch":
        trainer.frozen = trainer.step.trained = None
        trainer.step.module = trainer.network
    trainer.fit()
    return [record["images_per_second"] for record in read_log(folder) if "val_accuracy" in record]


def rates_in_a_process(network: str, kind: str, count: int, folder: Path) -> list[float]:
    cache = {"VERTEBRA_CACHE": str(folder.parent / f"{folder.name}-cache")}
    rates: list[float] = _common.in_a_process(network, kind, count, folder, environment=cache)[0]
    return rates


def allowed_by_macs(network: str) -> float:
    """How many times as fast an epoch could be without the forward passes of the frozen stages."""
    import vertebra

    stages = [stage.name for stage in vertebra.create_model(network, weights=None).stages][:FREEZE]
    rows = vertebra.anatomy(network).rows
    frozen = sum(row.macs for row in rows if row.stage in stages)
    trained = sum(row.macs for row in rows) - frozen
    return round((frozen + 3 * trained) / (3 * trained), 2)


def speed(networks: list[str], turns: int) -> dict[str, Any]:
    from vertebra.models import create_model, get_model_weights
    from vertebra.train.frozen_views import map_shape

    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        for network in networks:
            count = NETWORKS[network]
            rates: dict[str, list[float]] = {name: [] for name in ("torch", "new", "fill", "kept")}
            for turn in range(turns):
                for kind in ("torch", "new"):
                    rates[kind].append(
                        rates_in_a_process(network, kind, count, Path(scratch, f"{network}-{turn}-{kind}"))[-1]
                    )
                first, *later = rates_in_a_process(network, "views", count, Path(scratch, f"{network}-{turn}-views"))
                rates["fill"].append(first)
                rates["kept"].append(statistics.fmean(later))
            built = create_model(network, weights=None)
            height, width, channels = map_shape(
                built, FREEZE, get_model_weights(network)["DEFAULT"].preprocessing.crop_size
            )
            rows[network] = {
                "stages": len(built.stages),
                "map": [channels, height, width],
                "photos": count,
                "allowed_by_macs": allowed_by_macs(network),
                **{name: _common.summary(values, digits=1) for name, values in rates.items()},
            }
            print(network, rows[network], flush=True)
    return rows


def split_table(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for label, paths in photos_by_class().items():
            parts = ["train"] * TRAINED + ["val"] * CHOSE + ["test"] * TESTED
            # Photos that follow one another are often of one scene; so are those of a split then.
            writer.writerows((photo, label, part) for photo, part in zip(paths, parts, strict=False))


def accuracy(network: str, choices: dict[str, list[str]], seeds: int) -> dict[str, Any]:
    """Whole runs of the command, side by side, each on a core: accuracy on test photos, and seconds of training."""
    found: dict[str, Any] = {name: [] for name in choices}
    with tempfile.TemporaryDirectory() as scratch:
        split_table(Path(scratch, "table.csv"))
        for seed in range(seeds):
            started = {}
            for core, (name, options) in enumerate(choices.items()):
                run = Path(scratch, f"{core}-{seed}")
                given = [f"freeze={FREEZE}", f"image_size={SIZE}", *options]
                command = [
                    "taskset", "-c", str(core), sys.executable, "-m", "vertebra", "train", f"{scratch}/table.csv",
                    "--method", "finetune", "--model", network, "--seed", str(seed), "--out", str(run),
                    *(word for option in given for word in ("--set", option)),
                ]  # fmt: skip
                environment = {**os.environ, "VERTEBRA_CACHE": f"{scratch}/cache{core}"}
                started[name] = run, subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
            for name, (run, process) in started.items():
                if process.wait():
                    raise SystemExit(f"{name} failed")
                metrics = json.loads((run / "metrics.json").read_text())
                found[name].append(
                    {
                        "top1": metrics["top1"], "interval": metrics["top1_interval"], "n": metrics["n"],
                        "probe": metrics["probe_top1"], "training_seconds": metrics["seconds"]["training"],
                    }
                )  # fmt: skip
                print(network, name, seed, found[name][-1], flush=True)
    return found


CHOICES = {"new crops each epoch": ["frozen_views=0"], "maps kept": []}


def render(document: dict[str, Any]) -> str:
    rows = []
    for network, found in document["speed"].items():
        plain, new, fill, kept = (found[name]["median"] for name in ("torch", "new", "fill", "kept"))
        channels, height, width = found["map"]
        rows.append(
            [
                network, f"{FREEZE} of {found['stages']}", f"{2 * channels * height * width / 1e3:.0f}",
                f"{plain:.1f}", f"{new:.1f} ({new / plain:.2f}×)", f"{fill:.1f}",
                f"**{kept:.1f}** ({kept / plain:.2f}×)", f"{found['allowed_by_macs']:.2f}×",
            ]
        )  # fmt: skip
    heads = [
        "network",
        "frozen",
        "kB a view",
        "all in torch, images/s",
        "new crops",
        "views, first epoch",
        "later ones",
        "MACs allow",
    ]
    lines = [_common.table(heads, rows), ""]
    for network, found in document.get("accuracy", {}).items():
        texts = []
        for name, runs in found.items():
            top1 = statistics.fmean(run["top1"] for run in runs)
            low, high = runs[0]["interval"]
            seconds = statistics.fmean(run["training_seconds"] for run in runs)
            texts.append(
                f"{name}: {100 * top1:.1f} % (one run's interval {100 * low:.1f} – {100 * high:.1f}), {seconds:.0f} s"
            )
        runs = next(iter(found.values()))
        lines.append(
            f"{network}, five epochs at {SIZE} pixels on {TRAINED} photos of each class, top-1 on {runs[0]['n']:,} "
            f"others, mean of {len(runs)} seed(s) (the probe at 224 pixels: {100 * runs[0]['probe']:.1f} %), "
            f"and seconds of training on a core each: {'; '.join(texts)}."
        )
        lines.append("")
    return (
        "\n".join(lines)
        + f"Photos of Caltech-101, batch 32, decoding included, weights of {FREEZE} stages frozen. "
        + _common.footnote(document)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tuning with the maps of frozen stages kept, or not")
    parser.add_argument("-n", type=int, default=2, help="turns of each (default 2)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="whose speed")
    parser.add_argument("--accuracy", metavar="NETWORK", help="whole runs of this network instead of the speed")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each choice (default 2)")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        network, kind, count, folder = options.one
        print(json.dumps(epochs(network, kind, int(count), Path(folder))))
        return
    if not options.table:
        before = _common.read("frozen") if (_common.RESULTS / "frozen.json").exists() else {}
        details = {name: before.get(name, {}) for name in ("speed", "accuracy")}
        if options.accuracy:
            details["accuracy"][options.accuracy] = accuracy(options.accuracy, CHOICES, options.seeds)
        else:
            details["speed"] |= speed(options.networks, options.n)
        _common.write("frozen", PACKAGES, details)
    text = render(_common.read("frozen"))
    _common.publish("frozen", text)
    print(text)


if __name__ == "__main__":
    main()
