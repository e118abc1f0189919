"""timm's spellings: its arguments of `create_model`, its methods of a network.

What they mean here is what they mean in timm. What is not taken over is refused, with what to write instead.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.errors import UsageError, warn

from .feature_maps import FeatureInfo, MapEnd, map_ends, map_indices, stage_modules

if TYPE_CHECKING:
    from .convnet import ConvNet
    from .published_weights import WeightsEnum

# --- arguments --------------------------------------------------------------------------------------------------------

_TO_DEVICE = "Write create_model(…).to(device, dtype)."
_FIXED_LAYER = "The families' layers are those of the published weights; replace modules of the network instead."
# Arguments of timm's that are not taken over → what to write.
_REFUSED = {
    "pretrained_cfg": "Give the weights as weights='IMAGENET1K_V1' or weights=PATH, the preprocessing to export().",
    "pretrained_cfg_overlay": "Give a file as weights=PATH.",
    "cache_dir": "Set TORCH_HOME to the folder that is to hold downloaded weights.",
    "scriptable": "TorchScript is not supported; write torch.export.export(network, (x,)) or torch.compile(network).",
    "exportable": "Every network can be exported as it is: vertebra.export(network, …) or torch.export.",
    "no_jit": "Nothing is compiled by TorchScript here; leave it out.",
    "act_layer": _FIXED_LAYER,
    "aa_layer": _FIXED_LAYER,
    "se_layer": _FIXED_LAYER,
    "attn_layer": _FIXED_LAYER,
    "bn_eps": "Set `eps` of the network's nn.BatchNorm2d modules, or give norm_layer where the family takes one.",
    "bn_momentum": "Set `momentum` of the network's nn.BatchNorm2d modules.",
    "bn_tf": "Set `eps` and `momentum` of the network's nn.BatchNorm2d modules.",
    "drop_block_rate": "DropBlock is not here; dropout before the classifier is drop_rate.",
    "img_size": "The networks take any size from `network.min_size` pixels on; leave it out.",
    "block_args": "Build the network by its class, for example vertebra.models.ResNet(block, layers).",
    "feature_cls": "Feature maps come as a list; for a dict write dict(zip(names, network(x))).",
    "feature_cfg": "Write out_indices=….",
    "out_map": "Feature maps come as a list; for a dict write dict(zip(names, network(x))).",
    "output_fmt": "Feature maps are (N, C, H, W); for (N, H, W, C) write x.permute(0, 2, 3, 1).",
    "device": _TO_DEVICE,
    "dtype": _TO_DEVICE,
    "cardinality": "Write groups=….",
    "base_width": "Write width_per_group=….",
    "zero_init_last": "Write zero_init_residual=….",
    "stem_type": _FIXED_LAYER,
    "stem_width": _FIXED_LAYER,
    "avg_down": _FIXED_LAYER,
}
_NO_NORM_LAYER = ("vgg", "googlenet", "densenet")
_WITH_DROPOUT = ("vgg", "googlenet", "mobilenetv2", "efficientnet")  # a module of theirs before the classifier
_DILATION = {32: None, 16: (False, False, True), 8: (False, True, True)}  # of ResNet, by output_stride
_POOLINGS = ("avg", "")
# Attributes of timm's that scripts set, and that are none here → what to write.
_SET_OTHERWISE = {
    "global_pool": "For the last feature map write reset_classifier(0, global_pool=''), and pool it yourself.",
    "drop_rate": "Give create_model drop_rate=…, of a DenseNet dropout=….",
}
_WITH_PREVIOUS = 99999  # of a pattern of timm's groups: what it matches is of the group before


@dataclass(frozen=True)
class HeadRequest:
    """What timm's arguments ask of the head of a network that is built."""

    classifier: bool = True
    global_pool: str = "avg"
    dropout: float = 0.0
    out_indices: tuple[int, ...] | int | None = None
    features_only: bool = False

    def applied_to(self, network: ConvNet) -> ConvNet:
        """The same network, changed."""
        network._head_dropout = self.dropout
        if self.features_only:
            network._keep_maps(self.out_indices)
        elif not self.classifier:
            network.reset_classifier(0, self.global_pool)
        return network


