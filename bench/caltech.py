"""From a folder of JPEGs to a classifier: `vertebra train` on Caltech-101 beside full fine-tuning with timm.

Both get the same photos to train on and are measured on the same others. Vertebra's time is that of the whole command
with an empty cache: decoding, features, head, calibration, export with its proof, report. The peer is what one writes
today: timm's network with the same pretrained weights, torchvision's transforms, a DataLoader, channels-last, timm's
optimiser and cosine schedule, three epochs; its time runs from the first batch to the last, its test apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
PACKAGES = ("torch", "torchvision", "timm", "onnxruntime")
EPOCHS = 3
BATCH = 32


def split_table(path: Path) -> None:
    """All photos with a split that depends on their content alone."""
    from vertebra.data import assign_splits, open_dataset, read_image_info
    from vertebra.data.split import Shares

    dataset = open_dataset(DATA)
    infos = read_image_info(dataset)
    labels = [photo.label for photo in dataset.photos]
    splits = assign_splits([info.sha256 for info in infos], labels, shares=Shares(val=0.0, test=0.15))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        writer.writerows((photo.path, photo.label, split) for photo, split in zip(dataset.photos, splits, strict=True))


def vertebra(table: Path, folder: Path, *options: str) -> dict[str, Any]:
    """`vertebra train` as a process; the first call finds the cache empty."""
    run = folder / f"run{len(list(folder.glob('run*')))}"
    command = [sys.executable, "-m", "vertebra", "train", str(table), "--out", str(run), *options]
    environment = {**os.environ, "VERTEBRA_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    metrics = json.loads((run / "metrics.json").read_text())
    kept = ("n", "top1", "top1_interval", "top5", "ece", "seconds", "probe_top1", "best_step", "steps")
    return {"wall_seconds": round(seconds, 1)} | {name: metrics[name] for name in kept if name in metrics}


def timm_loop(table: Path, most: int) -> dict[str, Any]:
    """Full fine-tuning; prints a line an epoch on stderr.

    With `most` steps it stops there, and its time is what all would take at the speed of those after the first five.
    """
    import timm
    import torch
    from PIL import Image
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import InterpolationMode, v2

    torch.manual_seed(0)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    mean, std = (0.498,) * 3, (0.502,) * 3
    finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    bicubic = InterpolationMode.BICUBIC
    augment = v2.Compose(
        [v2.RandomResizedCrop(224, (0.35, 1.0), interpolation=bicubic), v2.RandomHorizontalFlip(), *finish]
    )
    plain = v2.Compose([v2.Resize(256, interpolation=bicubic), v2.CenterCrop(224), *finish])

    class Photos(Dataset):
        def __init__(self, split: str, transform: Any) -> None:
            self.rows = [row for row in rows if row["split"] == split]
            self.transform = transform

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Any:
            row = self.rows[index]
            return self.transform(Image.open(row["path"]).convert("RGB")), names.index(row["label"])

    model = timm.create_model("tf_efficientnet_lite0", num_classes=len(names))
    load_pretrained(model)
    model = model.to(memory_format=torch.channels_last)
    loader = DataLoader(Photos("train", augment), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    optimizer = create_optimizer_v2(model, "sgd", lr=0.02, weight_decay=1e-4, momentum=0.9)
    steps = len(loader) * EPOCHS
    schedule = CosineLRScheduler(optimizer, steps, warmup_t=len(loader) // 2, warmup_lr_init=1e-4, t_in_epochs=False)
    start, step = time.perf_counter(), 0
    warm = start
    for epoch in range(EPOCHS):
        model.train()
        for images, labels in loader:
            schedule.step_update(step)
            loss = torch.nn.functional.cross_entropy(
                model(images.to(memory_format=torch.channels_last)), labels, label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == 5:
                warm = time.perf_counter()
            if step == most:
                seconds = (time.perf_counter() - warm) / (step - 5) * steps
                return {"wall_seconds": round(seconds, 1), "epochs": EPOCHS, "from_steps": step, "of_steps": steps}
        print(f"timm: epoch {epoch + 1}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - start
    model.eval()
    right = count = 0
    with torch.inference_mode():
        for images, labels in DataLoader(Photos("test", plain), 64, num_workers=2):
            right += int((model(images.to(memory_format=torch.channels_last)).argmax(1) == labels).sum())
            count += len(labels)
    return {"wall_seconds": round(seconds, 1), "top1": right / count, "n": count, "epochs": EPOCHS}


def load_pretrained(model: Any) -> None:
    """EfficientNet-Lite0's published weights into timm's network, whose layers come in the same order."""
    import torch

    from vertebra.models import create_model

    ours = list(create_model("efficientnet_lite0", weights="DEFAULT").state_dict().items())
    theirs = model.state_dict()
    for name, (other, tensor) in zip(theirs, ours, strict=True):
        if not name.startswith("classifier"):
            if theirs[name].shape != tensor.shape:
                raise SystemExit(f"{name} {theirs[name].shape} is not {other} {tensor.shape}")
            theirs[name].copy_(tensor)
    torch.nn.init.zeros_(theirs["classifier.bias"])


def keep(rows: dict[str, Any]) -> None:
    print(rows, flush=True)
    _common.write("caltech", PACKAGES, {"rows": rows})


def measure(options: argparse.Namespace) -> None:
    path = _common.RESULTS / "caltech.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "caltech101.csv"
        split_table(table)
        if "probe" in options.only:
            rows["probe"] = vertebra(table, folder)
            rows["probe again"] = vertebra(table, folder)
            rows["every photo, each held out once"] = vertebra(DATA, folder)
            rows["in 20 parts"] = vertebra(DATA, folder, "--set", "folds=20")
            keep(rows)
        if "timm" in options.only:
            command = [sys.executable, __file__, "--peer", str(table), "--timm-steps", str(options.timm_steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows["timm"] = json.loads(done.stdout.splitlines()[-1])
            keep(rows)
        if "finetune" in options.only:
            rows["finetune"] = vertebra(table, folder, "--method", "finetune", "--epochs", str(EPOCHS))
            keep(rows)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()


LABELS = {
    "probe": "`vertebra train`, cache empty",
    "probe again": "the same again (features in the cache)",
    "every photo, each held out once": "`vertebra train`, every photo held out once",
    "in 20 parts": "the same, held out in 20 parts instead of 5 (`--set folds=20`)",
    "timm": f"timm, {EPOCHS} epochs of full fine-tuning",
    "finetune": f"`vertebra train --method finetune --epochs {EPOCHS}`",
}


def render(document: dict[str, Any]) -> str:
    found = document["rows"]
    lines = []
    for name, label in LABELS.items():
        if name in found:
            row = found[name]
            ratio = f"{found['timm']['wall_seconds'] / row['wall_seconds']:.1f}×" if "timm" in found else "-"
            top1 = f"{100 * row['top1']:.1f} % of {row['n']:,}" if "top1" in row else "-"
            if "from_steps" in row:
                label += f" (time extrapolated from {row['from_steps']} of {row['of_steps']} steps)"
            lines.append([label, f"{row['wall_seconds']:,.0f}", top1, ratio])
    heads = ["Caltech-101, EfficientNet-Lite0", "seconds", "top-1 on held-out photos", "sooner than timm"]
    return f"{_common.table(heads, lines)}\n\n{_common.footnote(document)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to accuracy on Caltech-101")
    every = ("probe", "timm", "finetune")
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="measure these again")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--timm-steps", type=int, default=0, help="stop timm after so many, and extrapolate its time")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(timm_loop(options.peer, options.timm_steps)))
        return
    if not options.table:
        if not DATA.is_dir():
            raise SystemExit(f"{DATA} is missing: there are no photos to train on.")
        measure(options)
    text = render(_common.read("caltech"))
    _common.publish("caltech", text)
    print(text)


if __name__ == "__main__":
    main()
