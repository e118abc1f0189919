"""Claim 40: with the last norm of each branch at zero, every residual block begins as the identity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from vertebra.introspect import ablated_blocks, batch_statistics, residual_blocks
from vertebra.lab.charts import grouped_bars, losses_by_epoch
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import fit_all
from vertebra.lab.seed_statistics import over_seeds, paired_difference
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallResNet, seeded
from vertebra.lab.user_networks import random_images
from vertebra.models import ConvNet, resnet18, resnet50

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

REACHED = 0.1  # training loss
PROTOCOL = Protocol(epochs=6)
Build = Callable[..., nn.Module]
RESIDUAL = partial(SmallResNet, 56, 8)
BUILDERS: Mapping[str, Build] = {"ResNet-18": resnet18, "ResNet-50": resnet50, "residual-56": RESIDUAL}
ARMS: Mapping[str, Callable[..., ConvNet]] = {"γ = 0": partial(RESIDUAL, zero_init_residual=True), "γ = 1": RESIDUAL}

CLAIM = Claim(
    family="ResNet",
    stated_by="code l.447–449 (comment)",
    claim="Zero-initialised last norms make every block begin as the identity, +0.2 to 0.3 points.",
    claim_ja="残差分岐の最後のバッチ正規化のγを0で初期化すると、どのブロックも恒等写像から出発し、精度が0.2〜0.3ポイント上がる。",
    should_hold="With γ = 0 the output is that of the shortcuts alone, bit for bit: ReLUs and convolutional shortcuts "
    "stay. The gain is of ImageNet.",
    source="Goyal et al. 2017, 5.1",
    rule="In part if, with γ = 0, no network's output differs in any bit from that of the same network without its "
    "branches, and with γ = 1 each one's does: the gain on ImageNet can't be decided on digits. Else it does not hold. "
    "Beside it, and without a vote, the epochs to a training loss of 0.1, interpolated in the logarithm between the "
    "means of epochs, where a run that never gets there counts as all epochs: fewer or more if the 95 % interval of "
    "the difference between γ = 0 and γ = 1, paired by seed, excludes 0.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="Residual blocks that begin as the identity",
    caption="Left: values of the output that differ from those of the shortcuts alone, untrained; none if each block "
    "begins as the identity. Right: training loss of residual-56 on the digits by epoch; bands are the range over "
    "seeds.",
    seconds=30,
    seeds=5,
    expected={
        **{f"{name}, γ = 0: values that differ": Expected(0, "Goyal et al. 2017, 5.1") for name in BUILDERS},
        "gain in validation accuracy": Expected(0.25, "torchvision's comment: 0.2 to 0.3 points, ImageNet", 0.2),
    },
)


def measure(
    setup: Setup, builders: Mapping[str, Build] = BUILDERS, arms: Mapping[str, Callable[..., ConvNet]] = ARMS
) -> Measured:
    """Compare outputs with and without the branches; then train with either initialisation."""
    figures = {
        f"{name}, γ = {gamma}: values that differ": Figure(_share_that_differs(build, gamma == 0), "%")
        for name, build in builders.items()
        for gamma in (0, 1)
    }
    series = {"networks": list(builders)}
    if setup.quick:
        return Measured(figures, series)
    seeds, images = range(setup.seeds), digits().split
    curves = fit_all(arms, seeds, images, PROTOCOL, device=setup.device, progress=setup.progress)
    zero, one = curves.values()
    epochs = [[curve.epochs_to(REACHED) for curve in arm] for arm in (zero, one)]
    accuracy = [[100 * curve.val_accuracy[-1] for curve in arm] for arm in (zero, one)]
    for name, own, accurate in zip(arms, epochs, accuracy, strict=True):
        figures[f"{name}: epochs to a loss of 0.1"] = over_seeds(own).figure()
        figures[f"{name}: validation accuracy"] = over_seeds(accurate).figure("%")
    figures["difference in epochs"] = paired_difference(*epochs).figure()
    figures["gain in validation accuracy"] = paired_difference(*accuracy).figure("points")
    losses = {name: [list(curve.train_loss) for curve in arm] for name, arm in curves.items()}
    return Measured(figures, {**series, "losses": losses, "epochs": dict(zip(arms, epochs, strict=True))})


def _share_that_differs(build: Build, zero: bool) -> float:
    """Of the outputs, in %, those that differ in any bit from the network's without its branches."""
    network = seeded(partial(build, zero_init_residual=zero), 0)
    images = random_images(network, 4, 64)
    with batch_statistics(network), torch.no_grad():
        whole = network(images)
        with ablated_blocks(network, branches=residual_blocks(network, images)):
            shortcuts = network(images)
    return 100 * float((whole.view(torch.int32) != shortcuts.view(torch.int32)).double().mean())


def judge(measured: Measured) -> Judgement:
    """Do the branches add nothing with γ = 0, and something with γ = 1?"""
    names = measured.series["networks"]
    decided_by, others = (tuple(f"{name}, γ = {gamma}: values that differ" for name in names) for gamma in (0, 1))
    if any(map(measured.value, decided_by)):
        return Judgement(Verdict.FAILS, "With γ = 0 some blocks are not the identity to begin with.", decided_by)
    if not all(map(measured.value, others)):
        return Judgement(Verdict.FAILS, "The blocks begin as the identity with γ = 1 too.", others)
    start = "Every block begins as the identity; the gain on ImageNet can't be decided here"
    difference = measured.figures.get("difference in epochs")
    if difference is None:
        return Judgement(Verdict.IN_PART, f"{start}, and training was not run.", decided_by)
    low, high = difference.interval or (-math.inf, math.inf)
    when = "sooner" if high < 0 else "later" if low > 0 else "neither sooner nor later by more than the seeds vary"
    decided_by = (*decided_by, "difference in epochs", "gain in validation accuracy")
    return Judgement(Verdict.IN_PART, f"{start}. On digits the loss falls {when}.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Left the outputs that differ; right, where it was measured, the loss by epoch."""
    has_losses = "losses" in measured.series
    left, *right = canvas.subplots(1, 2).flat if has_losses else [canvas.subplots()]
    groups = measured.series["networks"]
    shares = {f"γ = {g}": [measured.value(f"{n}, γ = {g}: values that differ") for n in groups] for g in (0, 1)}
    grouped_bars(left, groups, shares, "values that differ, %")
    for axes in right:
        losses_by_epoch(axes, measured.series["losses"])
        axes.axhline(REACHED, color="0.6", linestyle="--", linewidth=1)
