"""Claim 35: which blocks have squeeze-excitation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.errors import UsageError
from vertebra.graph.cost import CONVOLUTIONS
from vertebra.introspect import find_gates
from vertebra.lab.charts import stacked_bars
from vertebra.lab.each_network import each_measured, judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import inspect_own
from vertebra.models import create_model
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="EfficientNet",
    stated_by="article l.974",
    claim="SE is there in some cases.",
    claim_ja="MBConvにSEが入るかどうかは、場合によって異なる。",
    should_hold="Every MBConv has it, 16 of 16 in B0 and 30 of 30 in V2-S; no FusedMBConv has it, 0 of 10; and Lite "
    "has none at all.",
    source="torchvision 0.29; EfficientNetV2 Table 4",
    rule="Holds if in B0 or V2-S some blocks of one kind have a gate and others do not; in part if in one of them the "
    "kinds of blocks differ, and the blocks of a kind are alike; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Blocks with and without squeeze-excitation",
    caption="Gates are found in the graph: a feature map that is multiplied by one number between 0 and 1 for each "
    "channel. A bar of one colour is a kind of block that has them always or never.",
    seconds=1,
    expected={
        "B0: MBConv: with gate": Expected(16, "torchvision 0.29"),
        "B0: MBConv: without": Expected(0, "torchvision 0.29"),
        "V2-S: MBConv: with gate": Expected(30, "torchvision 0.29; EfficientNetV2 Table 4"),
        "V2-S: MBConv: without": Expected(0, "torchvision 0.29; EfficientNetV2 Table 4"),
        "V2-S: FusedMBConv: with gate": Expected(0, "torchvision 0.29; EfficientNetV2 Table 4"),
        "V2-S: FusedMBConv: without": Expected(10, "torchvision 0.29; EfficientNetV2 Table 4"),
        "Lite0: MBConv: with gate": Expected(0, "the authors' code"),
    },
)
_NAMES = {"B0": "efficientnet_b0", "V2-S": "efficientnet_v2_s", "Lite0": "efficientnet_lite0"}
_HAS = ("with gate", "without")


def measure(setup: Setup, **networks: nn.Module) -> Measured:
    """Look for gates in each block; a network given by its name in `_NAMES` is measured instead."""
    with meta_build():
        own = {name: networks.get(builder) or create_model(builder) for name, builder in _NAMES.items()}
    return measure_each(lambda _, network: _counted(network), own, setup)


def _counted(network: nn.Module) -> Measured:
    """Blocks with and without a gate, by type; a block of any instance of its type has at least two convolutions."""
    anatomy, modules = inspect_own(network), dict(network.named_modules())
    blocks = {group.name: group.rows for group in anatomy.blocks if group.name in modules}
    kinds = {name: type(modules[name]).__name__ for name in blocks}
    counts = {kinds[n]: [0, 0] for n, rows in blocks.items() if sum(row.kind in CONVOLUTIONS for row in rows) > 1}
    gated = {gate.product.block for gate in find_gates(anatomy.rows)}
    for name, kind in kinds.items():
        if kind in counts:
            counts[kind][name not in gated] += 1
    figures = {f"{k}: {has}": Figure(n) for k, own in counts.items() for has, n in zip(_HAS, own, strict=True)}
    return Measured(figures, {"kinds": list(counts)})


def judge(measured: Measured) -> Judgement:
    """Of B0 and V2-S, the one that says most for the claim; Lite stands beside them."""
    found = [(name, _judge(own)) for name, own in each_measured(measured).items() if name != "Lite0"]
    order = (Verdict.HOLDS, Verdict.IN_PART, Verdict.FAILS)
    best = min((judgement for _, judgement in found), key=lambda judgement: order.index(judgement.verdict))
    decided_by = tuple(f"{name}: {what}" for name, judgement in found for what in judgement.decided_by)
    return Judgement(best.verdict, best.reason, decided_by)


def _judge(measured: Measured) -> Judgement:
    """Are the blocks of a kind alike, and the kinds?"""
    counts = {kind: [measured.value(f"{kind}: {has}") for has in _HAS] for kind in measured.series["kinds"]}
    decided_by = tuple(f"{kind}: {_HAS[not own[0]]}" for kind, own in counts.items())
    if any(all(own) for own in counts.values()):
        return Judgement(Verdict.HOLDS, "Some blocks of one kind have a gate and others do not.", decided_by)
    if any(own[0] for own in counts.values()) and any(own[1] for own in counts.values()):
        reason = "It depends on the kind of block: within a network the blocks of a kind have it always or never."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    return Judgement(Verdict.FAILS, "All blocks of a network are alike: all have a gate, or none.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Blocks of each network and kind."""
    own = [(name, kind) for name, series in measured.series["networks"].items() for kind in series["kinds"]]
    parts = {has: [measured.value(f"{name}: {kind}: {has}") for name, kind in own] for has in _HAS}
    stacked_bars(canvas.subplots(), [f"{name}, {kind}" for name, kind in own], parts, "blocks")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same for each network; one without blocks is refused."""
    return measure_each(_counted_own, networks, setup)


def _counted_own(name: str, network: nn.Module) -> Measured:
    measured = _counted(network)
    if not measured.series["kinds"]:
        raise UsageError(f"{name} has no blocks (modules with two or more convolutions) that could have a gate.")
    return measured


def judge_networks(measured: Measured) -> Judgement:
    """The rule for each network."""
    return judge_each(_judge, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """The same."""
    draw(measured, canvas)
