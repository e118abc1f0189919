"""Images a second of training, data loading included: Vertebra's trainer beside a plain loop in channels-last.

Both do what their users would get: decode JPEGs, cut and mirror them at random, forward, backward, SGD with momentum.
Each runs in processes of its own, in turns; the plain loop is given whichever number of workers suits it best.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
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

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")
BATCH = 16
PACKAGES = ("torch", "torchvision")
WARM_UP = 3


def photos(count: int) -> list[str]:
    folder = _common.ROOT.parent / "shared" / "data" / "caltech101"
    found = sorted(map(str, folder.glob("*/*.jpg")))[:: max(1, 5784 // count)][:count]
    if not found:
        raise SystemExit(f"{folder} is missing: there are no photos to train on.")
    return found


def vertebra(network: str, steps: int, workers: int) -> list[float]:
    """Seconds of each step of `Trainer`, as `vertebra train --method scratch` runs it."""
    import numpy as np

    from vertebra.models import create_model, get_model_weights
    from vertebra.train._checkpoint import Position
    from vertebra.train._fit import Part, Trainer
    from vertebra.train._memory import memory_kept
    from vertebra.train._settings import Settings
    from vertebra.train._world import current_world

    class EnoughError(Exception):
        pass

    moments: list[float] = []

    def tell(what: str, done: int, total: int) -> None:
        moments.append(time.perf_counter())
        if len(moments) > steps + WARM_UP:
            raise EnoughError

    files = photos(BATCH * (steps + WARM_UP + 5))
    part = Part([Path(file) for file in files], np.arange(len(files)) % 100)
    settings = Settings("", model=network, method="scratch", batch_size=BATCH, epochs=1)
    preprocessing = get_model_weights(network)["DEFAULT"].preprocessing
    built = create_model(network, num_classes=100)
    trainer = Trainer(settings, built, preprocessing, part, part, Path(), current_world(), tell)
    with contextlib.suppress(EnoughError), memory_kept():
        trainer._steps(Position(), None)
    return [after - before for before, after in itertools.pairwise(moments)][WARM_UP:]


def torch_loop(network: str, steps: int, workers: int) -> list[float]:
    """A plain loop, as the documentation of torch and torchvision has its parts."""
    import torch
    import torchvision
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    files = photos(BATCH * (steps + WARM_UP + 5))
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    class Photos(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(files[index]).convert("RGB")), index % 100

    model = torchvision.models.get_model(network, num_classes=100).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def run() -> Any:
        for images, labels in DataLoader(Photos(), BATCH, shuffle=True, num_workers=workers):
            images = images.to(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    moments = []
    for _ in run():
        moments.append(time.perf_counter())
        if len(moments) > steps + WARM_UP:
            break
    return [after - before for before, after in itertools.pairwise(moments)][WARM_UP:]


SUBJECTS = {"vertebra": (vertebra, (0,)), "torch": (torch_loop, (1, 2))}


def in_a_process(subject: str, network: str, steps: int, workers: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", subject, network, str(steps), str(workers)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        output.seek(0)
        return {"seconds": json.loads(output.read().splitlines()[-1]), "memory_mb": usage.ru_maxrss * 1024 / 1e6}


def measure(turns: int, steps: int) -> Path:
    rows: dict[str, Any] = {}
    for network in NETWORKS:
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for _ in range(turns):
            for subject, (_, choices) in SUBJECTS.items():
                for workers in choices:
                    found.setdefault((subject, workers), []).append(in_a_process(subject, network, steps, workers))
        entries: dict[str, Any] = {}
        for (subject, workers), runs in found.items():
            rates = [BATCH * len(run["seconds"]) / sum(run["seconds"]) for run in runs]
            entry = {
                "images_per_second": round(statistics.median(rates), 3),
                "spread": [round(min(rates), 3), round(max(rates), 3)],
                "memory_mb": round(max(run["memory_mb"] for run in runs)),
                "workers": workers or None,
            }
            if subject not in entries or entry["images_per_second"] > entries[subject]["images_per_second"]:
                entries[subject] = entry
        rows[network] = entries
        print(network, entries, flush=True)
    details = {"unit": f"images/s at batch {BATCH}", "turns": turns, "steps": steps, "rows": rows}
    return _common.write("steps", PACKAGES, details)


def render(document: dict[str, Any]) -> str:
    rows = []
    for network, found in document["rows"].items():
        ours, theirs = found["vertebra"], found["torch"]
        rows.append(
            [
                network,
                f"**{ours['images_per_second']:.2f}**",
                f"{theirs['images_per_second']:.2f}",
                f"{ours['images_per_second'] / theirs['images_per_second']:.2f}×",
                f"{ours['memory_mb']:,}",
                f"{theirs['memory_mb']:,}",
            ]
        )
    heads = ["network", "Vertebra, images/s", "plain torch", "ratio", "peak memory, MB", "plain torch, MB"]
    return (
        f"{_common.table(heads, rows)}\n\nTraining at batch {BATCH}, float32, channels-last, JPEGs decoded and cut at "
        f"random on the way. {_common.footnote(document)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps beside a plain torch loop")
    parser.add_argument("-n", type=int, default=3, help="turns of each subject (default 3)")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of a turn (default 12)")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        subject, network, steps, workers = options.one
        print(json.dumps(SUBJECTS[subject][0](network, int(steps), int(workers))))
        return
    if not options.table:
        measure(options.n, options.steps)
    text = render(_common.read("steps"))
    _common.publish("steps", text)
    print(text)


if __name__ == "__main__":
    main()
