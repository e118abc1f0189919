"""timm's methods and attributes of a network, with the meaning that they have in timm."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.errors import UsageError

from .feature_maps import FeatureInfo, feature_info_entries, feature_map_ends, map_indices
from .stages import final_map, map_ends

if TYPE_CHECKING:
    from .convnet import ConvNet
    from .published_weights import WeightsEnum

# Attributes of timm's that scripts set, and that are none here → what to write.
_READ_ONLY = {
    "global_pool": "For the last feature map write reset_classifier(0, global_pool=''), and pool it yourself.",
    "drop_rate": "Give create_model drop_rate=…, of a DenseNet dropout=….",
}
_MERGE_WITH_PREVIOUS = 99999  # of a pattern of timm's groups: what it matches is of the group before


class TimmMethods:
    """timm's names for what every `ConvNet` can do."""

    _global_pool: str
    _head_dropout = 0.0  # before the classifier, where the family has no module for it
    _feature_info: FeatureInfo | None = None  # of a network that returns feature maps
    kept_maps: tuple[str, ...] = ()  # of `forward_maps`, the maps that such a network returns
    _default: tuple[str, WeightsEnum] | None = None  # the network's name and its default weights

    def _network(self) -> ConvNet:
        return cast("ConvNet", self)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and module of each feature map: one a resolution, as timm counts them."""
        if self._feature_info is not None:
            return self._feature_info
        ends = feature_map_ends(self._network())
        return FeatureInfo(feature_info_entries(ends), range(len(ends)))

    @property
    def num_features(self) -> int:
        """Channels of `forward_features`."""
        return self._network().stages[-1].channels

    @property
    def head_hidden_size(self) -> int:
        """Width of the classifier's input: 4096 in VGG, elsewhere `num_features`."""
        network = self._network()
        classifier = network.get_classifier()
        if isinstance(classifier, nn.Linear):
            return classifier.in_features
        before = [layer for layer in network.head_module.modules() if isinstance(layer, nn.Linear)]
        return before[-1].out_features if before else self.num_features

    @property
    def in_chans(self) -> int:
        """`in_channels`."""
        return self._network().in_channels

    @property
    def global_pool(self) -> Callable[[Tensor], Tensor]:
        """`pool`, or with `global_pool=""` a function that returns its argument."""
        return self._network().pool if self._global_pool else nn.Identity()

    @property
    def drop_rate(self) -> float:
        """Probability to drop a value before the classifier."""
        network = self._network()
        head = getattr(network, network.head_name, None)
        layers = [*(() if head is None else head.modules()), getattr(network, "dropout", None)]
        found = [layer.p for layer in layers if isinstance(layer, nn.Dropout)]
        return found[-1] if found else self._head_dropout

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _READ_ONLY:  # nothing here would read it
            raise UsageError(f"{name} cannot be set to {value!r} here. {_READ_ONLY[name]}")
        super().__setattr__(name, value)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """`set_activation_checkpointing`."""
        self._network().set_activation_checkpointing(enable)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """(N, in_channels, H, W) → `forward_features(x)` and the feature maps that `feature_info` numbers.

        Args:
            x: images.
            indices: numbers of maps, negative ones from the end; an int n is the last n, None all.
            norm: without effect, as in timm: no family has a norm that could follow another map than the last.
            stop_early: do not run what comes behind the last map that is asked for, which is then the first result.
            output_fmt: "NCHW".
            intermediates_only: return the maps alone.

        Raises:
            UsageError: a number or format that there is not.
        """
        network = self._network()
        network._check_head("forward_intermediates")
        if output_fmt != "NCHW":
            raise UsageError(f"output_fmt is {output_fmt!r}; maps are 'NCHW'. Write x.permute(0, 2, 3, 1) for NHWC.")
        ends = feature_map_ends(network)
        take = map_indices(indices, len(ends), "indices")
        names = [ends[index].name for index in take]
        if (not stop_early or take[-1] == len(ends) - 1) and (final := final_map(network)) not in names:
            names.append(final)
        maps = list(network.maps_at(network.prepare_input(x), *names))
        last, maps = maps[-1], maps[: len(take)]
        return maps if intermediates_only else (last, maps)

    def _keep_maps(self, out_indices: int | Sequence[int] | None) -> None:
        """Become a network that returns these feature maps: what none of them needs is removed."""
        network = self._network()
        ends = feature_map_ends(network)
        take = map_indices(out_indices, len(ends))
        paths: list[str] = []
        count = 0
        for end in map_ends(network):
            paths += end.modules
            if end.name == ends[take[-1]].name:
                count = len(paths)
        network.reset_classifier(0)  # GoogLeNet's auxiliary classifiers go too
        self._feature_info = FeatureInfo(feature_info_entries(ends), take)
        self.kept_maps = tuple(ends[index].name for index in take)
        for path in paths[count:]:
            parent, _, name = path.rpartition(".")
            delattr(network.get_submodule(parent), name)
        for name, _ in list(network.named_children()):
            if not any(f"{path}.".startswith(f"{name}.") for path in paths[:count]):
                delattr(network, name)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names, from the first layers to the last: one a stage, or one a block.

        `timm.optim.param_groups_layer_decay` and `timm.models.group_parameters` read it; the classifier comes last.
        """
        network = self._network()
        patterns: dict[str, Any] = {}
        for number, stage in enumerate(network.stages):
            whole = rf"^(?:{'|'.join(map(re.escape, stage.modules))})\."
            if stage.name == "head":  # with the last block, which timm writes so
                last, pattern = patterns.popitem()
                patterns[last] = [(pattern, None), (whole, (_MERGE_WITH_PREVIOUS,))]
                continue
            if coarse or number == 0:
                patterns[stage.name] = whole
                continue
            for path in stage.modules:
                module = network.get_submodule(path)
                blocks = isinstance(module, nn.Sequential | nn.ModuleDict)
                blocks = blocks and any(any(child.children()) for child in module.children())
                patterns[path] = rf"^{re.escape(path)}\." + (r"\D*(\d+)\." if blocks else "")
        return patterns

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """How images are prepared, as a dict with timm's keys, which `timm.data.resolve_data_config` reads.

        It is that of the weights that the network was built with; without, and with a file that does not say, that of
        the default weights. A network that was built by its class has none, and no such attribute.
        """
        if self._default is None:
            raise AttributeError("pretrained_cfg: the network was not built by its name")
        network = self._network()
        name, default = self._default
        origin = network.origin
        member = default if origin is None or origin.weights is None else origin.weights
        card = None if origin is None else origin.card
        preprocessing = member.preprocessing if card is None else card.preprocessing
        size = preprocessing.crop_size
        side = -(-size // network.stages[-1].stride)
        found = {
            "architecture": name,
            "tag": member.name if card is None else None,
            "url": member.url if card is None else None,
            "input_size": (len(preprocessing.mean), size, size),
            "fixed_input_size": False,
            "interpolation": preprocessing.interpolation,
            "crop_pct": size / preprocessing.resize_size,
            "crop_mode": preprocessing.crop_mode,
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "pool_size": (side, side),  # of the last feature map; fastai reads it and pools the maps itself
            "first_conv": network.stem_path,
        }
        if self._feature_info is None:
            head = network.head_module
            last = f".{len(head) - 1}" if isinstance(head, nn.Sequential) else ""
            classes = member.meta["categories"] if card is None else card.classes
            found |= {"num_classes": len(classes or ()), "classifier": network.head_name + last}
        return found

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg`."""
        return self.pretrained_cfg


def unpooled_head(network: ConvNet, features: Tensor) -> Tensor:
    """The last feature map (N, C, H, W) → what the head makes of it without pooling.

    That is the map itself, but in VGG, whose fully connected layers are run as convolutions as in timm: (N, 4096, H',
    W'), where a map of up to 7 × 7 becomes 1 × 1.
    """
    head = network.head_module
    layers = list(head)[:-1] if isinstance(head, nn.Sequential) else []
    if not any(isinstance(layer, nn.Linear) for layer in layers):
        return F.dropout(features, network._head_dropout, network.training) if network._head_dropout else features
    for layer in layers:
        if isinstance(layer, nn.Linear):
            side = round((layer.in_features // features.shape[1]) ** 0.5)
            if min(features.shape[2:]) < side:
                height, width = (max(side, length) for length in features.shape[2:])
                features = F.adaptive_avg_pool2d(features, (height, width))
            kernel = layer.weight.view(layer.out_features, features.shape[1], side, side)
            features = F.conv2d(features, kernel, layer.bias)
        else:
            features = layer(features)
    return features
