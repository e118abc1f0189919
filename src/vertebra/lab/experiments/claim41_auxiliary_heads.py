"""Claim 41: GoogLeNet's auxiliary heads: their parameters, when they run, and the gradient that they bring to 4a."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.auxiliary_heads import HEADS, SHARE, UNUSED, googlenet_without_batch_norm, gradient_gain, head_counts
from vertebra.lab.charts import bars, network_bars, seed_lines
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_networks import seeded
from vertebra.lab.user_networks import random_images
from vertebra.models import googlenet
from vertebra.models.layers import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SIZE, BATCH = 64, 8
NORMS = ("with batch norm", "without batch norm")
RATIOS = tuple(f"gradient of 4a with the heads over without, {norm}" for norm in NORMS)
CLAIM = Claim(
    family="GoogLeNet",
    stated_by="code l.172–177, 216–230",
    claim="GoogLeNet has two auxiliary heads in training.",
    claim_ja="学習時には補助分類器が2つ加わる。",
    should_hold="Their 6.4 M of 13.0 M parameters (49.1 %) are not used in evaluation; they bring gradient to 4a.",
    source="counts; Szegedy 2015 §5",
    rule="Holds if two heads run in training and evaluation uses none of their parameters; in part if it uses them; "
    "else it does not hold. The reason says whether their losses (weight 0.3) add more than a tenth to the gradient of "
    "4a at initialisation, with and without batch norm (95 % interval above 1.1).",
    decided_by=(Kind.COUNT, Kind.INIT),
    title="GoogLeNet's auxiliary heads: parameters, and gradient that they bring",
    caption="Idle: not used in evaluation. Gradients at initialisation (untrained, random images), by layer, mean and "
    "range of the seeds: how many times as large with the heads' losses as without; above 1 they bring gradient.",
    networks_title="Parameters of heads that run in training alone",
    networks_caption="All parameters of the network, and those that evaluation does not use.",
    seconds=5,
    seeds=5,
    expected={
        HEADS: Expected(2, "source"),
        "parameters": Expected(13_004_888, "counts"),
        UNUSED: Expected(6_379_984, "counts"),
        SHARE: Expected(49.1, "counts", 0.001),
    },
)


def measure(setup: Setup, build: Layer = googlenet) -> Measured:
    """Count; then compare gradients of the same weights, images and dropout."""
    network = seeded(build, 0)
    figures = head_counts(network, random_images(network, 2, SIZE))
    if setup.quick:
        return Measured(figures)
    lines = {}
    for norm, ratio, make in zip(NORMS, RATIOS, (build, googlenet_without_batch_norm), strict=True):
        gains = []
        for seed in range(setup.seeds):
            setup.progress(f"gradients {norm}", seed, setup.seeds)
            network = seeded(make, seed).to(setup.device)
            gains.append(gradient_gain(network, random_images(network, BATCH, SIZE, seed), "inception4a"))
        figures[ratio] = over_seeds([of_4a for of_4a, _ in gains]).figure("×")
        lines[norm] = [*enumerate(zip(*(by_layer for _, by_layer in gains), strict=True), 1)]
    return Measured(figures, {"lines": lines})


def judge(measured: Measured) -> Judgement:
    """Two heads, in training alone, with a larger gradient?"""
    decided_by = (HEADS, SHARE, *(ratio for ratio in RATIOS if ratio in measured.figures))
    if measured.value(HEADS) != 2:
        return Judgement(Verdict.FAILS, "There are not two auxiliary heads in training.", decided_by)
    if not measured.value(UNUSED):
        return Judgement(Verdict.IN_PART, "There are two heads in training, and evaluation uses them too.", decided_by)
    if RATIOS[0] not in measured.figures:
        return Judgement(Verdict.HOLDS, "Two heads run in training alone; gradients were not measured.", decided_by)
    gain = [(measured.figures[name].interval or (0,))[0] > 1.1 for name in RATIOS]
    if gain[0]:
        return Judgement(Verdict.HOLDS, "Two heads run in training alone, and bring gradient to 4a.", decided_by)
    reason = "they bring gradient to 4a only without batch norm." if gain[1] else "they bring 4a hardly any gradient."
    return Judgement(Verdict.HOLDS, f"Two heads run in training alone; {reason}", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """The parameters, and the gradient by layer where it was measured."""
    counts, *others = canvas.subplots(1, 2 if measured.series else 1, squeeze=False)[0]
    millions = {name: measured.value(what) / 1e6 for name, what in (("all", "parameters"), ("idle", UNUSED))}
    bars(counts, millions, "parameters, millions")
    for axes in others:
        lines = {name: dict(points) for name, points in measured.series["lines"].items()}
        seed_lines(axes, lines, "convolution, from the input", "gradient with the heads over without, ×")
        axes.set_yscale("log")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count what evaluation does not use of networks that return more logits in training."""
    return measure_each(_counts_of, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Are they in training alone?"""
    return judge_each(_judge_counts, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """All parameters and those not used, for each network."""
    network_bars(canvas.subplots(), measured, {"all": "parameters", "not used": UNUSED}, "parameters, millions", 1e6)


def _counts_of(name: str, network: nn.Module) -> Measured:
    figures = head_counts(network, random_images(network, 2))
    if figures[HEADS].value < 1:
        raise UsageError(f"{name} returns no more logits in training than in evaluation, so it has no auxiliary head.")
    return Measured(figures)


def _judge_counts(measured: Measured) -> Judgement:
    if measured.value(UNUSED):
        return Judgement(Verdict.HOLDS, "The heads run in training alone.", (HEADS, SHARE))
    return Judgement(Verdict.FAILS, "Evaluation uses all parameters, those of the heads too.", (HEADS, SHARE))
