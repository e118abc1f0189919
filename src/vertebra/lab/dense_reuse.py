"""What a DenseNet does with its concatenations: what its blocks keep, who reads what, and what a trained one reuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.introspect import dense_sources, preserved, weights_by_source, zeroed_source
from vertebra.models import ConvNet

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
    """Accuracy as it is and with each source zeroed in all its readers, or in those beyond the next; and weights."""

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


def least_on_input(weights: Mapping[str, Mapping[str, float]]) -> float:
    """Share, in %, of the layers behind a transition whose least mean weight is on it (Huang et al. 2017, Fig. 5).

    Layers that read the transition alone do not count, nor do the first block's.
    """
    rows = [row for reader, row in weights.items() if ".conv1" in reader and len(row) > 1]
    first = next(iter(rows[0])) if rows else ""
    behind = [list(row.values()) for row in rows if first not in row]
    return 100 * sum(row[0] == min(row) for row in behind) / len(behind) if behind else float("nan")
