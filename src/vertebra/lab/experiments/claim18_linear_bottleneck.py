"""Claim 18: 1×1 widens, then narrows, and the narrow end has no activation, which would lose information there."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from vertebra import intervals
from vertebra.anatomy import inspect
from vertebra.graph.cost import CONVOLUTIONS
from vertebra.graph.cost import Kind as Operation
from vertebra.lab.charts import seeds
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import fit_all
from vertebra.lab.relu_information import Array, lost_share, relu
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallMBConvNet
from vertebra.models import mobilenet_v2
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="MobileNetV2",
    stated_by="article l.909–913, 917–921; code l.794",
    claim="1×1 widens, then narrows (article); the narrow end has no activation (quoted comment).",
    claim_ja="逆残差ブロックは1×1でチャンネルを広げ、最後の1×1で狭める(記事)。狭い側には活性化関数を置かない(引用コードのコメント)。",
    should_hold="All 17 blocks end without an activation and 16 widen first. A ReLU in few channels loses information, "
    "in many hardly any, and networks with a ReLU6 behind the last 1×1 fit worse.",
    source="torchvision 0.29; MobileNetV2 2018 Fig. 1 and 6a",
    rule="It does not hold if the last 1×1 of a block widens or has an activation behind it, or if more than one block "
    "does not widen. Else it holds if a ReLU loses over 10 % of a spiral in 2 channels and under 1 % in 15 (medians of "
    "200 random maps), and at widths 4 and 8 each training with a ReLU6 bottleneck ends with a higher training loss "
    "than all with a linear one; otherwise in part.",
    decided_by=(Kind.COUNT, Kind.INIT, Kind.TRAINING),
    title="What an activation in few channels costs",
    caption="Left: variance of a spiral that a linear decoder cannot recover behind a ReLU in so many channels, median "
    "of 200 random maps. Right, where it was run: each dot is a training on 8 × 8 digits; an activation costs where "
    "relu6 lies to the right of linear.",
    seconds=33,
    seeds=5,
    expected={
        "blocks": Expected(17, "torchvision 0.29"),
        "blocks that widen": Expected(16, "torchvision 0.29; Table 2 has t = 1 in the first"),
        "blocks that end narrower, without an activation": Expected(17, "torchvision 0.29"),
    },
)
MAPS, CHANNELS, WIDTHS = 200, (2, 3, 5, 10, 15, 30), (4, 8)
PROTOCOL = Protocol(epochs=8)
_NARROW = "blocks that end narrower, without an activation"
Arms = Mapping[str, Callable[..., SmallMBConvNet]]
ARMS: Arms = {f"width {w}, {b}": partial(SmallMBConvNet, w, bottleneck=b) for w in WIDTHS for b in ("linear", "relu6")}
Build = Callable[[], nn.Module]


def measure(
    setup: Setup, build: Build = mobilenet_v2, activation: Callable[[Array], Array] = relu, arms: Arms = ARMS
) -> Measured:
    """Read the blocks off the graph, decode spirals, and, unless quick, train."""
    with meta_build():
        figures = _blocks(build())
    for n in CHANNELS:
        lost = [100 * lost_share(n, seed, activation) for seed in range(MAPS)]
        figures[f"spiral lost in {n} channels"] = Figure(statistics.median(lost), "%", MAPS, intervals.median(lost))
    if setup.quick:
        return Measured(figures)
    split, where = digits().split, setup.device
    curves = fit_all(arms, range(setup.seeds), split, PROTOCOL, device=where, progress=setup.progress)
    losses = {arm: [curve.train_loss[-1] for curve in own] for arm, own in curves.items()}
    for arm, own in curves.items():
        figures[f"training loss, {arm}"] = over_seeds(losses[arm]).figure()
        figures[f"validation accuracy, {arm}"] = over_seeds([100 * curve.val_accuracy[-1] for curve in own]).figure("%")
    for width in WIDTHS:
        gap = min(losses[f"width {width}, relu6"]) - max(losses[f"width {width}, linear"])
        figures[f"lowest loss with ReLU6 less highest linear, width {width}"] = Figure(gap, n=setup.seeds)
    return Measured(figures, {"losses": losses})


def _blocks(network: nn.Module) -> dict[str, Figure]:
    widen, narrow, count = 0, 0, 0
    for block in inspect(network, 224).blocks:
        if any(row.kind is Operation.DEPTHWISE for row in block.rows):
            convolutions = [row for row in block.rows if row.kind in CONVOLUTIONS]
            behind = [row for row in block.rows if row.index > convolutions[-1].index]
            first, last = (row.weight_shape for row in (convolutions[0], convolutions[-1]))
            count += 1
            widen += convolutions[0].kind is Operation.POINTWISE and first[0] > first[1]
            narrow += last[0] < last[1] and {row.op for row in behind} <= {"batch_norm", "add"}
    found = {"blocks": count, "blocks that widen": widen, _NARROW: narrow}
    return {name: Figure(number) for name, number in found.items()}


def judge(measured: Measured) -> Judgement:
    """Are the blocks so, does a ReLU lose information, and do networks fit worse with it?"""
    value = measured.value
    gaps = [name for name in measured.figures if name.startswith("lowest loss with ReLU6")]
    few, many = (f"spiral lost in {n} channels" for n in (2, 15))
    decided_by = (*gaps, few, many, _NARROW, "blocks that widen")
    if value(_NARROW) < value("blocks") or value("blocks that widen") < value("blocks") - 1:
        return Judgement(Verdict.FAILS, "Not all blocks widen, then narrow without an activation.", decided_by[::-1])
    if value(few) <= 10 or value(many) >= 1:
        return Judgement(Verdict.IN_PART, "The blocks are so, but a ReLU loses no more in few channels.", decided_by)
    if not all(value(gap) > 0 for gap in gaps):
        reason = "The blocks are so and a ReLU loses information, but networks do not always fit worse with it."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    without = "The blocks are so, and a ReLU in few channels loses information; the training was not run."
    reason = "The blocks are so, and an activation at the narrow end loses information and fit."
    return Judgement(Verdict.HOLDS, reason if gaps else without, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Spirals lost; losses of each training."""
    left, *right = canvas.subplots(1, 2 if "losses" in measured.series else 1, squeeze=False).flat
    left.plot(CHANNELS, [measured.value(f"spiral lost in {n} channels") for n in CHANNELS], "o-")
    left.set(xlabel="channels", ylabel="variance of the spiral lost, %", ylim=(0, None))
    for axes in right:
        seeds(axes, measured.series["losses"], "training loss of the last epoch")
