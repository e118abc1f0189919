"""Claim 19: which blocks of MobileNetV2 have a skip connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.introspect import residual_blocks, shapes_of
from vertebra.lab.charts import stacked_bars
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import inspect_own

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="MobileNetV2",
    stated_by="article l.924",
    claim="The skip is only where channels and resolution match.",
    claim_ja="スキップ接続があるのは、入力と出力でチャンネル数も解像度も等しいブロックだけである。",
    should_hold="Of 17 blocks 10 have a skip; 3 have none at stride 1, where the channels change, and 4 none at "
    "stride 2.",
    source="torchvision 0.29",
    rule="Holds if no block that changes the shape adds its input or a projection of it, and each block that keeps the "
    "shape adds its input; in part if none of the former does, but not each of the latter; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="MobileNetV2: blocks with and without a skip connection",
    caption="Blocks by what they do to the shape of their input. The claim allows a skip in the first row alone.",
    networks_title="Blocks with and without a skip connection",
    networks_caption="Blocks of the kinds that have a skip somewhere in the network, by what they do to the shape of "
    "their input. The claim allows a skip where the shape stays alone.",
    seconds=1,
    expected={
        "blocks": Expected(17, "torchvision 0.29"),
        "shape stays: skip": Expected(10, "torchvision 0.29"),
        "channels change: no skip": Expected(3, "torchvision 0.29"),
        "resolution changes: no skip": Expected(4, "torchvision 0.29"),
    },
)
_CHANGES = ("shape stays", "channels change", "resolution changes")
_SKIPS = {"skip": "input added", "projection": "projection of the input added", "no skip": "nothing added"}


def measure(setup: Setup, network: str | nn.Module = "mobilenet_v2") -> Measured:
    """Run the graph at 224 × 224, and look at what each block adds.

    The blocks are the modules of those types of which at least one adds its input.
    """
    anatomy = inspect(network) if isinstance(network, str) else inspect_own(network)
    subject = anatomy.subject
    adds = {block.path: block.is_identity for block in residual_blocks(subject.network, subject.args[0])}
    kinds = {type(subject.network.get_submodule(path)) for path in adds}
    counts = {f"{change}: {skip}": 0 for change in _CHANGES for skip in _SKIPS}
    for path, module in subject.network.named_modules():
        shapes = shapes_of(path, anatomy.rows) if type(module) in kinds else None
        if shapes is not None:
            skip = "no skip" if path not in adds else "skip" if adds[path] else "projection"
            counts[f"{_change(*shapes)}: {skip}"] += 1
    figures = {name: Figure(count) for name, count in counts.items()}
    return Measured({"blocks": Figure(sum(counts.values()))} | figures)


def _change(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    return _CHANGES[0 if before == after else 1 if before[2:] == after[2:] else 2]


def judge(measured: Measured) -> Judgement:
    """Is there a skip where the shape changes, and none where it stays?"""
    other = sum(measured.value(f"{change}: {skip}") for change in _CHANGES[1:] for skip in ("skip", "projection"))
    decided_by = ("shape stays: skip", "channels change: no skip", "resolution changes: no skip")
    if other:
        decided_by = ("channels change: projection", "resolution changes: projection", *decided_by[:1])
        return Judgement(Verdict.FAILS, "Blocks that change the shape have a skip too, with a projection.", decided_by)
    if measured.value("shape stays: no skip"):
        reason = "No block that changes the shape has a skip, but some that keep it have none either."
        return Judgement(Verdict.IN_PART, reason, ("shape stays: no skip", *decided_by))
    return Judgement(Verdict.HOLDS, "All blocks that keep the shape have a skip, and no others.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Blocks by change of shape, and what they add."""
    _draw(measured, {"": ""}, canvas)


def _draw(measured: Measured, prefixes: Mapping[str, str], canvas: Canvas) -> None:
    rows = {f"{label}{change}": f"{prefix}{change}" for label, prefix in prefixes.items() for change in _CHANGES}
    parts = {text: [measured.value(f"{row}: {skip}") for row in rows.values()] for skip, text in _SKIPS.items()}
    stacked_bars(canvas.subplots(), list(rows), parts, "blocks")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same for each network."""
    return measure_each(lambda _, network: measure(setup, network), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """The same rule for each."""
    return judge_each(judge, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """The same for each."""
    _draw(measured, {f"{name}, ": f"{name}: " for name in measured.series["networks"]}, canvas)
