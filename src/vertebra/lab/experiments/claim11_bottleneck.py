"""Claim 11: what ResNet's bottleneck costs against two plain 3×3 convolutions, in weights and in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.errors import UsageError
from vertebra.introspect import replace_bottlenecks
from vertebra.lab.charts import grouped_bars, network_bars
from vertebra.lab.convolution_chains import convolution_chains, macs_with_plain_blocks
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.forward_timing import ratio_figure, time_forward, timed_batch
from vertebra.lab.user_networks import inspect_own
from vertebra.models import resnet50
from vertebra.models.layers import Layer
from vertebra.models.resnet import BasicBlock, Bottleneck
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

BOTTLENECK, PLAIN, NARROW = "bottleneck, 256 channels", "plain, 256 channels", "plain, 64 channels"
EQUAL, AT_EQUAL_MACS = "weights, plain over bottleneck", "weights, plain of 64 channels over bottleneck"
TIMES = ("time, plain over bottleneck", "time, plain of 64 channels over bottleneck")
CLAIM = Claim(
    family="ResNet",
    stated_by="article l.313",
    claim="A bottleneck (1×1 compresses, 3×3 for space, 1×1 restores) costs less than plain convolutions.",
    claim_ja="ボトルネックは1×1で圧縮し、3×3で空間方向の特徴を取り出し、1×1で復元するので、通常の畳み込みよりコストが低い。",
    should_hold="At 256 channels 69,632 weights against 1,179,648 (16.9 times), about those of a 64-wide plain block.",
    source="counts; He 2015 Fig. 5",
    rule="Holds if at 256 channels the bottleneck has fewer weights than two plain 3×3 and takes less time (95 % "
    "interval of the ratio above 1); in part if only one of the two; else it does not hold.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="ResNet's bottleneck against two plain blocks",
    caption="Bars above 1 cost more than the bottleneck of 256 channels. Times are of untrained blocks.",
    networks_title="MACs of networks with bottlenecks, and with two plain 3×3 in their place",
    networks_caption="A bottleneck is a 1×1 that narrows, a larger convolution and a 1×1 that restores.",
    seconds=10,
    expected={
        **{f"weights, {name}": Expected(n, "counts") for name, n in ((PLAIN, 1_179_648), (BOTTLENECK, 69_632))},
        f"weights, {NARROW}": Expected(73_728, "counts; He 2015 Fig. 5"),
        EQUAL: Expected(16.94, "counts", 0.001),
        "parameters, plain over bottleneck": Expected(16.77, "counts", 0.001),
        AT_EQUAL_MACS: Expected(1.06, "counts", 0.002),
        "ResNet-50 with plain blocks: parameters": Expected(341.8e6, "counts", 0.001),
        "ResNet-50 with plain blocks: MACs": Expected(55.5e9, "counts", 0.001),
    },
)


def measure(setup: Setup, bottleneck: Layer = Bottleneck) -> Measured:
    """Count three blocks and a network, then time the blocks in turns."""
    blocks = {BOTTLENECK: bottleneck(256, 64), PLAIN: BasicBlock(256, 256), NARROW: BasicBlock(64, 64)}
    weights = {name: sum(p.numel() for p in block.parameters() if p.ndim == 4) for name, block in blocks.items()}
    parameters = {name: sum(p.numel() for p in block.parameters()) for name, block in blocks.items()}
    with meta_build():
        plain = inspect(replace_bottlenecks(resnet50()), 224)
    figures = {
        **{f"weights, {name}": Figure(count) for name, count in weights.items()},
        EQUAL: Figure(weights[PLAIN] / weights[BOTTLENECK], "×"),
        "parameters, plain over bottleneck": Figure(parameters[PLAIN] / parameters[BOTTLENECK], "×"),
        AT_EQUAL_MACS: Figure(weights[NARROW] / weights[BOTTLENECK], "×"),
        "ResNet-50 with plain blocks: parameters": Figure(plain.parameters),
        "ResNet-50 with plain blocks: MACs": Figure(plain.macs),
    }
    if not setup.quick:
        shapes = {name: (timed_batch(setup.device, 8), 64 if name == NARROW else 256, 28, 28) for name in blocks}
        timings = time_forward(setup, blocks, shapes, seconds=8)
        figures |= {t: ratio_figure(timings, arm, BOTTLENECK) for t, arm in zip(TIMES, (PLAIN, NARROW), strict=True)}
    return Measured(figures)


def judge(measured: Measured) -> Judgement:
    """Fewer weights, and less time, at equal channels?"""
    times = [measured.figures[name].interval or (0, 0) for name in TIMES if name in measured.figures]
    decided_by = (EQUAL, *(TIMES if times else ()))
    if measured.value(EQUAL) <= 1:
        if times and times[0][0] > 1:
            return Judgement(Verdict.IN_PART, "It takes less time, but has no fewer weights.", decided_by)
        return Judgement(Verdict.FAILS, "It has no fewer weights.", decided_by)
    if not times:
        return Judgement(Verdict.HOLDS, "It has fewer weights; the time was not measured.", decided_by)
    if times[0][0] <= 1:
        return Judgement(Verdict.IN_PART, "It has fewer weights, but is not shown to take less time.", decided_by)
    where = "at equal channels, more at equal MACs." if times[1][1] < 1 else "at equal channels."
    return Judgement(Verdict.HOLDS, f"It has fewer weights and takes less time {where}", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Weights and time of the two plain blocks, relative to the bottleneck."""
    shown = {c: own for c, own in (("weights", (EQUAL, AT_EQUAL_MACS)), ("time", TIMES)) if own[0] in measured.figures}
    series = {arm: [measured.value(own[i]) for own in shown.values()] for i, arm in enumerate((PLAIN, NARROW))}
    grouped_bars(canvas.subplots(), list(shown), series, "relative to the bottleneck of 256 channels, ×")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count each network, and with two 3×3 in place of each bottleneck."""
    return measure_each(_count, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Are there more MACs with plain blocks?"""
    return judge_each(_judge_count, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Each network with either block."""
    kinds = {"as it is": "MACs", "with plain blocks": "MACs with plain blocks"}
    network_bars(canvas.subplots(), measured, kinds, "MACs, billions", 1e9)


def _count(name: str, network: nn.Module) -> Measured:
    rows = inspect_own(network).rows
    bottlenecks = sum(chain.is_bottleneck for chain in convolution_chains(rows))
    if not bottlenecks:
        raise UsageError(f"{name} has no bottleneck: no 1×1 that narrows, larger convolution and 1×1 that restores.")
    macs, plain = Figure(sum(row.macs for row in rows)), Figure(macs_with_plain_blocks(rows))
    return Measured({"bottlenecks": Figure(bottlenecks), "MACs": macs, "MACs with plain blocks": plain})


def _judge_count(measured: Measured) -> Judgement:
    saves = measured.value("MACs with plain blocks") > measured.value("MACs")
    reason = "Bottlenecks cost fewer MACs than plain blocks." if saves else "Bottlenecks cost no fewer MACs."
    return Judgement(Verdict.HOLDS if saves else Verdict.FAILS, reason, ("MACs", "MACs with plain blocks"))
