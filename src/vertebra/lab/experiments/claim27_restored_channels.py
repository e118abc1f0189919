"""Claim 27: whether GoogLeNet's branches restore the channels that their 1×1 took away, beside ResNet's bottleneck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.anatomy import inspect
from vertebra.errors import UsageError
from vertebra.introspect import googlenet_with
from vertebra.lab.charts import BLUE, ORANGE, network_bars
from vertebra.lab.convolution_chains import Chain, convolution_chains
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import inspect_own
from vertebra.models.googlenet import Inception
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="GoogLeNet",
    stated_by="article l.914",
    claim="GoogLeNet reduces by 1×1, convolves, then restores the channel count.",
    claim_ja="GoogLeNetでは、1×1で絞ったチャンネル数が、畳み込みのあとで元の数に復元される。",
    should_hold="No 1×1 follows a 3×3 in its nine modules, no branch restores: that is ResNet's bottleneck.",
    source="source; Szegedy 2015 Table 1",
    rule="Holds if most branches that narrow by a 1×1 end with as many channels as they read, or more; in part if some "
    "do, or if most modules come out of the concatenation with the channels that they took in; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Channels along GoogLeNet's branches and ResNet-50's bottlenecks",
    caption="Each line is one branch or block with a 1×1 that narrows; lines that come back to 1 or above restore.",
    networks_title="Convolutions narrowed by a 1×1 in front, and restored behind",
    networks_caption="Where both bars are equal, all restore: they end with at least the channels that their 1×1 read.",
    seconds=1,
    expected={
        "modules whose branches end in 1×1, 3×3, 3×3, 1×1": Expected(9, "source"),
        "1×1 behind a larger convolution": Expected(0, "source"),
        **{f"channels into {name}": Expected(count, "source") for name, count in (("3a", 192), ("5b", 832))},
        **{f"channels out of {name}": Expected(count, "source") for name, count in (("3a", 256), ("5b", 1024))},
    },
)
NARROW, RESTORE, BEHIND = "narrowed by a 1×1 in front", "restored behind it", "1×1 behind a larger convolution"
MODULES, EQUAL = "modules", "modules with as many channels out as in"


def measure(setup: Setup, inception: Layer = Inception) -> Measured:
    """Follow the channels through every branch, on the meta device."""
    with meta_build():
        network = googlenet_with(inception)
    modules: dict[str, Any] = {name[9:]: m for name, m in network.named_children() if name.startswith("inception")}
    rows = [row for row in inspect(network, 224).rows if row.name.startswith("inception")]
    chains = {"GoogLeNet": convolution_chains(rows), "ResNet-50": convolution_chains(inspect("resnet50", 224).rows)}
    ends = [[_convolutions(path)[-1].kernel_size[0] for path in module.children()] for module in modules.values()]
    channels = {name: (_convolutions(module)[0].in_channels, module.out_channels) for name, module in modules.items()}
    figures = _counts(chains["GoogLeNet"]) | {
        MODULES: Figure(len(modules)),
        EQUAL: Figure(sum(reads == writes for reads, writes in channels.values())),
        "modules whose branches end in 1×1, 3×3, 3×3, 1×1": Figure(ends.count([1, 3, 3, 1])),
    }
    for name, (reads, writes) in channels.items():
        figures |= {f"channels into {name}": Figure(reads), f"channels out of {name}": Figure(writes)}
    figures |= {f"ResNet-50: {what}": figure for what, figure in _counts(chains["ResNet-50"]).items()}
    return Measured(figures, {name: [chain.channels for chain in own if chain.narrows] for name, own in chains.items()})


def judge(measured: Measured) -> Judgement:
    """Do the branches restore, or does the concatenation give the same number?"""
    branches, decided_by = _judge_branches(measured), (RESTORE, NARROW, EQUAL, MODULES)
    if branches.verdict is Verdict.FAILS and measured.value(EQUAL) > measured.value(MODULES) / 2:
        return Judgement(Verdict.IN_PART, "None restores, but most modules write as many as they read.", decided_by)
    return Judgement(branches.verdict, branches.reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """One line a branch, relative to its input."""
    panels = canvas.subplots(1, 2, sharey=True)
    for axes, (name, lines), color in zip(panels, measured.series.items(), (BLUE, ORANGE), strict=True):
        for channels in lines:
            axes.plot([n / channels[0] for n in channels], "o-", color=color, alpha=0.5)
        axes.axhline(1, color="0.4", linewidth=1)
        axes.set_xticks(range(3), ["read", "behind the\n1×1 in front", "at the end"])
        axes.set_title(f"{name}: {len(lines)} that narrow", fontsize=10)
        axes.margins(x=0.2)
    panels[0].set(ylabel="channels, relative to those read", ylim=(0, None))


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count the larger convolutions behind a 1×1 that narrows, and those with a 1×1 behind that restores."""
    return measure_each(_count_network, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Do most restore?"""
    return judge_each(_judge_branches, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Narrowed and restored, for each network."""
    network_bars(canvas.subplots(), measured, {"narrowed": NARROW, "restored": RESTORE}, "convolutions")


def _count_network(name: str, network: nn.Module) -> Measured:
    figures = _counts(convolution_chains(inspect_own(network).rows))
    if not figures[NARROW].value:
        raise UsageError(f"{name} has no 1×1 convolution that narrows in front of a larger one: nothing to restore.")
    return Measured(figures)


def _judge_branches(measured: Measured) -> Judgement:
    restored, decided_by = measured.value(RESTORE), (RESTORE, NARROW)
    if not restored:
        return Judgement(Verdict.FAILS, "None that narrows restores the channels it read.", decided_by)
    if restored <= measured.value(NARROW) / 2:
        return Judgement(Verdict.IN_PART, "Some that narrow restore the channels they read, not most.", decided_by)
    return Judgement(Verdict.HOLDS, "Most that narrow restore the channels they read.", decided_by)


def _counts(chains: list[Chain]) -> dict[str, Figure]:
    counts = {NARROW: [c.narrows for c in chains], RESTORE: [c.restores for c in chains]}
    counts[BEHIND] = [chain.behind is not None for chain in chains]
    return {what: Figure(sum(found)) for what, found in counts.items()}


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
