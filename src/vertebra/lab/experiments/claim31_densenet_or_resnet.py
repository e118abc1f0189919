"""Claim 31: what DenseNet costs beside ResNet at about the same published accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING

from torch import nn

from vertebra.lab.charts import BLUE, ORANGE, bars, grouped_bars
from vertebra.lab.experiment import Claim, Expected, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.training_costs import STEP, VALUES_KEPT, costs_more, measure_costs
from vertebra.models import DenseNet169_Weights, ResNet50_Weights, densenet169, resnet50
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

DENSE, RESIDUAL = "DenseNet-169", "ResNet-50"
ACCURACY = {
    name: weights.IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    for name, weights in ((DENSE, DenseNet169_Weights), (RESIDUAL, ResNet50_Weights))
}
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.745–754",
    claim="DenseNet buys accuracy at the greatest cost; ResNet has the least and is easier to handle.",
    claim_ja="DenseNetは最も高いコストを払って精度を得るのに対し、ResNetは最も低いコストで十分な精度に届き、扱いやすい。",
    should_hold="At about the same published accuracy DenseNet-169 has fewer parameters and MACs than ResNet-50, keeps "
    "more for the backward pass, and takes longer.",
    source="counts of torchvision 0.29",
    rule="DenseNet-169 over ResNet-50, at 224 × 224: parameters, MACs, bytes kept for the backward pass, time of a "
    "training step and of inference. Holds if DenseNet has more of all (times: 95 % interval of the ratio above "
    "1), does not hold if of none, in part otherwise. What is easier to handle is not measured, nor why one spread.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="DenseNet-169 relative to ResNet-50",
    caption="Above 1 DenseNet-169 costs more. Both have about 76 % published top-1 accuracy on ImageNet. Times, where "
    "measured, are of untrained networks on this machine, with 95 % intervals.",
    networks_title="What the networks cost",
    networks_caption="Each cost relative to the network that has the most of it; times are of this machine.",
    seconds=35,
    expected={
        f"{DENSE}: parameters": Expected(14.1e6, "counts", 0.01),
        f"{RESIDUAL}: parameters": Expected(25.6e6, "counts", 0.01),
        f"{DENSE}: MACs": Expected(3.36e9, "counts", 0.01),
        f"{RESIDUAL}: MACs": Expected(4.09e9, "counts", 0.01),
        f"{DENSE}: {VALUES_KEPT}": Expected(156, "counts", 0.01),
        f"{RESIDUAL}: {VALUES_KEPT}": Expected(84, "counts", 0.01),
        **{f"{name}: top-1 accuracy, %": Expected(value, "weights V1") for name, value in ACCURACY.items()},
    },
)


def measure(setup: Setup, dense: Layer = densenet169, residual: Layer = resnet50, size: int = 224) -> Measured:
    """Count both, and time them in turns; on the meta device if they only count."""
    with meta_build() if setup.quick else nullcontext():
        networks: dict[str, nn.Module] = {DENSE: dense(), RESIDUAL: residual()}
    costs = measure_costs(setup, networks, size)
    ratios = {f"{cost}, ratio": costs.ratio(cost, DENSE, RESIDUAL) for cost in costs.kinds}
    return Measured({**ratios, **costs.figures}, {"costs": list(costs.kinds)})


def judge(measured: Measured) -> Judgement:
    """Of what has DenseNet more?"""
    names = tuple(f"{cost}, ratio" for cost in measured.series["costs"])
    more = [costs_more(measured.figures[name]) for name in names]
    if STEP not in measured.series["costs"]:
        if all(more):
            return Judgement(Verdict.HOLDS, "DenseNet costs more in all that was counted; no time was measured.", names)
        if any(more):
            reason = "DenseNet costs more in some respects and not in others; no time was measured."
            return Judgement(Verdict.IN_PART, reason, names)
        return Judgement(Verdict.FAILS, "DenseNet costs more in nothing that was counted; no time was measured.", names)
    if all(more):
        return Judgement(Verdict.HOLDS, "DenseNet costs more in every respect.", names)
    if any(more):
        return Judgement(Verdict.IN_PART, "DenseNet costs more in some respects and not in others.", names)
    return Judgement(Verdict.FAILS, "DenseNet is not shown to cost more in any respect.", names)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Ratios by cost, with the intervals of times."""
    axes = canvas.subplots()
    ratios = {cost: measured.figures[f"{cost}, ratio"] for cost in measured.series["costs"]}
    colors = [ORANGE if costs_more(figure) else BLUE for figure in ratios.values()]
    bars(axes, {cost: figure.value for cost, figure in ratios.items()}, "DenseNet-169 over ResNet-50, ×", "", colors)
    for row, figure in enumerate(ratios.values()):
        low, high = figure.interval or (figure.value, figure.value)
        axes.plot((low, high), (row, row), color="0.2")
        axes.text(max(high, figure.value), row, f"  {figure.value:.2f}", va="center")
    axes.axvline(1, color="0.3", linewidth=1)


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same costs, and which network has the most and which the least of each."""
    costs = measure_costs(setup, {name: deepcopy(network) for name, network in networks.items()})
    names = list(networks)
    most, least = ([find(cost, names) for cost in costs.kinds] for find in (costs.most, costs.least))
    return Measured(costs.figures, {"networks": names, "costs": list(costs.kinds), "most": most, "least": least})


def judge_networks(measured: Measured) -> Judgement:
    """Does one network cost the most in everything, and another the least?"""
    names = measured.series["networks"]
    decided_by = tuple(f"{name}: {cost}" for cost in measured.series["costs"] for name in names)
    if len(names) == 1:
        return Judgement(Verdict.OPEN, "A single network has nothing to be compared with.", decided_by)
    found = [len(set(measured.series[kind])) == 1 and measured.series[kind][0] != "" for kind in ("most", "least")]
    if all(found):
        return Judgement(Verdict.HOLDS, "One network costs the most in everything, another the least.", decided_by)
    if any(found):
        return Judgement(Verdict.IN_PART, "One network costs the most, or the least, in everything.", decided_by)
    return Judgement(Verdict.FAILS, "No network costs the most, and none the least, in everything.", decided_by)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Each cost, relative to the largest."""
    costs, names = measured.series["costs"], measured.series["networks"]
    largest = {cost: max(measured.value(f"{name}: {cost}") for name in names) or 1 for cost in costs}
    shares = {name: [100 * measured.value(f"{name}: {cost}") / largest[cost] for cost in costs] for name in names}
    grouped_bars(canvas.subplots(), costs, shares, "relative to the network with the most of it, %")
