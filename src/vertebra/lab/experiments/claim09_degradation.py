"""Claim 9: a deeper plain network trains worse than a shallower one, a deeper residual network does not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from vertebra.lab.charts import losses_by_epoch
from vertebra.lab.experiment import Claim, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import fit_all
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallResNet
from vertebra.models import ConvNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SHALLOW, DEEP = 20, 56
PROTOCOL = Protocol(epochs=6)
TOLERATED = 1  # point of training error
Arms = Mapping[str, Callable[..., ConvNet]]
ARMS: Arms = {
    f"{kind}-{depth}": partial(SmallResNet, depth, 8, residual=kind == "residual")
    for kind in ("plain", "residual")
    for depth in (SHALLOW, DEEP)
}

CLAIM = Claim(
    family="ResNet",
    stated_by="paper",
    claim="Deeper plain networks train worse, residual ones do not.",
    claim_ja="スキップ接続のない素のネットワークは深くするほど訓練誤差が大きくなるが、残差ネットワークではそうならない。",
    should_hold="With 56 layers the plain network has a larger training loss than with 20, and the residual one, at "
    "the same budget, still a smaller one than the plain network with 20.",
    source="He et al. 2015, Fig. 4 (18 and 34 layers, ImageNet) and Fig. 6 (20 to 110, CIFAR-10)",
    rule="Of the last epoch's training loss and of the training error after it: plain networks degrade if the smallest "
    "loss of the deep one over the seeds is above the largest of the shallow one, and its mean error more than 1 point "
    "above; residual ones do not if the largest loss of the deep one is below the smallest of the shallow plain one, "
    "and its mean error at most 1 point above that of the shallow residual one. Holds if both are so, in part if only "
    "the first, else it does not hold.",
    decided_by=(Kind.TRAINING,),
    title="Training loss of plain and residual networks of 20 and 56 layers",
    caption="Digits, the same weights, batches and budget for all. A kind degrades with depth if its 56 layers "
    "end far above the 20 layers of the plain network. Bands are the range over seeds.",
    seconds=26,
    seeds=3,
)


def measure(setup: Setup, arms: Arms = ARMS) -> Measured:
    """Train all four; a quick run has one seed."""
    seeds, images = range(setup.seeds), digits().split
    curves = fit_all(arms, seeds, images, PROTOCOL, device=setup.device, progress=setup.progress)
    figures: dict[str, Figure] = {}
    for name, own in curves.items():
        figures[f"{name}: training loss"] = over_seeds([curve.train_loss[-1] for curve in own]).figure()
        errors = [100 - 100 * curve.final_train_accuracy for curve in own]
        figures[f"{name}: training error"] = over_seeds(errors).figure("%")
        figures[f"{name}: validation accuracy"] = over_seeds([100 * curve.val_accuracy[-1] for curve in own]).figure(
            "%"
        )
    return Measured(
        figures, {"losses": {name: [list(curve.train_loss) for curve in own] for name, own in curves.items()}}
    )


def judge(measured: Measured) -> Judgement:
    """Is deep plain above shallow plain, and deep residual not above shallow?"""
    losses = measured.series["losses"]
    last = {name: [math.inf if math.isnan(curve[-1]) else curve[-1] for curve in own] for name, own in losses.items()}
    plain, deep_plain, residual, deep_residual = (
        f"{kind}-{n}" for kind in ("plain", "residual") for n in (SHALLOW, DEEP)
    )
    error = {name: measured.value(f"{name}: training error") for name in (plain, deep_plain, residual, deep_residual)}
    degrades = min(last[deep_plain]) > max(last[plain]) and error[deep_plain] - error[plain] > TOLERATED
    trains = max(last[deep_residual]) < min(last[plain]) and error[deep_residual] - error[residual] <= TOLERATED
    decided_by = tuple(f"{name}: training loss" for name in (plain, deep_plain, residual, deep_residual))
    decided_by += (f"{deep_residual}: training error",)
    if not degrades:
        return Judgement(Verdict.FAILS, "The deeper plain network trains no worse than the shallower one.", decided_by)
    if not trains:
        return Judgement(Verdict.IN_PART, "The deeper residual network trains worse as well.", decided_by)
    higher = min(last[deep_residual]) > statistics.fmean(last[residual])
    reason = "The deeper plain network trains worse; the deeper residual one does not"
    reason += ", though its loss falls somewhat later than the shallower one's" if higher else ""
    reason += ". One seed was run." if len(last[plain]) == 1 else "."
    return Judgement(Verdict.HOLDS, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Loss by epoch."""
    losses_by_epoch(canvas.subplots(), measured.series["losses"])
