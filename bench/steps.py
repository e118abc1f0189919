"""Images a second of training, data loading included: Vertebra's trainer beside a plain loop in channels-last.

Both do what their users would get: decode JPEGs, cut and mirror them at random, forward, backward, SGD with momentum.
Each runs in processes of its own, in turns; the plain loop is given whichever number of workers suits it best.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common

NETWORKS = ("vgg16", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")
BATCH = 16
PACKAGES = ("torch", "torchvision")
WARM_UP = 3
PHOTOS = 100_000  # of the run that `vertebra train` would choose for


def photos(count: int) -> list[str]:
    folder = _common.ROOT.parent / "shared" / "data" / "caltech101"
    found = sorted(map(str, folder.glob("*/*.jpg")))
    if len(found) < count:
        raise SystemExit(f"{folder} has {len(found)} photos; {count} are needed to train on.")
    return found[:: len(found) // count][:count]


def vertebra(network: str, steps: int, workers: int, batch: int) -> list[float]:
    """Seconds of each step of `Trainer`, as `vertebra train --method scratch` runs it."""
    import numpy as np

    from vertebra.malloc import retain_freed_memory
    from vertebra.models import create_model, get_model_weights
    from vertebra.train.distributed import init_distributed
    from vertebra.train.fit import Trainer
    from vertebra.train.run_checkpoint import TrainingState
    from vertebra.train.speed_choice import choose_speed
    from vertebra.train.train_settings import Settings
    from vertebra.train.validation import Split

    class EnoughError(Exception):
        pass

    moments: list[float] = []

    def progress(task: str, done: int = 0, total: int | None = None) -> None:
        moments.append(time.perf_counter())
        if len(moments) > steps + WARM_UP:
            raise EnoughError

    files = photos(batch * (steps + WARM_UP + 5))
    folder = tempfile.TemporaryDirectory()  # for its checkpoints
    part = Split([Path(file) for file in files], np.arange(len(files)) % 100)
    settings = Settings("", model=network, method="scratch", batch_size=batch, epochs=1, image_size=224)
    preprocessing = get_model_weights(network)["DEFAULT"].preprocessing
    built = create_model(network, num_classes=100)
    distributed = init_distributed()

    def trainer(speed: str) -> Trainer:
        changed = replace(settings, speed=speed)
        return Trainer(changed, built, preprocessing, part, part, Path(folder.name), distributed, progress)

    # What `speed=auto` chooses in a run that is long enough.
    speed, notes = choose_speed(settings, PHOTOS, distributed.device, trainer)
    print(f"speed={speed}", *notes, file=sys.stderr)
    chosen = trainer(speed)
    with folder, contextlib.suppress(EnoughError), retain_freed_memory():
        chosen._train(TrainingState(), None)
    return [after - before for before, after in itertools.pairwise(moments)][WARM_UP:]


def torch_loop(network: str, steps: int, workers: int, batch: int) -> list[float]:
    """A plain loop, as the documentation of torch and torchvision has its parts."""
    import torch
    import torchvision
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    files = photos(batch * (steps + WARM_UP + 5))
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

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torchvision.models.get_model(network, num_classes=100).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def run() -> Any:
        pin = device.type == "cuda"
        for images, labels in DataLoader(Photos(), batch, shuffle=True, num_workers=workers, pin_memory=pin):
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            loss = torch.nn.functional.cross_entropy(model(images), labels.to(device, non_blocking=True))
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


SUBJECTS = {"vertebra": vertebra, "torch": torch_loop}
WORKERS = {"vertebra": (0,), "torch": (1, 2)}  # the trainer chooses for itself


def compare(
    network: str,
    turns: int,
    steps: int,
    batch: int = BATCH,
    choices: Mapping[str, Sequence[int]] = WORKERS,
    middle: Callable[[Sequence[float]], float] = statistics.fmean,
) -> dict[str, Any]:
    """Images a second at the `middle` of the steps, and memory, with whichever number of workers suits each best."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(turns):
        for subject in SUBJECTS:
            for workers in choices[subject]:
                seconds, memory = _common.in_a_process(subject, network, steps, workers, batch)
                found.setdefault((subject, workers), []).append({"seconds": seconds, "memory_mb": memory})
    entries: dict[str, Any] = {}
    for (subject, workers), runs in found.items():
        rates = [batch / middle(run["seconds"]) for run in runs]
        entry = {
            "images_per_second": round(statistics.median(rates), 3),
            "spread": [round(min(rates), 3), round(max(rates), 3)],
            "memory_mb": round(max(run["memory_mb"] for run in runs)),
            "workers": workers or None,
        }
        if subject not in entries or entry["images_per_second"] > entries[subject]["images_per_second"]:
            entries[subject] = entry
    print(network, entries, flush=True)
    return entries


def measure(networks: Sequence[str], turns: int, steps: int) -> Path:
    """Measure some of the networks; the rows of the others stay."""
    known = _common.read("steps")["rows"] if len(networks) < len(NETWORKS) else {}
    rows = {network: known[network] for network in NETWORKS if network in known}
    how = {"turns": turns, "steps": steps}
    rows |= {network: compare(network, **how) | how for network in networks}
    rows = {network: rows[network] for network in NETWORKS if network in rows}
    return _common.write("steps", PACKAGES, {"unit": f"images/s at batch {BATCH}", "rows": rows})


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
                f"{found['turns']} × {found['steps']}",
            ]
        )
    heads = [
        "network",
        "Vertebra, images/s",
        "plain torch",
        "ratio",
        "peak memory, MB",
        "plain torch, MB",
        "turns × steps",
    ]
    return (
        f"{_common.table(heads, rows)}\n\nTraining at batch {BATCH}, float32, channels-last, JPEGs decoded and cut at "
        f"random on the way. {_common.footnote(document)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps beside a plain torch loop")
    parser.add_argument("-n", type=int, default=3, help="turns of each subject (default 3)")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of a turn (default 12)")
    parser.add_argument("--only", choices=NETWORKS, nargs="+", default=NETWORKS, help="networks to measure")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        subject, network, *numbers = options.one
        print(json.dumps(SUBJECTS[subject](network, *map(int, numbers))))
        return
    if not options.table:
        measure(options.only, options.n, options.steps)
    text = render(_common.read("steps"))
    _common.publish("steps", text)
    print(text)


if __name__ == "__main__":
    main()
