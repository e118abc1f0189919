"""timm's names of networks and weights: the ones supported here, and the nearest network for the others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vertebra.errors import UsageError, suggest


@dataclass(frozen=True)
class Alias:
    """The network here for one of timm's names."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of its builder
    tag: str = ""  # the weights that the name implies
    differs: str = ""  # how its computation differs from timm's


def _tensorflow(name: str, eps: str) -> Alias:
    theirs = "timm's pads as TensorFlow does and has batch norm with eps=0.001"
    return Alias(name, differs=f"{theirs}; {name} pads symmetrically, with eps={eps}")


_V2_EPS = "timm's has batch norm with eps=0.00001; {} with 0.001"

# The layers, their order and shapes are timm's in each of these (tests/models/test_timm.py transfers weights).
ALIASES: dict[str, Alias] = {
    "mobilenetv2_100": Alias("mobilenet_v2"),
    **{f"mobilenetv2_{w:03}": Alias("mobilenet_v2", {"width_mult": w / 100}) for w in (35, 50, 75, 140)},
    **{f"tf_efficientnet_lite{i}": Alias(f"efficientnet_lite{i}") for i in range(3)},
    **{f"tf_efficientnet_b{i}": _tensorflow(f"efficientnet_b{i}", "0.00001" if i < 5 else "0.001") for i in range(8)},
    **{f"tf_efficientnetv2_{s}": _tensorflow(f"efficientnet_v2_{s}", "0.001") for s in "sml"},
    **{
        f"efficientnetv2_{s}": Alias(f"efficientnet_v2_{s}", differs=_V2_EPS.format(f"efficientnet_v2_{s}"))
        for s in "sml"
    },
    "efficientnet_b2a": Alias("efficientnet_b2"),
    "efficientnet_b3a": Alias("efficientnet_b3"),
    # Older names of torchvision's weights in timm.
    **{f"tv_resnet{d}": Alias(f"resnet{d}", tag="tv_in1k") for d in (34, 50, 101, 152)},
    "tv_resnext50_32x4d": Alias("resnext50_32x4d", tag="tv_in1k"),
    "tv_densenet121": Alias("densenet121", tag="tv_in1k"),
}

_V1, _V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
_TV, _TV2 = {"tv_in1k": _V1}, {"tv_in1k": _V1, "tv2_in1k": _V2}
_RA, _RA2 = {"ra_in1k": _V1}, {"ra2_in1k": _V1}
_FAMILY_VGG = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
# timm's name and tag → the same weights here. EfficientNet B0 to B4 are timm's own, which torchvision took over
# (https://github.com/pytorch/vision/blob/v0.12.0/torchvision/models/efficientnet.py#L35-L41: the hashes are timm's);
# Lite's are from the same TensorFlow checkpoints.
TAGS: dict[str, dict[str, str]] = {
    **dict.fromkeys([*_FAMILY_VGG, "resnet18", "resnet34", "resnext101_64x4d"], _TV),
    **dict.fromkeys(["resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"], _TV2),
    **dict.fromkeys(["wide_resnet50_2", "wide_resnet101_2"], _TV2),
    **dict.fromkeys([f"densenet{depth}" for depth in (121, 161, 169, 201)], _TV),
    **dict.fromkeys(["efficientnet_b0", "efficientnet_b2"], _RA),
    "efficientnet_b1": {"ft_in1k": _V1},
    **dict.fromkeys(["efficientnet_b3", "efficientnet_b4"], _RA2),
    **{f"tf_efficientnet_lite{i}": {"in1k": _V1} for i in range(3)},
}
# The weights that timm loads with `pretrained=True` for a name without a tag, if they are not the only ones here.
_TIMM_DEFAULTS = {
    **dict.fromkeys(["resnet18", "resnet34", "resnet50"], "a1_in1k"),
    **dict.fromkeys(["resnet101", "resnet152", "resnext50_32x4d"], "a1h_in1k"),
    **dict.fromkeys(["resnext101_32x8d", "wide_resnet101_2"], "tv_in1k"),
    "resnext101_64x4d": "c1_in1k",
    "wide_resnet50_2": "racm_in1k",
    "densenet121": "ra_in1k",
    "mobilenetv2_100": "ra_in1k",
    "efficientnet_b1": "ra4_e3600_r240_in1k",
    "efficientnet_b5": "sw_in12k_ft_in1k",
    "efficientnet_lite0": "ra_in1k",
    **{f"tf_efficientnet_b{i}": "ns_jft_in1k" for i in range(8)},
    **{f"tf_efficientnetv2_{size}": "in21k_ft_in1k" for size in "sml"},
}


