"""What the layers of a DenseNet read: weights by source, and the network with one source left out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from vertebra.errors import UsageError, suggest

from .channels import zeroed_range


@dataclass(frozen=True)
class DenseSource:
    """One of the maps that a layer of a dense block reads: a range of channels of a concatenation."""

    reader: str  # path of the convolution or linear layer
    source: str  # path of the module that made the channels; the block's own path for the block's input
    start: int
    stop: int  # the channel after the last


@dataclass(frozen=True)
class SourceWeight:
    """The mean absolute weight with which a layer reads a source (Huang et al. 2017, Fig. 5)."""

    source: DenseSource
    mean: float


def dense_sources(network: nn.Module) -> tuple[DenseSource, ...]:
    """Each pair of a reader and a source of the dense blocks: layers, transitions and the classifier behind the last.

    Recognised is a `ModuleDict` of layers whose `conv1` reads as many more channels from layer to layer as the one
    before made: DenseNets here, of torchvision and of timm. What reads a whole block is the first convolution or linear
    layer behind it of that many channels.

    Raises:
        UsageError: there is no dense block.
    """
    found: list[DenseSource] = []
    modules = dict(network.named_modules())
    for path, module in modules.items():
        layers = _dense_layers(module)
        if not layers:
            continue
        stops = [layers[0].reads, *(layer.reads + layer.makes for layer in layers)]
        sources = [path, *(f"{path}.{layer.name}" for layer in layers)]
        spans = list(zip(sources, [0, *stops], stops, strict=False))
        readers = {f"{path}.{layer.name}.conv1": layer.reads for layer in layers}
        behind = list(modules)[list(modules).index(sources[-1]) :]
        outer = (name for name in behind if not name.startswith(f"{path}.") and _reads(modules[name]) == stops[-1])
        readers |= dict.fromkeys(itertools.islice(outer, 1), stops[-1])
        found += [
            DenseSource(reader, source, start, stop)
            for reader, count in readers.items()
            for source, start, stop in spans
            if stop <= count
        ]
    if not found:
        raise UsageError(
            f"this {type(network).__name__} has no dense block, whose layers read the concatenation of all before. "
            "densenet121, 161, 169 and 201 have."
        )
    return tuple(found)


def weights_by_source(network: nn.Module) -> tuple[SourceWeight, ...]:
    """The mean absolute weight of each pair of `dense_sources`. Only of trained networks does it mean anything."""
    modules = dict(network.named_modules())
    return tuple(SourceWeight(pair, _mean_weight(modules[pair.reader], pair)) for pair in dense_sources(network))


@contextlib.contextmanager
def zeroed_source(network: nn.Module, source: str, readers: Iterable[str] | None = None) -> Iterator[None]:
    """Within the block these readers, or all, get zeros for what one source has made, behind their norm and ReLU.

    Raises:
        UsageError: there is no such source, or a reader does not read it.
    """
    pairs = {pair.reader: pair for pair in dense_sources(network) if pair.source == source}
    if not pairs:
        known = {pair.source for pair in dense_sources(network)}
        raise UsageError(f"source is {source!r}, which no layer reads. {suggest(source, known)}")
    wanted = list(pairs) if readers is None else list(readers)
    if unknown := [reader for reader in wanted if reader not in pairs]:
        raise UsageError(f"{unknown[0]!r} does not read {source!r}. {suggest(unknown[0], pairs)}")
    with contextlib.ExitStack() as stack:
        for reader in wanted:
            stack.enter_context(zeroed_range(network, reader, pairs[reader].start, pairs[reader].stop))
        yield


class _DenseLayer(NamedTuple):
    name: str
    reads: int  # channels
    makes: int


def _dense_layers(module: nn.Module) -> list[_DenseLayer]:
    """The layers of a dense block; none if it is another module."""
    if not isinstance(module, nn.ModuleDict) or len(module) < 2:
        return []
    found = []
    for name, layer in module.items():
        first, last = getattr(layer, "conv1", None), getattr(layer, "conv2", None)
        if not isinstance(first, nn.Conv2d) or not isinstance(last, nn.Conv2d):
            return []
        found.append(_DenseLayer(name, first.in_channels, last.out_channels))
    grows = all(one.reads + one.makes == other.reads for one, other in itertools.pairwise(found))
    return found if grows else []


def _reads(module: nn.Module) -> int:
    if isinstance(module, nn.Conv2d):
        return module.in_channels
    return module.in_features if isinstance(module, nn.Linear) else 0


def _mean_weight(layer: nn.Module, pair: DenseSource) -> float:
    weight: Tensor = layer.get_parameter("weight").detach()
    return float(weight[:, pair.start : pair.stop].abs().mean())
