"""Claim 5: what the 1×1 convolutions in front of GoogLeNet's larger ones save, in arithmetic and in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.errors import UsageError
from vertebra.introspect import UnreducedInception, UnreducedInceptionWith5x5, googlenet_with
from vertebra.lab.charts import grouped_bars, network_bars
from vertebra.lab.convolution_chains import convolution_chains, macs_without_reductions
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.forward_timing import ratio_figure, time_forward, timed_batch
from vertebra.lab.user_networks import inspect_own
from vertebra.models.googlenet import Inception
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="GoogLeNet",
    stated_by="article l.108, 278",
    claim="1×1 convolutions reduce channels and computation.",
    claim_ja="1×1畳み込みは、チャンネル数と計算量を減らすためにある。",
    should_hold="Without the 1×1 in front of its 3×3, GoogLeNet has 2.19 times the MACs and 2.78 times the parameters.",
    source="counts; Szegedy 2015 §4",
    rule="Holds if every 1×1 in front of a larger convolution narrows, the network has more MACs without them, and it "
    "takes more time (95 % interval of the ratio above 1); in part if some of this holds; else it does not hold.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="GoogLeNet with and without the 1×1 in front of its larger convolutions",
    caption="Bars are relative to the network as it is; above 1 the 1×1 save. The time is of untrained networks.",
    networks_title="MACs with and without the 1×1 that narrow in front of larger convolutions",
    networks_caption="Lower bars: larger convolutions read what their 1×1 read. Where they are longer, the 1×1 save.",
    seconds=12,
    expected={
        "MACs": Expected(1_498_376_192, "counts"),
        "MACs without 1×1": Expected(3_281_731_584, "counts"),
        "MACs, ratio": Expected(2.19, "counts", 0.003),
        "MACs without 1×1, true 5×5": Expected(4_426_547_200, "counts"),
        "parameters without 1×1": Expected(18_389_512, "counts"),
        "parameters, ratio": Expected(2.78, "counts", 0.003),
        "parameters without 1×1, true 5×5": Expected(25_311_752, "counts"),
        "the reductions' share of the MACs": Expected(9.6, "counts", 0.005),
    },
)
TIME, FRONT, NARROW = "time, ratio", "1×1 in front of a larger convolution", "1×1 in front that narrow"


def measure(setup: Setup, inception: Layer = Inception, unreduced: Layer = UnreducedInception) -> Measured:
    """Count the modules' 1×1 and the networks at 224 × 224, then time two of them in turns."""
    arms = {"": inception, " without 1×1": unreduced, " without 1×1, true 5×5": UnreducedInceptionWith5x5}
    with meta_build():
        counts = {arm: inspect(googlenet_with(module), 224) for arm, module in arms.items()}
    rows = [row for row in counts[""].rows if row.name.startswith("inception")]
    fronts = [chain for chain in convolution_chains(rows) if chain.front]
    reductions = sum(chain.front.macs for chain in fronts if chain.front)
    figures = {
        FRONT: Figure(len(fronts)),
        NARROW: Figure(sum(chain.narrows for chain in fronts)),
        "the reductions' share of the MACs": Figure(100 * reductions / counts[""].macs, "%"),
        "MACs, ratio": Figure(counts[" without 1×1"].macs / counts[""].macs, "×"),
        "parameters, ratio": Figure(counts[" without 1×1"].parameters / counts[""].parameters, "×"),
    }
    for arm, found in counts.items():
        figures |= {f"MACs{arm}": Figure(found.macs), f"parameters{arm}": Figure(found.parameters)}
    if not setup.quick:
        n, timed = timed_batch(setup.device, 4), {a: googlenet_with(arms[a], init_weights=False) for a in [*arms][:2]}
        timings = time_forward(setup, timed, (n, 3, 224, 224), seconds=10)
        figures[TIME] = ratio_figure(timings, " without 1×1", "")
        figures |= {f"time of {n} images{arm}": Figure(timings.median_ms(arm), "ms", timings.rounds) for arm in timed}
    return Measured(figures)


def judge(measured: Measured) -> Judgement:
    """Do all narrow, and are both arithmetic and time saved?"""
    time = measured.figures.get(TIME)
    decided_by = (NARROW, FRONT, "MACs, ratio", *([TIME] if time else []))
    narrows = 0 < measured.value(FRONT) == measured.value(NARROW)
    if measured.value("MACs, ratio") <= 1:
        return Judgement(Verdict.IN_PART if narrows else Verdict.FAILS, "They save no arithmetic.", decided_by)
    if not narrows:
        return Judgement(Verdict.IN_PART, "They save arithmetic, but not every one narrows.", decided_by)
    if time is None:
        return Judgement(Verdict.HOLDS, "All narrow, and they save arithmetic; the time was not measured.", decided_by)
    if time.interval and time.interval[0] > 1:
        return Judgement(Verdict.HOLDS, "All narrow, and they save arithmetic and time.", decided_by)
    return Judgement(Verdict.IN_PART, "All narrow and save arithmetic, but it is not shown to save time.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Ratios of the costs that were measured."""
    ratios = {name.partition(",")[0]: f.value for name, f in measured.figures.items() if name.endswith(", ratio")}
    series = {"as it is": [1.0] * len(ratios), "without 1×1 in front": list(ratios.values())}
    grouped_bars(canvas.subplots(), list(ratios), series, "cost relative to GoogLeNet as it is, ×")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count each network, and what its larger convolutions would need without the 1×1 that narrow in front."""
    return measure_each(_count, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Are there more MACs without?"""
    return judge_each(_judge_count, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Each network with and without."""
    kinds = {"as it is": "MACs", "without 1×1 in front": "MACs without 1×1"}
    network_bars(canvas.subplots(), measured, kinds, "MACs, billions", 1e9)


def _count(name: str, network: nn.Module) -> Measured:
    found = inspect_own(network)
    reductions, without = macs_without_reductions(found.rows)
    if not reductions:
        raise UsageError(f"{name} has no 1×1 convolution that narrows in front of a larger one (not depthwise).")
    return Measured({"MACs": Figure(found.macs), "MACs without 1×1": Figure(without), NARROW: Figure(len(reductions))})


def _judge_count(measured: Measured) -> Judgement:
    saves = measured.value("MACs without 1×1") > measured.value("MACs")
    reason = "Without these 1×1 there would be more MACs." if saves else "These 1×1 save no MACs."
    return Judgement(Verdict.HOLDS if saves else Verdict.FAILS, reason, ("MACs", "MACs without 1×1"))
