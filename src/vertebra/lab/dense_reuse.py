"""What a DenseNet does with its concatenations: what its blocks keep, who reads what, and what a trained one reuses."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.introspect import dense_sources, preserved, weights_by_source, zeroed_source
from vertebra.models import ConvNet

from .charts import grouped_bars
from .fit import evaluate
from .small_data import Images


@dataclass(frozen=True)
class Kept:
    """Maps that a dense block has put together, and where they are equal bit for bit in its output."""

    maps: int  # inputs of blocks, and outputs of their layers
    unchanged: int
    first_channels: int  # with which the first block's output begins as its input does


def kept_maps(network: nn.Module, images: Tensor) -> Kept:
    """Compare each map with its own channels of its block's output, in one forward pass."""
    spans = {pair.source: pair for pair in dense_sources(network)}
    blocks = list(dict.fromkeys(_block(network, source) for source in spans))
    maps: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    modules = dict(network.named_modules())

    def note(found: dict[str, Tensor], path: str, value: Any) -> None:
        tensor = value if isinstance(value, Tensor) else torch.cat(list(value), 1)
        found[path] = tensor.detach().clone()

    with preserved(network) as handles, torch.no_grad():
        for path in spans:
            if path in blocks:
                handles.append(modules[path].register_forward_pre_hook(lambda _, a, path=path: note(maps, path, a[0])))
                handles.append(modules[path].register_forward_hook(lambda _, a, y, path=path: note(outputs, path, y)))
            else:
                handles.append(modules[path].register_forward_hook(lambda _, a, y, path=path: note(maps, path, y)))
        network(images)
    equal = {path: _equal_channels(outputs[_block(network, path)], maps[path], spans[path].start) for path in spans}
    whole = [count == maps[path].shape[1] for path, count in equal.items()]
    return Kept(len(whole), sum(whole), equal[blocks[0]])


def _block(network: nn.Module, source: str) -> str:
    """The path of the dense block that a source belongs to."""
    return source if isinstance(network.get_submodule(source), nn.ModuleDict) else source.rpartition(".")[0]


def _equal_channels(output: Tensor, part: Tensor, start: int) -> int:
    """How many channels of a part are in the output from `start` on, bit for bit."""
    own = output[:, start : start + part.shape[1]]
    return int((own == part).flatten(2).all(2).all(0).sum()) if own.shape == part.shape else 0


def layer_connections(network: nn.Module) -> tuple[int, int]:
    """How many pairs of a map and a later layer are connected by weights, and how many there would be in one block.

    Layers are those of the blocks; the maps are the outputs of the layers before, and the input of a block.
    """
    layers = [pair for pair in weights_by_source(network) if ".conv1" in pair.source.reader]
    count = len({pair.source.reader for pair in layers})
    return sum(pair.mean > 0 for pair in layers), count * (count + 1) // 2


def measure_reuse(network: ConvNet, images: Images) -> dict[str, Any]:
    """Accuracy lost, in points, with each source zeroed for all its readers or for those behind the next; weights.

    Keys are "accuracy" (%), "lost" and "lost_later" by source, and "weights" by reader and source. A source that one
    module alone reads has nothing in "lost_later".
    """

    def accuracy() -> float:
        return evaluate(network, images.val, images.val_labels, images.preprocessing)[1]

    readers: dict[str, list[str]] = {}
    for pair in dense_sources(network):
        readers.setdefault(pair.source, []).append(pair.reader)
    whole, lost, lost_later = accuracy(), {}, {}
    for source, own in readers.items():
        with zeroed_source(network, source):
            lost[source] = 100 * (whole - accuracy())
        if later := own[1:]:
            with zeroed_source(network, source, later):
                lost_later[source] = 100 * (whole - accuracy())
    weights: dict[str, dict[str, float]] = {}
    for weight in weights_by_source(network):
        weights.setdefault(weight.source.reader, {})[weight.source.source] = weight.mean
    return {"accuracy": 100 * whole, "lost": lost, "lost_later": lost_later, "weights": weights}


def mean_lost(lost: Mapping[str, float], kind: str) -> float:
    """The mean over the outputs of layers ("layer"), or over the inputs of blocks ("input")."""
    inputs = {source: source_label(source).startswith("input") for source in lost}
    return statistics.fmean(value for source, value in lost.items() if inputs[source] == (kind == "input"))


def least_on_input(weights: Mapping[str, Mapping[str, float]]) -> float:
    """Share, in %, of the layers behind a transition whose least mean weight is on it (Huang et al. 2017, Fig. 5).

    Layers that read the transition alone do not count, nor do the first block's.
    """
    rows = [row for reader, row in weights.items() if ".conv1" in reader and len(row) > 1]
    first = next(iter(rows[0])) if rows else ""
    behind = [list(row.values()) for row in rows if first not in row]
    return 100 * sum(row[0] == min(row) for row in behind) / len(behind) if behind else float("nan")


def source_label(path: str) -> str:
    """A module of a small DenseNet in few characters: "block 2", "2, layer 3"."""
    *_, last = names = [name for name in path.split(".") if re.search(r"\d$", name) and not name.startswith("conv")]
    numbers = [re.sub(r"\D", "", name) for name in names]
    if len(numbers) == 1:
        return f"{'transition' if 'transition' in last else 'input of block'} {numbers[0]}"
    return f"block {numbers[0]}, layer {numbers[1]}"


def draw_lost(axes: Any, found: Sequence[Mapping[str, Any]]) -> None:
    """Two bars for each source, of what `measure_reuse` found with several seeds."""
    sources = list(found[0]["lost"])
    lost = {
        label: [statistics.fmean(one[key].get(source, math.nan) for one in found) for source in sources]
        for label, key in (("zeroed everywhere", "lost"), ("but in the next layer", "lost_later"))
    }
    grouped_bars(axes, [source_label(source) for source in sources], lost, "validation accuracy lost, points", 7)


def draw_weights(axes: Any, found: Sequence[Mapping[str, Any]]) -> None:
    """Mean absolute weight of each reader (rows) by source (columns), of its largest; the mean over the seeds."""
    weights = [one["weights"] for one in found]
    readers = list(weights[0])
    width = max(len(row) for row in weights[0].values())
    table = [[math.nan] * width for _ in readers]
    for row, reader in enumerate(readers):
        means = [statistics.fmean(one[reader][source] for one in weights) for source in weights[0][reader]]
        table[row][: len(means)] = [mean / max(means) for mean in means]
    axes.imshow(table, aspect="auto", cmap="Blues", vmin=0.5, vmax=1)
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            if not math.isnan(value):
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value > 0.8 else "k"
                )
    axes.set_xticks(range(width), ["input", *map(str, range(1, width))])
    axes.set_yticks(range(len(readers)), [reader_label(reader) for reader in readers], fontsize=8)
    axes.set_xlabel("source: the block's input, or layer")
    axes.grid(visible=False)


def reader_label(path: str) -> str:
    """A reader as `source_label`, or by its own name."""
    return source_label(path) if re.search(r"\d", path.removesuffix(".conv1")) else path
