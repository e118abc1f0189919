"""Claim 30: where DenseNet's 1×1 convolutions cut channels, and what the network would cost without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.errors import UsageError
from vertebra.introspect import simplify_densenet
from vertebra.lab.charts import BLUE, ORANGE, bars, stacked_bars
from vertebra.lab.convolution_chains import direction, in_channels, pointwise
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import inspect_own
from vertebra.models import densenet121
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

VARIANTS = {"as it is": (1, 1), "without bottleneck": (0, 1), "without halving": (1, 0), "with neither": (0, 0)}
PARAMETERS, MACS = (7_978_856, 10_869_096, 13_908_584, 20_812_904), (2.83e9, 3.05e9, 3.92e9, 4.72e9)  # of these
WAYS = ("narrow", "keep", "widen")
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.613, 742–743",
    claim="1×1 cuts the channels in the bottleneck; the transition cuts channels and area.",
    claim_ja="ボトルネックでは1×1がチャンネル数を減らし、遷移層では1×1と平均プーリングがチャンネル数と面積を減らす。",
    should_hold="54 of DenseNet-121's 58 bottlenecks narrow, 2 keep and 2 widen (64, 96 → 128); transitions cut both.",
    source="counts; DenseNet 2017 §3 (-BC)",
    rule="Holds if more than nine of ten bottlenecks write fewer channels by their 1×1 than they read, and every "
    "transition cuts both channels and area; in part if one of the two; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="What DenseNet-121's 1×1 convolutions cut",
    caption="Left: dots above the line are bottlenecks that narrow. Right: above 1, the missing part saves.",
    networks_title="1×1 convolutions that narrow, keep or widen the channels",
    networks_caption="All dense 1×1 convolutions on feature maps (those of gates are left out).",
    seconds=2,
    expected={
        **{f"bottlenecks that {way}": Expected(n, "counts") for way, n in zip(WAYS, (54, 2, 2), strict=True)},
        **{f"parameters, {name}": Expected(n, "counts") for name, n in zip(VARIANTS, PARAMETERS, strict=True)},
        **{f"MACs, {name}": Expected(n, "counts", 0.002) for name, n in zip(VARIANTS, MACS, strict=True)},
    },
)
BOTTLENECKS, NARROW = "bottlenecks", "bottlenecks that narrow"
TRANSITIONS, CUT_CHANNELS, CUT_AREA = "transitions", "transitions that cut channels", "transitions that cut the area"


def measure(setup: Setup, build: Layer = densenet121) -> Measured:
    """Count the 1×1 of the layers and the transitions at 224 × 224, and the cost of each variant."""
    figures: dict[str, Figure] = {}
    with meta_build():
        rows = inspect(build(), 224).layers
        for variant, (bottleneck, halving) in VARIANTS.items():
            found = inspect(simplify_densenet(densenet121(), bottleneck=bool(bottleneck), halving=bool(halving)), 224)
            figures |= {f"parameters, {variant}": Figure(found.parameters), f"MACs, {variant}": Figure(found.macs)}
    bottlenecks = [row for row in pointwise(rows) if "denselayer" in row.module]
    transitions = {row.module.rpartition(".")[0]: row for row in rows if ".transition" in row.module and row.macs}
    last = {name: [row for row in rows if row.module.startswith(name)][-1] for name in transitions}
    figures |= {
        BOTTLENECKS: Figure(len(bottlenecks)),
        **{f"bottlenecks that {way}": Figure([*map(direction, bottlenecks)].count(f"{way}s")) for way in WAYS},
        TRANSITIONS: Figure(len(transitions)),
        CUT_CHANNELS: Figure(sum(last[name].output_shape[1] < in_channels(row) for name, row in transitions.items())),
        CUT_AREA: Figure(sum(last[n].output_shape[2:] < row.input_shapes[0][2:] for n, row in transitions.items())),
    }
    written = [row.output_shape[1] for row in bottlenecks]
    return Measured(figures, {"read": [*map(in_channels, bottlenecks)], "written": written})


def judge(measured: Measured) -> Judgement:
    """Do the bottlenecks narrow, and do the transitions cut both?"""
    decided_by = (NARROW, BOTTLENECKS, CUT_CHANNELS, CUT_AREA, TRANSITIONS)
    narrow, bottlenecks, channels, area, transitions = (measured.value(name) for name in decided_by)
    is_narrow, is_cut = narrow > 0.9 * bottlenecks, channels == area == transitions > 0
    reasons = {
        (True, True): "The transitions cut both, and the bottlenecks narrow, but for at most a few.",
        (True, False): "The bottlenecks narrow, but not every transition cuts both channels and area.",
        (False, True): "The transitions cut both, but too few bottlenecks narrow.",
        (False, False): "Too few bottlenecks narrow, and not every transition cuts both channels and area.",
    }
    verdict = (Verdict.FAILS, Verdict.IN_PART, Verdict.HOLDS)[is_narrow + is_cut]
    return Judgement(verdict, reasons[is_narrow, is_cut], decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Channels read and written by each bottleneck's 1×1, and the MACs of each variant."""
    channels, cost = canvas.subplots(1, 2, width_ratios=(3, 2))
    channels.plot(measured.series["read"], ".", color=BLUE, label="read")
    channels.plot(measured.series["written"], "-", color=ORANGE, label="written")
    channels.set(xlabel="bottleneck", ylabel="channels of the 1×1", ylim=(0, None))
    channels.legend()
    macs = {name: measured.value(f"MACs, {name}") for name in VARIANTS}
    bars(cost, {name: own / macs["as it is"] for name, own in macs.items()}, "MACs relative to as it is, ×")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count the 1×1 of each network by what they do to the channels."""
    return measure_each(_directions, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Do nine of ten narrow?"""
    return judge_each(_judge_directions, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Counts of the three kinds, for each network."""
    names = list(measured.series["networks"])
    parts = {way: [measured.value(f"{name}: {way}") for name in names] for way in WAYS}
    stacked_bars(canvas.subplots(), names, parts, "1×1 convolutions")


def _directions(name: str, network: nn.Module) -> Measured:
    found = [direction(row) for row in pointwise(inspect_own(network).rows)]
    if not found:
        raise UsageError(f"{name} has no 1×1 convolution on its feature maps.")
    return Measured({way: Figure(found.count(f"{way}s")) for way in WAYS})


def _judge_directions(measured: Measured) -> Judgement:
    narrow, keep, widen = (measured.value(way) for way in WAYS)
    if narrow <= 0.9 * (narrow + keep + widen):
        reason = "Some 1×1 narrow, others do not." if narrow else "No 1×1 narrows."
        return Judgement(Verdict.IN_PART if narrow else Verdict.FAILS, reason, WAYS)
    return Judgement(Verdict.HOLDS, "More than nine of ten 1×1 narrow.", WAYS)
