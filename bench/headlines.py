"""The five figures at the top of the README, made from the results of other benchmarks; nothing is measured here."""

from __future__ import annotations

import _common

PAGE = "docs/benchmarks.md"


def render() -> str:
    """A table: what was measured, Vertebra, its peer, and the section of the benchmarks page with the method."""
    cold = _common.read("coldstart")["rows"]["resnet50"]
    loading = _common.read("loading")["networks"]["ResNet-50"]["load_ms"]
    folder = _common.read("folder")
    runs = {name: run["images_per_second"]["median"] for name, run in folder["runs"].items()}
    caltech = _common.read("caltech")["rows"]
    roofline = _common.read("roofline")["executors"]["onnxruntime"]
    ours, peer = caltech["probe"], caltech["timm"]
    rows = [
        (
            "One photo, whole process, ResNet-50",
            f"{cold['vertebra']['seconds']['median']:.2f} s",
            f"torchvision script: {cold['torchvision']['seconds']['median']:.2f} s",
            "one-photo-from-a-cold-start",
        ),
        (
            "Build ResNet-50 and load its weights",
            f"{loading['vertebra']['median']:.0f} ms",
            f"torchvision: {loading['torchvision']['median']:.0f} ms",
            "loading",
        ),
        (
            f"Predict {folder['photos']:,} JPEGs, EfficientNet-Lite0, `vertebra[kernels]`",
            f"{runs['float32']:.0f} images/s",
            f"torch + DataLoader: {runs['torch']:.0f} images/s",
            "a-folder-of-photos",
        ),
        (
            f"Train on Caltech-101 (linear probe), top-1 on {ours['n']:,} held-out photos",
            f"{ours['wall_seconds']:.0f} s, {100 * ours['top1']:.1f} %",
            f"timm, fine-tuning, {peer['epochs']} epochs: {peer['wall_seconds']:.0f} s, {100 * peer['top1']:.1f} %",
            "time-to-accuracy",
        ),
        (
            f"Predict the latency of {len(roofline['networks'])} networks without running them",
            f"median error {roofline['median_error']:.1%}",
            "",
            "predicted-latency",
        ),
    ]
    where = _common.read("coldstart")["machine"]
    cells = [(f"[{what}]({PAGE}#{anchor})", f"**{vertebra}**", other) for what, vertebra, other, anchor in rows]
    return (
        f"{_common.table(('measured', 'Vertebra', 'peer'), cells)}\n\n"
        f"{where['processor']}, {where['cores']} cores, no GPU; each line leads to its method."
    )


if __name__ == "__main__":
    text = render()
    _common.publish("headlines", text)
    print(text)