def translated(name: str, family: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], HeadRequest]:
    """timm's arguments of a builder → the builder's, and what is left to do with the head.

    Arguments of timm's that are None or False are what is done anyway, as in timm.

    Raises:
        UsageError: an argument that is not taken over, or a value that is not allowed; says what to write.
    """
    options = dict(given)
    for key in [key for key in options if key in _REFUSED and (options[key] is None or options[key] is False)]:
        del options[key]
    refused = next((key for key in options if key in _REFUSED), None)
    if refused is not None:
        raise UsageError(f"{name} takes no {refused}={options[refused]!r}. {_REFUSED[refused]}")
    if options.get("norm_layer") is not None and (family in _NO_NORM_LAYER or not callable(options["norm_layer"])):
        advice = "give a class or function that makes a layer of a number of channels, for example nn.BatchNorm2d."
        if family in _NO_NORM_LAYER:
            advice = "its layers are those of the published weights; resnet, mobilenetv2 and efficientnet take one."
        raise UsageError(f"{name} takes no norm_layer={options['norm_layer']!r}: {advice}")
    _rename(name, options, "in_chans", "in_channels", neutral=3)
    _rename(name, options, "checkpoint_path", "weights", neutral="")
    _translate_drops(name, family, options)
    _translate_output_stride(name, family, options)
    return options, _head_request(name, family, options)


def _rename(name: str, options: dict[str, Any], theirs: str, ours: str, neutral: Any) -> None:
    value = options.pop(theirs, None)
    if value is None or value == neutral:
        return
    if options.get(ours) is not None:
        raise UsageError(f"{name} got {ours}={options[ours]!r} and {theirs}={value!r}, which are the same. Give one.")
    options[ours] = value


def _translate_drops(name: str, family: str, options: dict[str, Any]) -> None:
    for key in ("drop_rate", "drop_path_rate", "proj_drop_rate"):
        value = options.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise UsageError(f"{key} is {value!r}; it must be a probability, between 0 and 1.")
    if family == "densenet":  # torchvision's drop_rate is in each layer of a block, which timm calls proj_drop_rate
        _rename(name, options, "proj_drop_rate", "drop_rate", neutral=None)
        if "drop_rate" in options and options["drop_rate"] is None:
            del options["drop_rate"]
    else:
        _rename(name, options, "drop_rate", "dropout", neutral=None)
    if family == "efficientnet":
        _rename(name, options, "drop_path_rate", "stochastic_depth_prob", neutral=None)
    elif depth := options.pop("drop_path_rate", None):
        raise UsageError(
            f"{name} has no stochastic depth, and drop_path_rate is {depth!r}. Leave it out; efficientnet has it, and "
            "drop_rate is dropout before the classifier of any network."
        )


def _translate_output_stride(name: str, family: str, options: dict[str, Any]) -> None:
    stride = options.pop("output_stride", None)
    if stride is None or stride == 32:
        return
    if family != "resnet" or stride not in _DILATION:
        raise UsageError(
            f"{name} takes no output_stride={stride!r}: only ResNets can be dilated, to 8 or 16. Write "
            "create_model('resnet50', output_stride=8), or leave it out for 32."
        )
    options["replace_stride_with_dilation"] = _DILATION[stride]


def _head_request(name: str, family: str, options: dict[str, Any]) -> HeadRequest:
    features_only = bool(options.pop("features_only", False))
    out_indices = options.pop("out_indices", None)
    pooling = options.pop("global_pool", None)
    dropout = 0.0 if family in _WITH_DROPOUT else options.pop("dropout", None) or 0.0
    classes = options.get("num_classes")
    headless = is_zero(classes)
    if out_indices is not None and not features_only:
        raise UsageError(f"{name} got out_indices={out_indices!r} without features_only=True, which makes it a list.")
    if features_only:
        if (classes is not None and not headless) or pooling not in (None, "", "avg"):
            what = f"num_classes={classes!r}" if classes is not None and not headless else f"global_pool={pooling!r}"
            warn(f"{name} with features_only=True returns feature maps and has no classifier: {what} is not used.")
        options.pop("num_classes", None)
        return HeadRequest(False, "", dropout, out_indices, features_only=True)
    pooling = checked_pooling(pooling)
    if not pooling and not headless:
        raise UsageError(_unpooled_classifier(classes))
    if headless:
        del options["num_classes"]
    return HeadRequest(not headless, pooling, dropout)


def is_zero(num_classes: Any) -> bool:
    """Whether it says that there is to be no classifier."""
    return not isinstance(num_classes, bool) and hasattr(num_classes, "__index__") and operator.index(num_classes) == 0


def _unpooled_classifier(classes: Any) -> str:
    return (
        f"global_pool='' leaves feature maps as they are, and a linear classifier (num_classes={classes!r}) takes no "
        "maps. Write num_classes=0, global_pool='' for the maps, or global_pool='avg'."
    )


def checked_pooling(pooling: Any) -> str:
    """The pooling; None is "avg".

    Raises:
        UsageError: it is another of timm's poolings.
    """
    if pooling is None:
        return "avg"
    if pooling not in _POOLINGS:
        raise UsageError(
            f"global_pool is {pooling!r}; here it is 'avg' or ''. For another pooling build with num_classes=0, "
            "global_pool='' and pool the maps yourself, for example x.amax((2, 3))."
        )
    return str(pooling)


