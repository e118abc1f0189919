"""Claim 32: whether widening by 1×1 saves arithmetic, as GoogLeNet's narrowing does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.anatomy import inspect
from vertebra.graph.cost import Kind as Operation
from vertebra.graph.rows import Row
from vertebra.introspect import UnreducedInception, replace_depthwise
from vertebra.lab.charts import BLUE, ORANGE, bars
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.models import GoogLeNet, mobilenet_v2
from vertebra.models.googlenet import BasicConv2d, InceptionAux
from vertebra.models.layers import Conv2dNormActivation
from vertebra.models.mobilenetv2 import InvertedResidual
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="MobileNetV2",
    stated_by="article l.922",
    claim="Widening by 1×1 is the same idea as GoogLeNet's narrowing: less computation in total.",
    claim_ja="1×1で広げるMobileNetV2も、1×1で絞るGoogLeNetも、総計算量を下げるという考え方は変わらない。",
    should_hold="The 1×1 convolutions have 89.1 % of MobileNetV2's MACs; widening sixfold raises them 4.7 times, and "
    "what keeps the total low is the depthwise convolution.",
    source="counts of torchvision 0.29",
    rule="Holds if both GoogLeNet without its narrowing and MobileNetV2 without its widening have more MACs; in part "
    "if only GoogLeNet has, but MobileNetV2 has fewer than with dense 3×3 of the same width; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="MACs with and without what the 1×1 convolutions do",
    caption="Above: in which convolutions MobileNetV2's MACs are. Below: a 1×1 saves arithmetic where the network "
    "without it has a longer bar than the network as it is.",
    seconds=1,
    expected={
        "share of all 1×1": Expected(89.1, "counts", 0.001),
        "share of 1×1, widening": Expected(43.1, "counts", 0.002),
        "share of 1×1, narrowing": Expected(39.3, "counts", 0.002),
        "share of 1×1, head": Expected(6.7, "counts", 0.01),
        "share of depthwise": Expected(6.9, "counts", 0.005),
        "MobileNetV2": Expected(300.8, "counts", 0.001),
        "MobileNetV2 without widening": Expected(63.7, "counts", 0.001),
        "MobileNetV2 with dense 3×3": Expected(5549.1, "counts", 0.001),
        "GoogLeNet": Expected(1498.4, "counts", 0.001),
        "GoogLeNet without narrowing": Expected(3281.7, "counts", 0.001),
    },
)
Block = Callable[..., nn.Module]


def measure(setup: Setup, block: Block = InvertedResidual, inception: Block | None = None) -> Measured:
    """Count at 224 × 224; `block` and `inception` stand for the blocks of MobileNetV2 and GoogLeNet as they are."""

    def unwidened(inp: int, oup: int, stride: int, expand_ratio: float, **options: Any) -> nn.Module:
        return block(inp, oup, stride, expand_ratio=1, **options)

    def plain(inp: int, oup: int, stride: int, expand_ratio: float, **options: Any) -> nn.Module:
        return Conv2dNormActivation(inp, oup, 3, stride, activation_layer=nn.ReLU6, **options)

    def googlenet(inception: Block | None) -> nn.Module:
        blocks = None if inception is None else (BasicConv2d, inception, InceptionAux)
        return GoogLeNet(aux_logits=False, init_weights=False, blocks=blocks)

    with meta_build():
        networks = {
            "MobileNetV2": mobilenet_v2(block=block),
            "MobileNetV2 without widening": mobilenet_v2(block=unwidened),
            "MobileNetV2 with dense 3×3": replace_depthwise(mobilenet_v2(block=block)),
            "one dense 3×3 a block, not widened": mobilenet_v2(block=plain),
            "GoogLeNet": googlenet(inception),
            "GoogLeNet without narrowing": googlenet(UnreducedInception),
        }
    found = {name: inspect(network, 224) for name, network in networks.items()}
    whole = found["MobileNetV2"]
    shares = dict.fromkeys(("1×1, widening", "depthwise", "1×1, narrowing", "1×1, head", "others"), 0.0)
    for row in whole.rows:
        shares[_part(row)] += 100 * row.macs / whole.macs
    figures = {name: Figure(anatomy.macs / 1e6, "M MACs") for name, anatomy in found.items()}
    figures |= {f"share of {part}": Figure(share, "%") for part, share in shares.items()}
    figures["share of all 1×1"] = Figure(sum(share for part, share in shares.items() if part[:3] == "1×1"), "%")
    return Measured(figures, {"shares": shares, "networks": list(networks)})


def _part(row: Row) -> str:
    if row.kind is Operation.DEPTHWISE:
        return "depthwise"
    if row.kind is not Operation.POINTWISE:
        return "others"
    wider = row.weight_shape[0] > row.weight_shape[1]
    return "1×1, head" if row.stage == "head" else "1×1, widening" if wider else "1×1, narrowing"


def judge(measured: Measured) -> Judgement:
    """Does each 1×1 save, or does another part?"""
    decided_by = tuple(measured.series["networks"])
    as_is, unwidened, dense, _, narrowed, unnarrowed = map(measured.value, decided_by)
    if unnarrowed > narrowed and unwidened > as_is:
        return Judgement(Verdict.HOLDS, "Both networks have more MACs without their 1×1 convolutions.", decided_by)
    if unnarrowed > narrowed and as_is < dense:
        reason = (
            "Narrowing saves arithmetic; widening adds to it, and the depthwise convolution keeps it low all the same."
        )
        return Judgement(Verdict.IN_PART, reason, decided_by)
    return Judgement(Verdict.FAILS, "The arithmetic is no less in one of the two networks.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Shares of MobileNetV2's MACs, and MACs of all arms."""
    upper, lower = canvas.subplots(2)
    bars(upper, measured.series["shares"], "MobileNetV2's MACs, %")
    names = measured.series["networks"]
    colors = [BLUE if name.startswith("GoogLeNet") else ORANGE for name in names]
    bars(lower, {name: measured.value(name) for name in names}, "M MACs of the network", color=colors)
