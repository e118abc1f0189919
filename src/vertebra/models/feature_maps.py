"""Feature maps of each resolution, as timm names and numbers them, for any family."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vertebra.errors import UsageError

from .stages import MapEnd, map_ends

if TYPE_CHECKING:
    from .convnet import ConvNet


class FeatureInfo:
    """What the feature maps of a network are: one dict a map, with the keys of timm's `FeatureInfo`.

    `num_chs` is the number of channels, `reduction` the pixels of the input per pixel of the map along each side,
    `module` the path of the last module before it, `index` its number.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = list(info)
        self.out_indices = tuple(out_indices)

    def from_other(self, out_indices: int | Sequence[int]) -> FeatureInfo:
        """The same network's with other output indices."""
        return FeatureInfo(copy.deepcopy(self.info), map_indices(out_indices, len(self.info)))

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """The value of a key for each map that is returned, or for the maps of these numbers."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """The dicts of the maps that are returned, or of those of these numbers, with these keys or all."""
        if isinstance(idx, int):
            found = self.info[idx]
            return found if keys is None else {key: found[key] for key in keys}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of each map that is returned."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Pixels of the input per pixel of each map that is returned, along each side."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Path of the last module before each map that is returned."""
        return self.get("module", idx)

    def __getitem__(self, item: Any) -> Any:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.info)

    def __repr__(self) -> str:
        return (
            f"FeatureInfo(channels={self.channels()}, reduction={self.reduction()}, module_name={self.module_name()})"
        )


def feature_map_ends(network: ConvNet) -> tuple[MapEnd, ...]:
    """The last map of each resolution, before what halves it, and that of the last stage of blocks.

    So are timm's: ResNet's are behind the first ReLU and the four layers, DenseNet's before the transitions, VGG's
    before the poolings and behind the last. The widening 1×1 convolution behind the blocks of MobileNetV2 and
    EfficientNet ("head") is left out. Of a layer that is dilated instead of halved the map is one of its own.
    """
    ends = [end for end in map_ends(network) if end.stage != "head"]
    finer = [end for end, after in itertools.pairwise(ends) if after.is_coarser and end.channels]
    return (*finer, ends[-1])


def feature_info_entries(ends: Sequence[MapEnd]) -> list[dict[str, Any]]:
    """The entries of `FeatureInfo` for these maps."""
    return [
        {"num_chs": end.channels, "reduction": end.reduction, "module": end.modules[-1], "index": index}
        for index, end in enumerate(ends)
    ]


def map_indices(indices: Any, count: int, argument: str = "out_indices") -> tuple[int, ...]:
    """Numbers of maps, in the order in which the network makes them: None is all, an int n the last n.

    Raises:
        UsageError: there is no map of such a number, or none is asked for.
    """
    if isinstance(indices, bool) or not isinstance(indices, int | Sequence | None) or isinstance(indices, str):
        raise UsageError(f"{argument} is {indices!r}; give numbers of feature maps such as (1, 2, 3), or how many.")
    if indices is None:
        return tuple(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise UsageError(f"{argument} is {indices}: the last so many feature maps, of which there are {count}.")
        return tuple(range(count - indices, count))
    absolute = {index + count if index < 0 else index for index in indices}
    if not absolute or not all(0 <= index < count for index in absolute):
        raise UsageError(f"{argument} is {tuple(indices)!r}; there are {count} feature maps, 0 to {count - 1}.")
    return tuple(sorted(absolute))
