"""Claim 16: a depthwise convolution costs a small part of a dense one's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.anatomy import inspect
from vertebra.graph.cost import Kind as Operation
from vertebra.introspect import replace_depthwise
from vertebra.lab.charts import grouped_bars
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.mobilenet_2017 import mobilenet_2017
from vertebra.lab.user_networks import inspect_own
from vertebra.models import mobilenet_v2
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="MobileNetV2",
    stated_by="article l.916, 1278",
    claim="A depthwise convolution is far cheaper than a dense one.",
    claim_ja="深さ方向畳み込みは、チャンネルをまたぐ通常の畳み込みよりもずっと安い。",
    should_hold="Of C channels it has 1/C of a dense 3×3's MACs, and with a 1×1 behind it 1/C + 1/9; MobileNetV2 with "
    "dense 3×3 would have 18.4 times the MACs.",
    source="MobileNet 2017 §3.1 and Table 4; counts of torchvision 0.29",
    rule="Holds if each depthwise layer of the network has under a tenth of the MACs of a dense one in its place, and "
    "the network under half of those of the dense network; in part if only one is so; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="MACs of depthwise and of dense convolutions",
    caption="Curves: one layer's share of a dense 3×3's MACs falls with its channels, but with the 1×1 that mixes them "
    "not below a ninth. Bars: whole networks with either kind.",
    networks_caption="Each network with its depthwise convolutions, and with dense ones in their place.",
    seconds=1,
    expected={
        "depthwise alone, 256 channels": Expected(0.39, "1/C", 0.01),
        "depthwise and 1×1, 256 channels": Expected(11.5, "1/C + 1/9", 0.01),
        "MACs": Expected(300.8, "counts", 0.001),
        "MACs, dense": Expected(5549.1, "counts", 0.001),
        "dense / depthwise": Expected(18.4, "counts", 0.005),
        "parameters": Expected(3_504_872, "counts"),
        "parameters, dense": Expected(44.05e6, "counts", 0.001),
        "MobileNet (2017): MACs": Expected(569, "MobileNet 2017, Table 4", 0.01),
        "MobileNet (2017): MACs, dense": Expected(4866, "MobileNet 2017, Table 4", 0.01),
    },
)
Swap = Callable[[nn.Module], nn.Module]
_CHANNELS = [8, 16, 32, 64, 128, 256, 512, 1024]


def measure(setup: Setup, depthwise: Swap = lambda net: net, dense: Swap = replace_depthwise) -> Measured:
    """Count single layers, and two networks with either kind."""
    with meta_build():
        shares = {n: [_share(c, "1×1" in n) for c in _CHANNELS] for n in ("depthwise alone", "depthwise and 1×1")}
        figures = _compared(depthwise(mobilenet_v2()), dense(mobilenet_v2()))
        figures |= _compared(mobilenet_2017(), mobilenet_2017(separable=False), "MobileNet (2017): ")
    figures |= {f"{n}, 256 channels": Figure(s[_CHANNELS.index(256)], "%") for n, s in shares.items()}
    return Measured(figures, {"shares": shares})


def _share(channels: int, with_1x1: bool) -> float:
    """MACs of a depthwise 3×3 in % of a dense one's."""
    dense, layer = (nn.Conv2d(channels, channels, 3, padding=1, groups=groups) for groups in (1, channels))
    layers = nn.Sequential(layer, nn.Conv2d(channels, channels, 1) if with_1x1 else nn.Identity())
    return 100 * inspect(layers, (channels, 14, 14)).macs / inspect(dense, (channels, 14, 14)).macs


def _compared(depthwise: nn.Module, dense: nn.Module, prefix: str = "") -> dict[str, Figure]:
    """Both networks, and the layer that saves least: a dense one of its shape has `groups` times its MACs."""
    thin, thick = inspect_own(depthwise), inspect_own(dense)
    shares = [100 / row.groups for row in thin.rows if row.kind is Operation.DEPTHWISE]
    return {
        f"{prefix}dense / depthwise": Figure(thick.macs / thin.macs, "×"),
        f"{prefix}largest share of a layer": Figure(max(shares, default=100), "%", len(shares)),
        f"{prefix}MACs": Figure(thin.macs / 1e6, "M MACs"),
        f"{prefix}MACs, dense": Figure(thick.macs / 1e6, "M MACs"),
        f"{prefix}parameters": Figure(thin.parameters),
        f"{prefix}parameters, dense": Figure(thick.parameters),
    }


def judge(measured: Measured) -> Judgement:
    """Each layer under a tenth, the network under half?"""
    decided_by = ("dense / depthwise", "largest share of a layer")
    whole, layers = measured.value(decided_by[0]) > 2, measured.value(decided_by[1]) < 10
    if layers and whole:
        return Judgement(Verdict.HOLDS, "Each layer has far fewer MACs, and so has the whole network.", decided_by)
    if layers:
        return Judgement(Verdict.IN_PART, "Each layer has far fewer MACs, but not the whole network.", decided_by)
    if whole:
        return Judgement(Verdict.IN_PART, "The network has far fewer MACs, but not each of its layers.", decided_by)
    return Judgement(Verdict.FAILS, "Neither each layer nor the whole network has far fewer MACs.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Shares of one layer by channels; MACs of the networks."""
    left, right = canvas.subplots(1, 2, width_ratios=(1, 1.3))
    for name, shares in measured.series["shares"].items():
        left.loglog(_CHANNELS, shares, "o-", label=name)
    left.set(xlabel="channels", ylabel="MACs of one layer, % of a dense 3×3")
    left.set_xticks(_CHANNELS[::2], map(str, _CHANNELS[::2]))
    left.legend()
    _bars(measured, {"MobileNet (2017)": "MobileNet (2017): ", "MobileNetV2": ""}, right)


def _bars(measured: Measured, prefixes: Mapping[str, str], axes: Any) -> None:
    macs, dense = ([measured.value(f"{p}MACs{end}") for p in prefixes.values()] for end in ("", ", dense"))
    grouped_bars(axes, list(prefixes), {"depthwise": macs, "dense": dense}, "M MACs of the network")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Each network, and the same with dense convolutions for its depthwise ones."""
    return measure_each(
        lambda _, net: Measured(_compared(net, replace_depthwise(inspect_own(net).subject.network))), networks, setup
    )


def judge_networks(measured: Measured) -> Judgement:
    """The same rule for each."""
    return judge_each(judge, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """MACs of each network with either kind."""
    _bars(measured, {name: f"{name}: " for name in measured.series["networks"]}, canvas.subplots())