# --- methods ----------------------------------------------------------------------------------------------------------


class NoClassifier(nn.Identity):
    """In the place of a classifier that was left out: what the classifier would see comes out."""

    out_features = 0


class TimmMethods:
    """timm's names for what every `ConvNet` can do."""

    _global_pool = "avg"  # "": the last feature map is not pooled, and there is no classifier
    _head_dropout = 0.0  # before the classifier, where the family has no module for it
    _feature_info: FeatureInfo | None = None  # of a network that returns feature maps
    _map_ends: tuple[MapEnd, ...] | None = None
    _whole = True  # whether the last stages are there
    _default: tuple[str, WeightsEnum] | None = None  # the network's name and its default weights

    def _network(self) -> ConvNet:
        return cast("ConvNet", self)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and module of each feature map: one a resolution, as timm counts them."""
        if self._feature_info is not None:
            return self._feature_info
        ends = self._ends()
        return FeatureInfo([end.as_dict(i) for i, end in enumerate(ends)], range(len(ends)))

    def _ends(self) -> tuple[MapEnd, ...]:
        if self._map_ends is None:
            self._map_ends = map_ends(self._network())
        return self._map_ends

    @property
    def num_features(self) -> int:
        """Channels of `forward_features`."""
        return self._network().stages[-1].channels

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier takes: 4096 in VGG, elsewhere `num_features`."""
        network = self._network()
        classifier = network.get_classifier()
        if isinstance(classifier, nn.Linear):
            return classifier.in_features
        head = getattr(network, network._head)
        before = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
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
        head = getattr(network, network._head, None)
        layers = [*(() if head is None else head.modules()), getattr(network, "dropout", None)]
        found = [layer.p for layer in layers if isinstance(layer, nn.Dropout)]
        return found[-1] if found else self._head_dropout

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SET_OTHERWISE:  # nothing here would read it
            raise UsageError(f"{name} cannot be set to {value!r} here. {_SET_OTHERWISE[name]}")
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
        take = map_indices(indices, len(self._ends()), "indices")
        last, maps = self._run_maps(x, take, to_end=not stop_early or take[-1] == len(self._ends()) - 1)
        return maps if intermediates_only else (last, maps)

    def _run_maps(self, x: Tensor, take: Sequence[int], *, to_end: bool) -> tuple[Tensor, list[Tensor]]:
        """What runs last, and the maps of these numbers, which ascend."""
        network = self._network()
        x = network._prepare(x)
        paths, done, maps = stage_modules(network), 0, []
        for index, end in enumerate(self._ends()):
            if index > take[-1] and not to_end:
                break
            x = network._run(x, paths[done : end.count])
            done = end.count
            if done == len(paths) and self._whole:
                x = network._finish(x)
            if index in take:
                maps.append(x)
        if to_end and done < len(paths):
            x = network._finish(network._run(x, paths[done:]))
        return x, maps

    def _keep_maps(self, out_indices: int | Sequence[int] | None) -> None:
        """Become a network that returns these feature maps: what none of them needs is removed."""
        network = self._network()
        ends = map_ends(network)
        take = map_indices(out_indices, len(ends))
        last = ends[take[-1]]
        network.reset_classifier(0)  # GoogLeNet's auxiliary classifiers go too
        self._feature_info = FeatureInfo([end.as_dict(i) for i, end in enumerate(ends)], take)
        self._map_ends = ends[: take[-1] + 1]
        self._whole = last is ends[-1]
        paths = stage_modules(network)
        kept = paths[: last.count]
        for path in paths[last.count :]:
            parent, _, name = path.rpartition(".")
            delattr(network.get_submodule(parent), name)
        for name, _ in list(network.named_children()):
            if not any(f"{path}.".startswith(f"{name}.") for path in kept):
                delattr(network, name)
        stages = []
        for stage in network.stages:
            modules = tuple(path for path in stage.modules if path in kept)
            if modules != stage.modules:
                stage = replace(stage, modules=modules, channels=last.channels, stride=last.reduction)
            stages += [stage] if modules else []
        network._stages = stages

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
                patterns[last] = [(pattern, None), (whole, (_WITH_PREVIOUS,))]
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

        It is that of the weights that the network was built with; without, and with a file that does not tell, that of
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
            "crop_mode": "center",
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "pool_size": (side, side),  # of the last feature map; fastai pools the maps itself where it is told
            "first_conv": network._stem,
        }
        if self._feature_info is None:
            head = getattr(network, network._head)
            last = f".{len(head) - 1}" if isinstance(head, nn.Sequential) else ""
            classes = member.meta["categories"] if card is None else card.classes
            found |= {"num_classes": len(classes or ()), "classifier": network._head + last}
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
    head = getattr(network, network._head)
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