@dataclass(frozen=True)
class TimmName:
    """A parsed timm name: `timm` without the tag, the network here, the tag or ""."""

    timm: str
    alias: Alias
    tag: str

    def weights(self, default: str) -> str:
        """The member of the weights enum that `pretrained=True` loads for this name; `default` if it has no tag.

        Raises:
            UsageError: the tag names weights that are not here, or the network has none of this width.
        """
        if self.alias.options:
            options = ", ".join(f"{name}={value!r}" for name, value in self.alias.options.items())
            raise UsageError(
                f"there are no weights for {self.timm} here, which is {self.alias.name} with {options}. Leave "
                f"pretrained=True out, give your own file as weights=PATH, or take {self.alias.name}."
            )
        if not self.tag:
            return default
        here = self._here
        if self.tag not in here:
            raise UsageError(f"{self._missing(here)} Take one of these, or give your own file as weights=PATH.")
        return here[self.tag]

    @property
    def unknown_tag(self) -> str:
        """A sentence if the tag's weights are not available here; else ""."""
        return "" if not self.tag or self.tag in self._here else self._missing(self._here)

    def other_default(self, member: str) -> str:
        """A sentence if timm loads other weights for this name than this member; else ""."""
        if self.tag:
            return ""
        theirs = _TIMM_DEFAULTS.get(self.timm)
        if theirs is None:
            known = self.timm in TAGS
            return "" if known else f"pretrained=True takes {member} for {self.timm}; timm has no weights of that name."
        if self._here.get(theirs) == member:
            return ""
        return (
            f"pretrained=True takes {member} for {self.timm}; timm's, {theirs!r}, are other weights. "
            f"weights={member!r} says the same."
        )

    @property
    def _here(self) -> dict[str, str]:
        return TAGS.get(self.timm) or TAGS.get(self.alias.name) or {}

    def _missing(self, here: dict[str, str]) -> str:
        base = self.timm if self.timm in TAGS else self.alias.name
        known = [f"'{base}.{tag}' ({member})" for tag, member in here.items()] or [f"'{self.alias.name}' without a tag"]
        return f"there are no weights {self.tag!r} of {self.timm} here; there are {' and '.join(known)}."


_USE_TIMM = "timm's own works on the networks here: import timm.{0}"
# Names in timm's package that are not here → the replacement.
_REPLACEMENTS = {
    **{module: _USE_TIMM.format(module) for module in ("data", "layers", "loss", "optim", "scheduler", "utils")},
    "create_transform": "Write get_model_weights(NAME).DEFAULT.transforms().",
    "get_pretrained_cfg": "Write create_model(NAME).pretrained_cfg, or get_model_weights(NAME).DEFAULT.",
    "get_pretrained_cfg_value": "Write create_model(NAME).pretrained_cfg[KEY].",
    "is_model_pretrained": "All networks of list_models() have weights; list_pretrained() has timm's tags of them.",
    "load_checkpoint": "Write create_model(NAME, weights=PATH).",
    "load_state_dict": "Write create_model(NAME, weights=PATH).",
    "register_model": "Networks of one's own need no registry: export and inspect take any nn.Module.",
    "set_exportable": "Every network can be exported as it is; leave it out.",
    "set_scriptable": "TorchScript is not supported; write torch.export.export(network, (x,)).",
}


def suggest_replacement(name: str) -> str:
    """The replacement for a name of timm's package that is not here: ". Write …"; "" for other names."""
    return f". {_REPLACEMENTS[name]}" if name in _REPLACEMENTS else ""


