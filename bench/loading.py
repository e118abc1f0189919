"""Building a network and loading its weights: Vertebra, torchvision and timm in one process, by turns.

Random weights are saved as each library saves its own; the file is in the page cache, as it is on a second run. Because
Vertebra maps the file, pages are read when they are first used; so the time until the first prediction is measured too.
VGG-16 comes a second time in the format of its published file (older than torch 1.6), with the numbers at odd addresses
as there.

Vertebra's reader stands beside the shortest way with torch's own, `torch.load(weights_only=True)` and
`load_state_dict(assign=True)` into a network on the meta device: once mapped, as files in the cache are, and once
copied, as files elsewhere are, so that one which is overwritten does not end the process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common

# Rows: label, builder, timm's name, published file, saved in the older format.
NETWORKS = {
    "VGG-16": ("vgg16", "vgg16", "vgg16-397923af.pth", False),
    "ResNet-50": ("resnet50", "resnet50", "resnet50-0676ba61.pth", False),
    "EfficientNetV2-S": ("efficientnet_v2_s", "tf_efficientnetv2_s", "efficientnet_v2_s-dd5fe13b.pth", False),
    "VGG-16, older format": ("vgg16", "vgg16", "vgg16-397923af.pth", True),
}
REQUIRED = list(NETWORKS)[:3]  # the three over which the mean is taken
CANDIDATES = ("vertebra", "torchvision", "torchvision weights=", "timm", "vertebra, copied", "torch.load, meta")
MAPPED = "torch.load mmap, meta"  # the older format cannot be mapped
N = 9


def loaders(label: str, folder: Path) -> dict[str, Callable[[], Any]]:
    """Each candidate's way from the file to a network with its weights."""
    import timm
    import torch
    import torchvision

    from vertebra import models

    builder, timm_name, file, older = NETWORKS[label]
    published = folder / "hub" / "checkpoints" / file
    theirs = getattr(torchvision.models, builder)

    def plain() -> Any:
        model = theirs()
        model.load_state_dict(torch.load(published, weights_only=True))
        return model

    own = folder / f"own-{file}"
    if not own.exists():
        os.link(published, own)

    def assigned(mmap: bool) -> Any:
        with torch.device("meta"):
            model = getattr(models, builder)()
        model.load_state_dict(torch.load(own, weights_only=True, mmap=mmap), assign=True)
        return model

    ways = {
        "vertebra": lambda: getattr(models, builder)(weights=published),
        "torchvision": plain,
        "torchvision weights=": lambda: theirs(weights="IMAGENET1K_V1", progress=False),
        "timm": lambda: timm.create_model(timm_name, checkpoint_path=str(folder / f"timm-{file}")),
        "vertebra, copied": lambda: getattr(models, builder)(weights=own),
        "torch.load, meta": lambda: assigned(False),
    }
    if not older:
        ways[MAPPED] = lambda: assigned(True)
    return ways


def save(label: str, folder: Path) -> None:
    """Random weights, as torchvision publishes them and as timm saves them."""
    import timm
    import torch
    import torchvision

    builder, timm_name, file, older = NETWORKS[label]
    published = folder / "hub" / "checkpoints" / file
    published.parent.mkdir(parents=True, exist_ok=True)
    for model, path in (
        (getattr(torchvision.models, builder)(), published),
        (timm.create_model(timm_name), folder / f"timm-{file}"),
    ):
        state = OrderedDict(model.state_dict())
        if not older:
            torch.save(state, path)
            continue
        numbers = sum(value.nbytes + 8 for value in state.values())
        for length in range(8):
            state.note = "x" * length  # an attribute: it is saved, and loads as nothing
            torch.save(state, path, _use_new_zipfile_serialization=False)
            if (path.stat().st_size - numbers) % 4 == 1:  # as in the published file of 553,433,881 bytes
                break


def predicted(load: Callable[[], Any]) -> Callable[[], Any]:
    """Load, then the first prediction of one image of 224 × 224 pixels."""
    import torch

    image = torch.zeros(1, 3, 224, 224)

    def run() -> Any:
        model = load().eval()
        with torch.inference_mode():
            return model, model(image)

    return run


