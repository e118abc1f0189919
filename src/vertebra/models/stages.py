"""The stages of a network, read off its `forward_maps`: which modules run in each, its channels and its stride."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from .convnet import ConvNet

Layers = tuple[Callable[[Tensor], Tensor], ...]


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table: modules that run one after the other."""

    name: str
    modules: tuple[str, ...]  # paths inside the network
    channels: int  # of the output
    stride: int  # pixels of the input per pixel of the output, along each side

    @property
    def module(self) -> str:
        """Path of the last module: a forward hook on it gets the stage's output (DenseNet's last before its ReLU)."""
        return self.modules[-1]


@dataclass(frozen=True)
class MapEnd:
    """What `forward_maps` runs for one of its maps, and what that map is."""

    name: str
    modules: tuple[str, ...]  # paths of what runs after the map before
    channels: int
    reduction: int  # pixels of the input per pixel of the map, along each side
    is_coarser: bool  # than the map before, or dilated where it would be

    @property
    def stage(self) -> str:
        """The stage that it is in: "stem" of "stem.relu"."""
        return self.name.partition(".")[0]


def run_in_sequence(x: Tensor, *layers: Callable[[Tensor], Tensor]) -> Tensor:
    """Run layers one after the other."""
    for layer in layers:
        x = layer(x)
    return x


def recorded_layers(network: ConvNet) -> Iterator[tuple[str, Layers]]:
    """The names of `forward_maps`, and what runs for each, which is recorded here and not run."""

    def record(before: Any, *layers: Any) -> Any:
        return before + layers

    done = 0
    nothing: Any = ()
    found: Any
    for name, found in network.forward_maps(nothing, record):
        yield name, found[done:]
        if name in network.kept_maps[-1:]:  # what is behind it was removed
            return
        done = len(found)


def final_map(network: ConvNet) -> str:
    """The name of the last map, which `forward_features` returns."""
    *_, (name, _) = recorded_layers(network)
    return name


def map_ends(network: ConvNet) -> list[MapEnd]:
    """All maps of `forward_maps` in turn."""
    paths = {module: path for path, module in network.named_modules()}
    ends: list[MapEnd] = []
    channels, reduction = 0, 1
    for name, layers in recorded_layers(network):
        modules = [layer for layer in layers if isinstance(layer, nn.Module)]
        is_coarser = False
        for module in modules:
            stride, dilated = _stride(module)
            is_coarser = is_coarser or stride > 1 or dilated
            reduction *= stride
            channels = _channels(module) or channels
        if modules:
            ends.append(MapEnd(name, tuple(paths[m] for m in modules), channels, reduction, is_coarser))
    return ends


def stages_of(network: ConvNet) -> tuple[Stage, ...]:
    """The stages in order."""
    stages: dict[str, Stage] = {}
    for end in map_ends(network):
        before = stages[end.stage].modules if end.stage in stages else ()
        stages[end.stage] = Stage(end.stage, before + end.modules, end.channels, end.reduction)
    return tuple(stages.values())


def _stride(module: nn.Module) -> tuple[int, bool]:
    """The stride of a module of a stage, none of which halves twice, and whether it is dilated instead."""
    stride, dilated = 1, False
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            stride = max(stride, layer.stride if isinstance(layer.stride, int) else layer.stride[0])
        if isinstance(layer, nn.Conv2d):
            dilated = dilated or layer.dilation[0] > 1
    return stride, dilated


def _channels(module: nn.Module) -> int:
    """Channels of a module's output: what it says itself, else those of its last convolution; 0 where it has none."""
    if isinstance(said := getattr(module, "out_channels", None), int):
        return said
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return convolutions[-1].out_channels if convolutions else 0
