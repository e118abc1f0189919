"""Claim 26: VGG is a stack of 3×3 convolutions; two have the field of a 5×5 and three that of a 7×7, for less."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.introspect import receptive_field_by_gradient
from vertebra.lab.charts import grouped_bars
from vertebra.lab.cost_shares import is_fully_connected
from vertebra.lab.each_network import each_measured, judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.stacked_kernels import poolings_without_growth, stack_figures
from vertebra.lab.user_networks import inspect_own
from vertebra.models.vgg import make_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CHANNELS, SIZE = 64, 15  # of the stacks alone
PAIRS = {2: ("two", "5×5"), 3: ("three", "7×7")}  # 3×3 convolutions: how many in words, the kernel that they stand for
_TABLE_1 = {"convolutions": 13, "convolutions of 3×3": 13, "fully connected layers": 3, "poolings that halve": 5}
_TABLE_1 |= {"side of the last map": 7, "poolings behind which channels stay": 1}
CLAIM = Claim(
    family="VGG",
    stated_by="article l.5–6, 60–63, 81–82",
    claim="VGG is a stack of 3×3 convolutions; the 16 layers of VGG-16 are 13 convolutions and 3 fully connected "
    "layers, and five poolings take 224 to 7.",
    claim_ja="VGGは3×3畳み込みの積み重ねであり、VGG16の16層は畳み込み13層と全結合3層からなる。5回のプーリングで224は7になる。",
    should_hold="That structure; two 3×3 have the receptive field of a 5×5 with 18/25 of its weights, three that of a "
    "7×7 with 27/49. Channels do not grow at every stage: 512 → 512.",
    source="Simonyan & Zisserman 2015, section 2.3",
    rule="The structure is right if all convolutions are 3×3, 13 of them, with 3 fully connected layers and 5 halvings "
    "by pooling from 224 to 7; stacking is right if the gradient of two and three 3×3 reaches exactly as far as that "
    "of one 5×5 and one 7×7, with fewer weights. Holds if both are, in part if one is, else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Weights of stacked 3×3 convolutions and of single larger kernels",
    caption="Same receptive field, same channels: where the upper bar is shorter, the stack needs fewer weights.",
    seconds=1,
    expected={
        **{name: Expected(value, "Simonyan & Zisserman 2015, Table 1") for name, value in _TABLE_1.items()},
        "field of two 3×3": Expected(5, "Simonyan & Zisserman 2015, section 2.3"),
        "field of three 3×3": Expected(7, "Simonyan & Zisserman 2015, section 2.3"),
        "weights of two 3×3 against one 5×5": Expected(18 / 25, "Simonyan & Zisserman 2015, section 2.3"),
        "weights of three 3×3 against one 7×7": Expected(27 / 49, "Simonyan & Zisserman 2015, section 2.3"),
    },
)


def measure(
    setup: Setup,
    network: str | nn.Module = "vgg16",
    stack: Callable[[int], nn.Module] = lambda count: make_layers([CHANNELS] * count, in_channels=CHANNELS),
) -> Measured:
    """Count in VGG-16, and read the fields of stacks off their gradients."""
    found = inspect(network, 224)
    poolings = [row for row in found.layers if row.op == "max_pool2d" and set(row.stride) == {2}]
    figures = stack_figures(found.rows) | {
        "fully connected layers": Figure(sum(map(is_fully_connected, found.layers))),
        "poolings that halve": Figure(len(poolings)),
        "side of the last map": Figure(poolings[-1].output_shape[-1] if poolings else 224, "px"),
        "poolings behind which channels stay": Figure(poolings_without_growth(found.rows)),
    }
    for count, (name, large) in PAIRS.items():
        stacked, kernel = stack(count), nn.Conv2d(CHANNELS, CHANNELS, 2 * count + 1, padding=count, bias=False)
        for what, module in {f"{name} 3×3": stacked, f"one {large}": nn.Sequential(kernel)}.items():
            figures[f"field of {what}"] = Figure(receptive_field_by_gradient(module, SIZE, "").height, "px")
            figures[f"weights of {what}"] = Figure(sum(p.numel() for p in module.parameters() if p.ndim == 4))
        ratio = figures[f"weights of {name} 3×3"].value / figures[f"weights of one {large}"].value
        figures[f"weights of {name} 3×3 against one {large}"] = Figure(ratio, "×")
    return Measured(figures)


def judge(measured: Measured) -> Judgement:
    """Is the structure as claimed, and is a stack as far-reaching as a large kernel, for less?"""
    value = measured.value
    structure = value("convolutions") == value("convolutions of 3×3") == 13 and value("fully connected layers") == 3
    structure = structure and value("poolings that halve") == 5 and value("side of the last map") == 7
    stacking = all(
        value(f"field of {n} 3×3") == value(f"field of one {k}") and value(f"weights of {n} 3×3 against one {k}") < 1
        for n, k in PAIRS.values()
    )
    ratios = [f"weights of {n} 3×3 against one {k}" for n, k in PAIRS.values()]
    decided_by = ("convolutions of 3×3", "fully connected layers", "side of the last map", *ratios)
    reason = {
        (True, True): "The layers are as said, and stacks reach as far as large kernels with fewer weights.",
        (True, False): "The layers are as said; stacks are no match for large kernels.",
        (False, True): "Stacks reach as far as large kernels with fewer weights; the layers are not as said.",
        (False, False): "Neither are the layers as said, nor do stacks reach as far with fewer weights.",
    }[structure, stacking]
    return Judgement((Verdict.FAILS, Verdict.IN_PART, Verdict.HOLDS)[structure + stacking], reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """For each field, the weights of the stack and of the single kernel."""
    stacked = [measured.value(f"weights of {name} 3×3") / 1e3 for name, _ in PAIRS.values()]
    single = [measured.value(f"weights of one {large}") / 1e3 for _, large in PAIRS.values()]
    groups, series = [f"field of a {large}" for _, large in PAIRS.values()], {"stack of 3×3": stacked}
    grouped_bars(canvas.subplots(), groups, series | {"one kernel": single}, f"weights, 10³, {CHANNELS} channels")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The stacks of each network."""
    return measure_each(lambda _, network: Measured(stack_figures(inspect_own(network).rows)), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Are all convolutions in stacks of 3×3, or some?"""
    return judge_each(_judge_one, measured)


def _judge_one(measured: Measured) -> Judgement:
    decided_by = ("convolutions in stacks of 3×3", "convolutions")
    stacked, convolutions = map(measured.value, decided_by)
    if not stacked:
        return Judgement(Verdict.FAILS, "No 3×3 convolution of stride 1 directly follows another.", decided_by)
    if stacked < convolutions:
        return Judgement(Verdict.IN_PART, "Some convolutions are in stacks of 3×3, others are not.", decided_by)
    return Judgement(Verdict.HOLDS, "All convolutions are in stacks of 3×3.", decided_by)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Of each network, the weights of its stacks and of one kernel for each."""
    own = each_measured(measured)
    names = {"stacks of 3×3": "weights of the stacks", "one kernel each": "weights of one kernel for each stack"}
    series = {label: [m.value(name) / 1e6 for m in own.values()] for label, name in names.items()}
    grouped_bars(canvas.subplots(), list(own), series, "weights, 10⁶")
