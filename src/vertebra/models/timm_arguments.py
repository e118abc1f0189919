"""timm's arguments of a builder, with the meaning that they have in timm; unsupported ones raise an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

from vertebra.errors import UsageError, warn

from .surgery import is_zero, parse_pooling

if TYPE_CHECKING:
    from .convnet import ConvNet

    ChangeHead = Callable[[ConvNet], None]

# timm's arguments that are not supported → the replacement.
_REFUSED = {
    "pretrained_cfg": "Give the weights as weights='IMAGENET1K_V1' or weights=PATH, the preprocessing to export().",
    "pretrained_cfg_overlay": "Give a file as weights=PATH.",
    "cache_dir": "Set TORCH_HOME to the folder that is to hold downloaded weights.",
    "scriptable": "TorchScript is not supported; write torch.export.export(network, (x,)) or torch.compile(network).",
    "exportable": "Every network can be exported as it is: vertebra.export(network, …) or torch.export.",
    "no_jit": "Nothing is compiled by TorchScript here; leave it out.",
    "drop_block_rate": "DropBlock is not here; dropout before the classifier is drop_rate.",
    "img_size": "The networks take any size from `network.min_size` pixels on; leave it out.",
    "block_args": "Build the network by its class, for example vertebra.models.ResNet(block, layers).",
    "feature_cfg": "Write out_indices=….",
    "output_fmt": "Feature maps are (N, C, H, W); for (N, H, W, C) write x.permute(0, 2, 3, 1).",
    "cardinality": "Write groups=….",
    "base_width": "Write width_per_group=….",
    "zero_init_last": "Write zero_init_residual=….",
    **dict.fromkeys(
        ("act_layer", "aa_layer", "se_layer", "attn_layer", "stem_type", "stem_width", "avg_down"),
        "The families' layers are those of the published weights; replace modules of the network instead.",
    ),
    **dict.fromkeys(
        ("bn_eps", "bn_momentum", "bn_tf"),
        "Set `eps` and `momentum` of the network's batch norms, or give norm_layer where the family takes one.",
    ),
    **dict.fromkeys(
        ("feature_cls", "out_map"), "Feature maps come as a list; for a dict write dict(zip(names, network(x)))."
    ),
    **dict.fromkeys(("device", "dtype"), "Write create_model(…).to(device, dtype)."),
}
_DILATION = {32: None, 16: (False, False, True), 8: (False, True, True)}  # of ResNet, by output_stride


def translate_arguments(
    name: str, network: type[ConvNet], given: Mapping[str, Any]
) -> tuple[dict[str, Any], ChangeHead]:
    """Translate timm's arguments into the builder's, and a function that changes the head of the built network.

    The parameters of its class decide which arguments a network accepts. Unsupported arguments that are None or False
    are ignored, since they ask for what is done anyway.

    Raises:
        UsageError: an unsupported argument or a value that is not allowed; names the replacement.
    """
    parameters = inspect.signature(network).parameters
    options = dict(given)
    for key in [key for key in options if key in _REFUSED and (options[key] is None or options[key] is False)]:
        del options[key]
    refused = next((key for key in options if key in _REFUSED), None)
    if refused is not None:
        raise UsageError(f"{name} takes no {refused}={options[refused]!r}. {_REFUSED[refused]}")
    norm_layer = options.get("norm_layer")
    if norm_layer is not None and ("norm_layer" not in parameters or not callable(norm_layer)):
        advice = "give a class or function that makes a layer of a number of channels, for example nn.BatchNorm2d."
        if "norm_layer" not in parameters:
            advice = "its layers are those of the published weights; resnet, mobilenetv2 and efficientnet take one."
        raise UsageError(f"{name} takes no norm_layer={norm_layer!r}: {advice}")
    _rename(name, options, "in_chans", "in_channels", neutral=3)
    _rename(name, options, "checkpoint_path", "weights", neutral="")
    _translate_drops(name, parameters, options)
    _translate_output_stride(name, parameters, options)
    return options, _head_change(name, parameters, options)


def _rename(name: str, options: dict[str, Any], theirs: str, ours: str, neutral: Any) -> None:
    value = options.pop(theirs, None)
    if value is None or value == neutral:
        return
    if options.get(ours) is not None:
        raise UsageError(f"{name} got {ours}={options[ours]!r} and {theirs}={value!r}, which are the same. Give one.")
    options[ours] = value


def _translate_drops(name: str, parameters: Container[str], options: dict[str, Any]) -> None:
    for key in ("drop_rate", "drop_path_rate", "proj_drop_rate"):
        value = options.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise UsageError(f"{key} is {value!r}; it must be a probability, between 0 and 1.")
    if "drop_rate" in parameters:  # DenseNet's is in each layer of a block, which timm calls proj_drop_rate
        _rename(name, options, "proj_drop_rate", "drop_rate", neutral=None)
        if "drop_rate" in options and options["drop_rate"] is None:
            del options["drop_rate"]
    else:
        _rename(name, options, "drop_rate", "dropout", neutral=None)
    if "stochastic_depth_prob" in parameters:
        _rename(name, options, "drop_path_rate", "stochastic_depth_prob", neutral=None)
    elif depth := options.pop("drop_path_rate", None):
        raise UsageError(
            f"{name} has no stochastic depth, and drop_path_rate is {depth!r}. Leave it out; efficientnet has it, and "
            "drop_rate is dropout before the classifier of any network."
        )


def _translate_output_stride(name: str, parameters: Container[str], options: dict[str, Any]) -> None:
    stride = options.pop("output_stride", None)
    if stride is None or stride == 32:
        return
    if "replace_stride_with_dilation" not in parameters or stride not in _DILATION:
        raise UsageError(
            f"{name} takes no output_stride={stride!r}: only ResNets can be dilated, to 8 or 16. Write "
            "create_model('resnet50', output_stride=8), or leave it out for 32."
        )
    options["replace_stride_with_dilation"] = _DILATION[stride]


def _head_change(name: str, parameters: Container[str], options: dict[str, Any]) -> ChangeHead:
    features_only = bool(options.pop("features_only", False))
    out_indices = options.pop("out_indices", None)
    pooling = options.pop("global_pool", None)
    dropout = 0.0 if "dropout" in parameters else options.pop("dropout", None) or 0.0
    classes = options.get("num_classes")
    headless = is_zero(classes)
    if out_indices is not None and not features_only:
        raise UsageError(f"{name} got out_indices={out_indices!r} without features_only=True, which makes it a list.")
    if features_only:
        if (classes is not None and not headless) or pooling not in (None, "", "avg"):
            what = f"num_classes={classes!r}" if classes is not None and not headless else f"global_pool={pooling!r}"
            warn(f"{name} with features_only=True returns feature maps and has no classifier: {what} is not used.")
        options.pop("num_classes", None)
    else:
        pooling = parse_pooling(pooling)
        if not pooling and not headless:
            raise UsageError(
                f"global_pool='' leaves feature maps as they are, and a linear classifier (num_classes={classes!r}) "
                "takes no maps. Write num_classes=0, global_pool='' for the maps, or global_pool='avg'."
            )
        if headless:
            del options["num_classes"]

    def change(network: ConvNet) -> None:
        network._head_dropout = dropout
        if features_only:
            network._keep_maps(out_indices)
        elif headless:
            network.reset_classifier(0, pooling)

    return change
