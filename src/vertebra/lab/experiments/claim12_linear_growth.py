"""Claim 12: how the channels of DenseNet grow, and whether the growth rate decides it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.errors import UsageError
from vertebra.lab.channel_growth import block_channels, concatenation_steps, most_frequent, share_kept
from vertebra.lab.charts import COLORS, network_bars
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import inspect_own
from vertebra.models import DenseNet
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

GROWTH_RATES = (8, 16, 32, 48)
BLOCKS = {"into": (64, 128, 256, 512), "out of": (256, 512, 1024, 1024)}
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.731, 739–741",
    claim="Concatenation keeps values as they are, so channels grow linearly, and growth_rate controls by how much.",
    claim_ja="特徴マップを足さずに結合するため、チャンネル数は線形に増え、その増え方は成長率で決まる。",
    should_hold="DenseNet-121, into and out of each block: 64 → 256, 128 → 512, 256 → 1024, 512 → 1024.",
    source="counts (the paper's Table 1 gives k = 32 and 6, 12, 24, 16 layers)",
    rule="Holds if every layer of every block adds as many channels as the growth rate says, for rates 8 to 48, "
    "and a block's output has its input's values unchanged; in part if only one of the two, or if every layer adds as "
    "many as the others but not the growth rate; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Channels that each layer of DenseNet-121 reads, for several growth rates",
    caption="Within a block channels follow a straight line if each layer adds the same number, the growth rate k; "
    "between blocks the transitions cut them.",
    networks_title="Steps between the concatenations of a network",
    networks_caption="Steps from one concatenation to the next at the same resolution, and those that keep all of the "
    "one before and add the most frequent number. Where both bars are equal, channels grow linearly.",
    seconds=2,
    expected={f"{way} block {i}": Expected(n, "counts") for way, ns in BLOCKS.items() for i, n in enumerate(ns, 1)},
)
STEPS, KEPT = "layers, with all growth rates", "values kept"
EQUAL, RATE = "layers that add as many as others", "layers that add the growth rate"


def measure(setup: Setup, build: Layer = DenseNet) -> Measured:
    """Count what the first convolution of each layer reads, and run one block of random weights."""
    small = build(growth_rate=8, block_config=(3,), num_init_features=8)
    with meta_build():
        found = {rate: inspect(build(growth_rate=rate), 224) for rate in GROWTH_RATES}
    lines = {rate: block_channels(anatomy.layers) for rate, anatomy in found.items()}
    steps = [(rate, b - a) for rate, blocks in lines.items() for line in blocks for a, b in pairwise(line)]
    usual = {rate: most_frequent(step for r, step in steps if r == rate) for rate in GROWTH_RATES}
    figures = {
        STEPS: Figure(len(steps)),
        EQUAL: Figure(sum(step == usual[rate] > 0 for rate, step in steps)),
        RATE: Figure(sum(step == rate for rate, step in steps)),
        KEPT: Figure(100 * share_kept(small.get_submodule("features.denseblock1"), 8), "%"),
    }
    for i, line in enumerate(lines[32], 1):
        figures |= {f"into block {i}": Figure(line[0]), f"out of block {i}": Figure(line[-1])}
    return Measured(figures, {"channels": {str(rate): blocks for rate, blocks in lines.items()}})


def judge(measured: Measured) -> Judgement:
    """Equal steps, of the growth rate, and the input unchanged?"""
    decided_by = (RATE, EQUAL, STEPS, KEPT)
    rate, equal, steps, kept = (measured.value(name) for name in decided_by)
    if rate == steps and kept == 100:
        return Judgement(Verdict.HOLDS, "Every layer adds the growth rate, and values are kept unchanged.", decided_by)
    if rate == steps:
        return Judgement(Verdict.IN_PART, "Every layer adds the growth rate, but values are changed.", decided_by)
    if equal == steps:
        return Judgement(Verdict.IN_PART, "Channels grow linearly, but not by the growth rate.", decided_by)
    if kept == 100:
        return Judgement(Verdict.IN_PART, "Values are kept unchanged, but channels do not grow linearly.", decided_by)
    return Judgement(Verdict.FAILS, "Channels do not grow linearly, and values are changed.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """One line a growth rate, over all layers."""
    axes = canvas.subplots()
    for (rate, blocks), color in zip(measured.series["channels"].items(), COLORS, strict=False):
        start = 0
        for line in blocks:
            axes.plot(range(start, start + len(line)), line, ".-", color=color)
            start += len(line)
        axes.annotate(
            f"k = {rate}", (start - 1, blocks[-1][-1]), (6, 0), textcoords="offset points", va="center", color=color
        )
    axes.set(xlabel="layer, through all blocks", ylabel="channels read", ylim=(0, None))


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Compare the channels of successive concatenations of maps at one resolution."""
    return measure_each(_concatenations, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Are all steps equal?"""
    return judge_each(_judge_steps, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """All steps and the equal ones, for each network."""
    network_bars(canvas.subplots(), measured, {"all": "steps", "equal": "equal steps"}, "steps between concatenations")


def _concatenations(name: str, network: nn.Module) -> Measured:
    steps = concatenation_steps(inspect_own(network).rows)
    if not steps:
        raise UsageError(f"{name} has no two concatenations of feature maps at one resolution, so nothing that grows.")
    usual = most_frequent(steps)
    return Measured({"steps": Figure(len(steps)), "equal steps": Figure(sum(step == usual > 0 for step in steps))})


def _judge_steps(measured: Measured) -> Judgement:
    equal, steps = measured.value("equal steps"), measured.value("steps")
    if equal == steps:
        return Judgement(Verdict.HOLDS, "Channels grow linearly by concatenation.", ("equal steps", "steps"))
    if equal > steps / 2:
        return Judgement(Verdict.IN_PART, "Channels grow linearly in most places.", ("equal steps", "steps"))
    return Judgement(Verdict.FAILS, "Channels do not grow linearly.", ("equal steps", "steps"))
