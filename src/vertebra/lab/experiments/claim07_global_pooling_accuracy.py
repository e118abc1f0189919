"""Claim 7: global average pooling in place of huge fully connected layers: parameters, accuracy, and shifted images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from vertebra.introspect import pool_globally
from vertebra.lab.charts import BLUE, ORANGE, bars, seeds
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import evaluate
from vertebra.lab.fit_all import fit_all
from vertebra.lab.overfitting import bounds
from vertebra.lab.progress_parts import part_of
from vertebra.lab.seed_statistics import over_seeds, paired_difference
from vertebra.lab.small_data import Images, shifted
from vertebra.lab.vgg_heads import FEW, MANY, few_digits, vgg_with_head
from vertebra.models import ConvNet, vgg16
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SHIFTS = ((2, 0), (-2, 0), (0, 2), (0, -2))  # pixels down and right
PROTOCOLS = {10: FEW, 100: MANY}  # images a class
MARGIN = 2  # points
POOLING, DENSE = "global pooling", "fully connected"
ARMS = {POOLING: partial(vgg_with_head, None), DENSE: partial(vgg_with_head, 1024)}

CLAIM = Claim(
    family="GoogLeNet",
    stated_by="article l.109, 178–181",
    claim="Global average pooling replaces the huge fully connected layers.",
    claim_ja="巨大な全結合層は、大域平均プーリングで置き換えられる。",
    should_hold="VGG-16 goes from 138.4 to 15.2 M parameters. On one small trunk, both heads classify digits alike, "
    "and pooling alone recognises shifted ones. The paper's gain of 0.6 points top-1 on ImageNet is not decided here.",
    source="counts; Szegedy 2015, section 5",
    rule="Does not hold if the parameters do not get fewer. Shifts decide for pooling if, on images shifted by 2 "
    "pixels, its validation accuracy is above that of fully connected layers; it is as accurate if on centred images "
    "it is at most 2 points below, with 10 and with 100 training images a class: both by the whole 95 % interval of "
    "the difference, paired by seed. Holds if both are so, in part if one is; does not hold if neither is and it is "
    "more than 2 points below by the whole interval; else it is not decided.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="One trunk with two heads, on digits and on shifted digits",
    caption="Each dot is one training, each bar the mean; higher is better. Training images are centred; shifted "
    "images lie 2 pixels off, in four directions. 10 and 100 are training images a class. A quick run shows the "
    "parameters alone.",
    seconds=43,
    seeds=5,
    expected={
        "parameters of VGG-16": Expected(138_357_544, "counts"),
        "parameters of VGG-16, pooled globally": Expected(15_227_688, "counts"),
    },
)


def measure(setup: Setup, arms: Mapping[str, Callable[..., ConvNet]] = ARMS) -> Measured:
    """Count in VGG-16, then train one trunk with both heads on few and on many digits."""
    with meta_build():
        whole, pooled = vgg16(), pool_globally(vgg16())
    figures = {
        "parameters of VGG-16": Figure(sum(p.numel() for p in whole.parameters())),
        "parameters of VGG-16, pooled globally": Figure(sum(p.numel() for p in pooled.parameters())),
    }
    if setup.quick:
        return Measured(figures)
    series: dict[str, dict[str, list[float]]] = {}
    for part, (count, protocol) in enumerate(PROTOCOLS.items()):
        curves = fit_all(
            arms, range(setup.seeds), partial(few_digits, per_class=count), protocol, measure=_shifted_accuracy,
            device=setup.device, progress=part_of(setup.progress, part, len(PROTOCOLS)),
        )  # fmt: skip
        found = {
            f"{count} a class": {arm: [100 * c.val_accuracy[-1] for c in own] for arm, own in curves.items()},
            f"{count} a class, shifted": {arm: [c.found for c in own] for arm, own in curves.items()},
        }
        series |= found
        for what, of_arm in found.items():
            figures |= {f"{arm}, {what}": over_seeds(values).figure("%") for arm, values in of_arm.items()}
            difference = paired_difference(of_arm[POOLING], of_arm[DENSE])
            figures[f"difference, {what}"] = difference.figure("points")
            above = sum(value > 0 for value in difference.values)
            figures[f"seeds with pooling above, {what}"] = Figure(above, n=difference.n)
    return Measured(figures, {"accuracy": series})


def _shifted_accuracy(network: ConvNet, images: Images) -> float:
    """Mean over the directions, in %."""
    moved = (shifted(images.val, down, right) for down, right in SHIFTS)
    return 100 * fmean(evaluate(network, pixels, images.val_labels, images.preprocessing)[1] for pixels in moved)


def judge(measured: Measured) -> Judgement:
    """Fewer parameters, as accurate, and better where images are shifted?"""
    value, figures = measured.value, measured.figures
    counts = ("parameters of VGG-16, pooled globally", "parameters of VGG-16")
    if value(counts[0]) >= value(counts[1]):
        return Judgement(Verdict.FAILS, "Pooling does not save parameters.", counts)
    if f"difference, {min(PROTOCOLS)} a class" not in figures:
        return Judgement(Verdict.OPEN, "Pooling saves most parameters; accuracy was not run.", counts)
    names = [[f"difference, {count} a class{what}" for count in PROTOCOLS] for what in ("", ", shifted")]
    (least, most), (least_shifted, _) = (bounds(figures, own) for own in names)
    better, less, as_good = min(least_shifted) > 0, min(most) < -MARGIN, min(least) >= -MARGIN
    shifts = "it is less hurt by shifts" if better else "shifts are not shown to decide for it"
    accuracy = (
        "less accurate" if less else "as accurate" if as_good else "perhaps less accurate, which is too uncertain"
    )
    reason = f"With fewer parameters {shifts}; on centred images it is {accuracy}."
    verdict = Verdict.FAILS if less else Verdict.OPEN
    if better or as_good:
        verdict = Verdict.HOLDS if better and as_good else Verdict.IN_PART
    return Judgement(verdict, reason, (*names[0], *names[1], *counts))


def draw(measured: Measured, canvas: Canvas) -> None:
    """A row for each head and kind of images; without training, the parameters."""
    axes = canvas.subplots()
    if not measured.series:
        names = ("parameters of VGG-16", "parameters of VGG-16, pooled globally")
        bars(axes, {name: measured.value(name) / 1e6 for name in names}, "parameters, 10⁶")
        return
    rows = {f"{what}: {arm}": v for what, arms in measured.series["accuracy"].items() for arm, v in arms.items()}
    seeds(axes, rows, "validation accuracy, %", (BLUE, ORANGE))
    axes.set_xlim(0, 101)
