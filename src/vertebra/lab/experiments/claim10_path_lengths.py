"""Claim 10: what of a residual network's input, and of its gradient, passes through the additions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.lab.charts import bars, path_shares
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import fit_all
from vertebra.lab.residual_paths import deleted_and_passed, mean_figures, mean_shares, network_paths, path_figures
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallResNet
from vertebra.models import ConvNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

PROTOCOL = Protocol(epochs=8)
LEARNED, LOST, WHOLE = 50, 5, 90  # % accuracy, points of it, % of the variance
Arms = Mapping[str, Callable[..., ConvNet]]
ARMS: Arms = {"residual": partial(SmallResNet, 56, 8), "plain": partial(SmallResNet, 20, 8, residual=False)}

CLAIM = Claim(
    family="ResNet",
    stated_by="article l.733–734",
    claim="The input survives whole through the additions.",
    claim_ja="足し算で伝わる限り、入力の値は損なわれずに残り続ける。",
    should_hold="Without one of its blocks a residual network is nearly as accurate, a plain one is not. Most of the "
    "gradient passes few branches; but branches add to the input, and the ReLU after the addition cuts it.",
    source="Veit et al. 2016; He et al. 2016 (identity mappings)",
    rule="Not decided if a network has less than 50 % accuracy. Does not hold unless, in every seed, the median "
    "accuracy without one block, over the blocks that keep the shape, is at most 5 points below the whole residual "
    "network's. Else holds if, in every seed and stage, what enters the blocks with identity skips has at least 90 % "
    "of the variance of what leaves them; else in part. Of a network of one's own, in place of accuracy: half of the "
    "gradient is on paths through at most half the branches.",
    decided_by=(Kind.TRAINING,),
    title="What passes through the additions of a residual network",
    caption="Trained on the digits: residual-56, plain-20. Left: accuracy with one block deleted, median over the "
    "blocks; if it stays near the whole network's, no block is needed. Right: share of the gradient by number of "
    "branches on the path; the further left, the more passes through the additions.",
    networks_title="Gradient by path length",
    networks_caption="Share of the input gradient that paths through so many of the branches carry, for images of "
    "noise; untrained unless it comes with weights. The further left, the more passes through the additions.",
    seconds=25,
    seeds=3,
    is_quick=False,
    expected={
        "longest path of 95 % of the gradient": Expected(31, "Veit et al. 2016: 17 of 54 blocks, CIFAR-10", 0.2),
    },
)


def measure(setup: Setup, arms: Arms = ARMS) -> Measured:
    """Train both; delete one block at a time; then gradients by path length, and what is left of the input."""
    seeds, images = range(setup.seeds), digits().split
    curves = fit_all(
        arms, seeds, images, PROTOCOL, measure=deleted_and_passed, device=setup.device, progress=setup.progress
    )
    figures: dict[str, Figure] = {}
    series: dict[str, Any] = {"median": {}, "whole": {}}
    for arm, own in curves.items():
        whole, deleted = [100 * curve.val_accuracy[-1] for curve in own], [curve.found["deleted"] for curve in own]
        series["whole"][arm], series["median"][arm] = whole, [statistics.median(values) for values in deleted]
        figures[f"{arm}: accuracy"] = over_seeds(whole).figure("%")
        figures[f"{arm}: accuracy without one block, median"] = over_seeds(series["median"][arm]).figure("%")
        figures[f"{arm}: accuracy without one block, worst"] = over_seeds(list(map(min, deleted))).figure("%")
    passed = [curve.found["passed"] for curve in curves["residual"] if curve.found["passed"]]
    series["survives"] = [found["survives"] for found in passed]
    series["paths"] = mean_shares(passed)
    return Measured(figures | mean_figures(map(path_figures, passed)), series)


def judge(measured: Measured) -> Judgement:
    """Is a lost block hardly missed, and is the input still there behind a stage?"""
    median, whole = measured.series["median"], measured.series["whole"]
    decided_by = tuple(f"{arm}: accuracy{what}" for arm in ARMS for what in ("", " without one block, median"))
    if min(map(min, whole.values())) < LEARNED:
        return Judgement(Verdict.OPEN, "The networks did not learn enough to tell.", decided_by)
    if any(full - without > LOST for full, without in zip(whole["residual"], median["residual"], strict=True)):
        return Judgement(Verdict.FAILS, "Without one block the residual network is lost.", decided_by)
    decided_by = ("input left behind a stage, least", *decided_by)
    if min(map(min, measured.series["survives"])) >= WHOLE:
        return Judgement(Verdict.HOLDS, "The input passes nearly whole, and no block is needed for that.", decided_by)
    reason = "No block is needed for what came before to pass on, but branches and ReLUs change it on the way."
    return Judgement(Verdict.IN_PART, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Accuracies without a block; gradient by path length."""
    left, right = canvas.subplots(1, 2, width_ratios=(1, 1.2))
    rows = {"whole": "accuracy", "without one block": "accuracy without one block, median"}
    values = {f"{arm}, {row}": measured.value(f"{arm}: {what}") for arm in ARMS for row, what in rows.items()}
    bars(left, values, "validation accuracy, %")
    path_shares(right, {"residual": measured.series["paths"]})


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same of each network, but without accuracy."""
    return measure_each(lambda _, network: network_paths(network, setup.device), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Paths in place of accuracy, for each."""
    return judge_each(_judge_network, measured)


def _judge_network(measured: Measured) -> Judgement:
    survives = [figure.value for name, figure in measured.figures.items() if name == "input left behind a stage, least"]
    decided_by = ("median path", *(["input left behind a stage, least"] if survives else []))
    if measured.value("median path") > 50:
        return Judgement(Verdict.FAILS, "Most of the gradient passes more branches than skips.", decided_by)
    if survives and min(survives) >= WHOLE:
        return Judgement(Verdict.HOLDS, "The input passes nearly whole, and the gradient mostly by skips.", decided_by)
    return Judgement(Verdict.IN_PART, "The gradient mostly passes by skips, but branches change the input.", decided_by)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Gradient by path length of each."""
    path_shares(canvas.subplots(), {name: own["paths"] for name, own in measured.series["networks"].items()})
