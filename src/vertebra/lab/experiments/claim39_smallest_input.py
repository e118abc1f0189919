"""Claim 39: the smallest image that each family takes, against the size that its code states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.lab.charts import grouped_bars
from vertebra.lab.each_network import each_measured, judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.input_sizes import error_at, smallest_input
from vertebra.models import ConvNet, create_model
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

NETWORKS = ("vgg16", "googlenet", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "efficientnet_v2_s")
LARGER = 8  # sizes above the smallest that are tried too

CLAIM = Claim(
    family="all",
    stated_by="code l.100, 524, 726, 906, 1263, 1268",
    claim="The smallest input is 32 for VGG, 15 for GoogLeNet, 1 for ResNet, 29 for DenseNet, 1 for MobileNetV2 and "
    "EfficientNet V1, and 33 for V2.",
    claim_ja="最小の入力サイズは、VGGが32、GoogLeNetが15(記事には引用されていない)、ResNetが1、DenseNetが29、MobileNetV2と"
    "EfficientNet V1が1、V2が33である。",
    should_hold="The smallest square image that runs has the stated side, but for V2, which runs on a single pixel.",
    source="a run",
    rule="Holds if the smallest square that runs, in evaluation mode, has the stated side for every network; in part "
    "if for some; does not hold if for none.",
    decided_by=(Kind.COUNT,),
    title="The smallest square image that runs, beside the size that the code states",
    caption="Each size is tried, from one pixel up, in evaluation mode. Two bars of one length mean that the "
    "stated size is the limit; a shorter measured bar means that the network runs on smaller images than stated.",
    seconds=3,
    expected={
        "vgg16: smallest input": Expected(32, "a run"),
        "googlenet: smallest input": Expected(15, "a run"),
        "resnet50: smallest input": Expected(1, "a run"),
        "densenet121: smallest input": Expected(29, "a run"),
        "mobilenet_v2: smallest input": Expected(1, "a run"),
        "efficientnet_b0: smallest input": Expected(1, "a run"),
        "efficientnet_v2_s: smallest input": Expected(1, "a run"),
    },
)


def measure(setup: Setup, networks: Mapping[str, nn.Module] | None = None) -> Measured:
    """Try each size, from 1 up; the weights stay as they are found in memory, as what runs does not depend on them."""
    if networks is None:
        with meta_build():
            networks = {name: create_model(name) for name in NETWORKS}
        networks = {name: network.to_empty(device=setup.device) for name, network in networks.items()}
    return measure_networks(setup, networks)


def judge(measured: Measured) -> Judgement:
    """For how many networks is the stated size the limit?"""
    own = each_measured(measured)
    equal = [m.value("smallest input") == m.value("stated") for m in own.values()]
    # Those that differ first.
    decided_by = tuple(
        f"{name}: smallest input" for name, _ in sorted(zip(own, equal, strict=True), key=lambda p: p[1])
    )
    if all(equal):
        return Judgement(Verdict.HOLDS, "Each network runs from the stated size on, and not below.", decided_by)
    if any(equal):
        return Judgement(Verdict.IN_PART, "Of some networks the stated size is no limit.", decided_by)
    return Judgement(Verdict.FAILS, "Of no network is the stated size the limit.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Two bars a network: measured and, where there is one, stated."""
    own = each_measured(measured)
    series = {"measured": [m.value("smallest input") for m in own.values()]}
    stated = [m.value("stated") if "stated" in m.figures else math.nan for m in own.values()]
    if not all(map(math.isnan, stated)):
        series["stated"] = stated
    grouped_bars(canvas.subplots(), list(own), series, "smallest side, pixels")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The smallest square, how many of the next sizes run too, and what a network of Vertebra states."""

    def one(name: str, network: nn.Module) -> Measured:
        size = smallest_input(network, advance=lambda size: setup.progress(f"{name}: sizes", size))
        larger = sum(error_at(network, size + more) is None for more in range(1, LARGER + 1))
        figures = {"smallest input": Figure(size, "px"), f"of the next {LARGER} sizes run": Figure(larger)}
        if isinstance(network, ConvNet):
            figures["stated"] = Figure(network.min_size, "px")
        return Measured(figures)

    return measure_each(one, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Is the size that the network states the limit?"""
    return judge_each(_judge_one, measured)


def _judge_one(measured: Measured) -> Judgement:
    decided_by = ("smallest input", "stated") if "stated" in measured.figures else ("smallest input",)
    if len(decided_by) == 1:
        return Judgement(Verdict.OPEN, "The network states no smallest size; the figure is what runs.", decided_by)
    if measured.value("smallest input") == measured.value("stated"):
        return Judgement(Verdict.HOLDS, "It runs from the stated size on, and not below.", decided_by)
    return Judgement(Verdict.FAILS, "The stated size is not the limit.", decided_by)


draw_networks = draw