def memory(label: str, candidate: str, folder: Path) -> float | None:
    """Most memory (MB) that loading and one prediction take beyond what the imports took, in a fresh process.

    None where the system does not tell. Mapped pages count as soon as they are touched.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--memory", label, candidate, str(folder)]
    return round(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout), 1)


def print_memory(label: str, candidate: str, folder: Path) -> None:
    run = predicted(loaders(label, folder)[candidate])
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = peak_bytes()
    run()
    print((peak_bytes() - before) / 1e6)


def peak_bytes() -> int:
    """Most resident memory of this process so far; ru_maxrss would be the parent's, which a child inherits."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def measure(n: int) -> Path:
    results: dict[str, Any] = {}
    for label in NETWORKS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["TORCH_HOME"] = name
            save(label, folder)
            ways = loaders(label, folder)
            assert list(ways) == [*CANDIDATES, *([] if NETWORKS[label][3] else [MAPPED])]
            loading = _common.alternate(ways, n)
            predicting = _common.alternate({key: predicted(way) for key, way in ways.items()}, n)
            results[label] = {
                "file_mb": round((folder / "hub" / "checkpoints" / NETWORKS[label][2]).stat().st_size / 1e6, 1),
                "load_ms": {key: _common.summary(values, 1000) for key, values in loading.items()},
                "load_and_predict_ms": {key: _common.summary(values, 1000) for key, values in predicting.items()},
                "peak_memory_mb": {key: memory(label, key, folder) for key in ways},
            }
            print(label, {key: values["median"] for key, values in results[label]["load_ms"].items()}, flush=True)
    faster = {
        peer: {label: round(ratio(results[label]["load_ms"], peer), 1) for label in NETWORKS} for peer in CANDIDATES[1:]
    }
    return _common.write(
        "loading",
        ["torch", "torchvision", "timm"],
        {
            "networks": results,
            "times_faster": faster,
            "reader_times_faster": {
                label: {
                    "mapped": MAPPED in times and round(times[MAPPED]["median"] / times["vertebra"]["median"], 2),
                    "copied": round(times["torch.load, meta"]["median"] / times["vertebra, copied"]["median"], 2),
                }
                for label, network in results.items()
                for times in [network["load_ms"]]
            },
            "times_faster_geometric_mean": {
                peer: round(statistics.geometric_mean(faster[peer][label] for label in REQUIRED), 1)
                for peer in CANDIDATES[1:]
            },
        },
    )


def ratio(times: dict[str, dict[str, float]], peer: str) -> float:
    return times[peer]["median"] / times["vertebra"]["median"]


def render(document: dict[str, Any]) -> str:
    def milliseconds(values: dict[str, float]) -> str:
        return f"{values['median']:,.0f} ({values['min']:,.0f}–{values['max']:,.0f})"

    rows = []
    names = [name for name in CANDIDATES if name in document["networks"]["VGG-16"]["load_ms"]]
    for label, network in document["networks"].items():
        for what, key in (("load", "load_ms"), ("load + first prediction", "load_and_predict_ms")):
            times = network[key]
            rows.append(
                [
                    f"{label}: {what}",
                    *(milliseconds(times[name]) for name in names),
                    f"**{ratio(times, 'torchvision'):.0f}×**" if ratio(times, "torchvision") >= 10
                    else f"**{ratio(times, 'torchvision'):.1f}×**",
                ]
            )  # fmt: skip
        peaks = [network["peak_memory_mb"][name] for name in names]
        if None not in peaks:
            rows.append([f"{label}: peak memory, MB", *(f"{peak:,.0f}" for peak in peaks), ""])
    mean = document["times_faster_geometric_mean"]["torchvision"]
    n = document["networks"]["VGG-16"]["load_ms"]["vertebra"]["n"]
    return "\n\n".join(
        [
            _common.table(["milliseconds", *names, "than torchvision"], rows),
            f"Median of {n} (least–most), file in the page cache; loading is {mean:.0f}× as fast as torchvision's in "
            f"geometric mean over the first three. {_common.footnote(document)}",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print_memory(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        _common.main("loading", measure, render, N)
