"""Draw the figures of the chapter on bytes from devices.toml and bench/results: `python docs/make_rooflines.py`.

`docs/book/plots/rooflines.svg`, the rooflines of a phone and of an H100 with the intensities of six networks, and
`predicted.svg`, predicted beside measured times; `NAME.ja.svg` in Japanese.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vertebra
from vertebra.anatomy.roofline import find_device
from vertebra.lab.charts import BLUE, COLORS, ORANGE
from vertebra.lab.picture import file_of, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
FOLDER = DOCS / "book" / "plots"
MEASURED = DOCS.parent / "bench" / "results" / "roofline.json"
DEVICES = {"phone": ORANGE, "h100": BLUE}
NETWORKS = {
    "efficientnet_b0": "EfficientNet-B0",
    "mobilenet_v2": "MobileNetV2",
    "densenet121": "DenseNet-121",
    "googlenet": "GoogLeNet",
    "resnet50": "ResNet-50",
    "vgg16": "VGG-16",
}
BATCH, DTYPE = 16, "float32"
LANGUAGES = ("en", "ja")
JAPANESE = {
    "phone": "スマートフォン",
    "h100": "H100",
    "FLOPs per byte": "1バイトあたりのFLOPs",
    "TFLOP/s": "TFLOP/s",
    "memory-bound": "メモリ律速",
    "compute-bound": "演算律速",
    "measured, ms": "測定値 (ms)",
    "predicted, ms": "予測値 (ms)",
    "onnxruntime": "ONNX Runtime",
    "torch": "torch",
}
ENGLISH = {"h100": "H100", "onnxruntime": "ONNX Runtime"}


def word(text: str, language: str) -> str:
    """A text of the figures in a language."""
    return JAPANESE[text] if language == "ja" else ENGLISH.get(text, text)


def intensities() -> dict[str, float]:
    """FLOPs per byte of each network's fused kernels together, in a batch of `BATCH`."""
    found = {}
    for name in NETWORKS:
        kernels = [kernel for kernel, _ in vertebra.inspect(name, 224, BATCH).latency("h100").kernels]
        found[name] = sum(kernel.operations for kernel in kernels) / sum(kernel.bytes for kernel in kernels)
    return found


def draw_rooflines(canvas: Figure, language: str, places: Mapping[str, float] | None = None) -> None:
    """Attainable FLOP/s over FLOPs per byte; `places` has those of the networks."""
    places = intensities() if places is None else places
    axes = canvas.subplots()
    low, high = 1.0, 1000.0
    for key, color in DEVICES.items():
        device = find_device(key)
        peak, bandwidth = device.matrix[DTYPE] / 1e12, device.bandwidth / 1e12
        ridge = peak / bandwidth
        axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color=color, linewidth=2)
        axes.plot([ridge], [peak], "o", color=color)
        axes.annotate(word(key, language), (high, peak), (0, 5), textcoords="offset points", ha="right", color=color)
        for text, side, align in (("memory-bound", -8, "right"), ("compute-bound", 8, "left")):
            at = (side, -14) if align == "left" else (side, 2)
            axes.annotate(
                word(text, language), (ridge, peak), at, textcoords="offset points", ha=align, fontsize=8, color="0.4"
            )
        for place in places.values():
            axes.plot([place], [min(peak, place * bandwidth)], "|", color=color, markersize=9, markeredgewidth=2)
    for name, place in places.items():
        axes.axvline(place, color="0.75", linewidth=1, zorder=0)
        axes.annotate(
            NETWORKS[name], (place, 0.005), (2, 0), textcoords="offset points", rotation=90, fontsize=8, va="bottom"
        )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(0.004, 1500))
    axes.set(xlabel=word("FLOPs per byte", language), ylabel=word("TFLOP/s", language))
    plain_ticks(axes)


def plain_ticks(axes: Any) -> None:
    """Powers of ten as numbers, and no others."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")


def draw_predicted(canvas: Figure, language: str) -> None:
    """Predicted over measured times of all networks, one panel an executor."""
    executors: Mapping[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))["executors"]
    for axes, (executor, found) in zip(canvas.subplots(1, len(executors)), executors.items(), strict=True):
        families: dict[str, list[tuple[float, float]]] = {}
        for network in found["networks"].values():
            families.setdefault(network["family"], []).append((network["measured_ms"], network["predicted_ms"]))
        times = [time for points in families.values() for point in points for time in point]
        ends = (0.8 * min(times), 1.25 * max(times))
        axes.plot(ends, ends, color="0.5", linewidth=1)
        for (family, points), color in zip(families.items(), COLORS, strict=False):
            axes.plot(*zip(*points, strict=True), "o", color=color, label=family, markersize=4)
        axes.set(xscale="log", yscale="log", title=word(executor, language), aspect="equal", xlim=ends, ylim=ends)
        axes.set(xlabel=word("measured, ms", language), ylabel=word("predicted, ms", language))
        plain_ticks(axes)
    canvas.axes[0].legend(fontsize=8)


FIGURES: dict[str, tuple[Callable[[Figure, str], None], tuple[float, float]]] = {
    "rooflines": (draw_rooflines, (7, 4.4)),
    "predicted": (draw_predicted, (7, 3.6)),
}


def svg(name: str, language: str) -> str:
    """A figure in a language."""
    from matplotlib.figure import Figure

    draw, size = FIGURES[name]
    with style("en"):  # the viewer's own fonts have the Japanese letters
        canvas = Figure(figsize=size, dpi=100, layout="constrained")
        draw(canvas, language)
        return file_of(canvas, "svg").decode()


def main() -> None:
    """Write them."""
    for name in FIGURES:
        for language in LANGUAGES:
            path = FOLDER / (f"{name}.svg" if language == "en" else f"{name}.{language}.svg")
            path.write_text(svg(name, language), encoding="utf-8")


if __name__ == "__main__":
    main()