def read_name(name: str, networks: Mapping[str, Any]) -> TimmName | None:
    """Parse a name, ours or timm's, with or without a tag; None if there is no such network here."""
    timm, _, tag = name.strip().lower().partition(".")
    if timm in networks:
        return TimmName(timm, Alias(timm), tag)
    alias = ALIASES.get(timm)
    return None if alias is None else TimmName(timm, alias, tag or alias.tag)


def differing_weights(network: str, arch: str = "") -> str:
    """How timm's networks (`arch`, or any) compute differently from this one with the same tensors; "" if equally."""
    if network.startswith("efficientnet_lite"):
        differs = (
            f"timm's {network} pads symmetrically and has batch norm with eps=0.00001; {network} here as tf_{network}"
        )
        names = {f"tf_{network}": "", network: differs}
    else:
        names = {theirs: alias.differs for theirs, alias in ALIASES.items() if alias.name == network}
        names.setdefault(network, "")
        if network in ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7"):
            names[network] = _V2_EPS.format(network)
    if arch in names:
        differs = names[arch]
        return f"They are those of {arch}: {differs}, so outputs differ." if differs else ""
    cases = [f"those of timm's {theirs} ({differs})" for theirs, differs in names.items() if differs]
    return f"Where they are {' or '.join(cases)}, outputs differ." if cases else ""


def explain_unknown(name: str, networks: Mapping[str, Any], families: Iterable[str]) -> str:
    """The error message for an unknown network: the nearest network or the nearest spelling."""
    source, colon, _ = name.partition(":")
    if colon and source in ("hf-hub", "hf_hub", "local-dir"):
        return (
            f"there is no model {name!r}: networks have plain names here, such as 'resnet50'. Give a file as "
            "weights=PATH."
        )
    base = name.lower().partition(".")[0]
    if found := re.fullmatch(_OTHER_WEIGHTS, base):
        original = read_name(found[1] or found[2], networks)
        if original is not None:
            return (
                f"there is no model {name!r}: the network is {original.alias.name!r}, and those weights are not here."
            )
    if other := _nearest_in_kind(base):
        return f"{name!r} is not among the families ({', '.join(families)}); the nearest is {other!r}."
    if relative := _nearest_in_family(base, networks):
        return f"there is no model {name!r}; the nearest is {relative!r}, which has other layers."
    hint = suggest(name, networks) or suggest(name, ALIASES) or "`vertebra models` lists all."
    return f"there is no model {name!r}. {hint}"


# timm's names of networks that are here with weights that are not.
_OTHER_WEIGHTS = r"(?:gluon|ssl|swsl|ig)_(res\w+?)(?:_v1b)?|(tf_efficientnet\w+)_(?:ap|ns|in21k|in21ft1k)"

# EfficientNets of other sizes → the nearest.
_EFFICIENTNETS = {"b8": "b7", "l2": "b7", "xl": "v2_l", "es": "lite0", "em": "lite2", "el": "b3"}
_EFFICIENTNETS |= {"lite3": "lite2", "lite4": "lite2"}
# ResNet variants in timm; the prefixes are changes of the stem, the shortcuts, the attention.
_RESNETS = r"([a-z]+\d?_)*[a-z0-9]*?(res|res2|bot|halo)ne(t|xt|st)|(legacy_|gluon_)?senet|haloregnet|dpn\d|dla\d"
# Of these, names that neither timm nor torchvision has: typos such as resnet500.
_RESNET_TYPOS = r"resnet[-_]?\d*(_?v\d)?$|resnext[-_]?\d*(_\d+x\d+d?)?$|wide_resnet\d*(_2)?$"
_OTHER_DEPTHS = r"resnet(26|200)$|resnext101_32x(4|16|32|48)d$|wide_resnet(28|40)"
# (depth here, maximum depth that it is the nearest for)
_RESNET_DEPTHS = ((18, 26), (34, 42), (50, 75), (101, 126), (152, 10**9))


def _nearest_in_family(base: str, networks: Mapping[str, Any]) -> str | None:
    """The nearest network for one of the six families that is not here; None for a possible typo."""
    if any(re.sub(r"\W|_", "", name).startswith(re.sub(r"\W|_", "", base)) for name in networks):
        return None
    if found := re.match(r"(?:tf_)?efficientnet(?:v2)?_(b8|l2|xl|e[sml]|lite[34])", base):
        return f"efficientnet_{_EFFICIENTNETS[found[1]]}"
    if found := re.match(r"(?:tf_)?efficientnet(?:v2|_cc|_x|_h|_blur)?_(b\d)", base):
        return f"efficientnet_{found[1]}"
    if re.match(r"(tf_|gc_)?(efficientnet|mobilenetv2|densenet)", base):
        closest = difflib.get_close_matches(base, networks, n=1, cutoff=0)
        return None if difflib.get_close_matches(base, closest, cutoff=0.9) else str(closest[0])
    if not re.match(_RESNETS, base) or (re.match(_RESNET_TYPOS, base) and not re.match(_OTHER_DEPTHS, base)):
        return None
    found = re.search(r"\d\d+", base.replace("legacy_", ""))
    depth = int(found[0]) if found else 50
    if "next" in base:
        return "resnext50_32x4d" if depth <= 50 else "resnext101_32x8d"
    if base.startswith("wide"):
        return "wide_resnet50_2" if depth <= 50 else "wide_resnet101_2"
    return next(f"resnet{here}" for here, most in _RESNET_DEPTHS if depth <= most)


# Network here → name prefixes of timm's families that it is the nearest for; the first match applies.
_OTHER_FAMILIES = {
    "mobilenet_v2": "(tf_)?mobilenet(?!_?v2) mnasnet semnasnet (tf_)?mixnet mobileone mobilevit ghostnet shufflenet "
    "squeezenet fbnet spnasnet lcnet tinynet hardcorenas rexnet edgenext efficientvit efficientformer repvit repghost "
    "fastvit hardnet starnet selecsls peleenet shvit swiftformer cpubone lowformer iformer efficientvim",
    "vgg11": "alexnet",
    "vgg16_bn": "repvgg",
    "googlenet": "(tf_|adv_|legacy_|ens_adv_|gluon_)*inception_(v|resnet) inception$",
    "resnet50": "(nf_)?regnet (ese_|eca_)?vovnet cs\\w*net (se)?darknet hrnet",
    "efficientnet_v2_s": "(gc_|legacy_|tf_)?xception (pn|n)asnet gernet",
    "efficientnet_v2_m": "(eca_|dm_)?nfnet convnext vit deit beit eva cait swin xcit pit_ tnt twins volo crossvit coat "
    "convit levit visformer maxvit maxxvit mvit davit gcvit hiera sam2 samvit sequencer nest jx_nest naflexvit aimv2 "
    "qwen3_vit gemma4_vit deepseek_vit flexivit focalnet poolformer caformer pvt mixer resmlp gmlp gmixer tiny_vit "
    "nextvit fasternet vitamin dinov csatv2 rdnet hgnet mambaout convmixer convformer inception_next cspnext",
}
# Sizes of the last group → another nearest network.
_SIZES = {
    r"\w*(atto|femto|pico|nano|zepto)|(vit|deit|xcit|cait|pit|tiny_vit)\w*(tiny|xs|_ti_)": "efficientnet_b0",
    r"\w*(large|huge|giant|gigantic|enormous|xl|_l\b|_l_|_h_)": "efficientnet_v2_l",
    r"\w*(tiny|small|_t\b|_s\b|_s\d)": "efficientnet_v2_s",
}


def _nearest_in_kind(base: str) -> str | None:
    """The nearest network here for one of another family."""
    for network, beginnings in _OTHER_FAMILIES.items():
        if re.match("|".join(beginnings.split()), base):
            sizes = _SIZES if network == "efficientnet_v2_m" else {}
            return next((nearer for size, nearer in sizes.items() if re.match(size, base)), network)
    return None
