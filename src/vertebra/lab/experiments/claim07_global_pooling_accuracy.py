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
from vertebra.lab.progress_parts import part_of
from vertebra.lab.seed_statistics import SeedStatistics, over_seeds, paired_difference
from vertebra.lab.small_data import Images, shifted
from vertebra.lab.vgg_heads import FEW, MANY, few_digits, vgg_with_head
from vertebra.models import ConvNet, vgg16
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SHIFTS = ((2, 0), (-2, 0), (0, 2), (0, -2))  # pixels down and right
PROTOCOLS = {10: FEW, 100: MANY}  # images a class
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
    rule="Holds if the parameters get fewer, mean validation accuracy with pooling is at most 2 points below that with "
    "fully connected layers, and on images shifted by 2 pixels it is above in every seed, with 10 and with 100 "
    "training images a class; in part if this is so of one kind of images alone; else it does not hold.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="One trunk with two heads, on digits and on shifted digits",
    caption="Each dot is one training, each bar the mean; higher is better. Training images are centred; shifted "
    "images lie 2 pixels off, in four directions. 10 and 100 are training images a class. A quick run shows the "
    "parameters alone.",
    seconds=45,
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
            figures |= {f"{arm}, {what}": _percent(over_seeds(values)) for arm, values in of_arm.items()}
            difference = paired_difference(of_arm[POOLING], of_arm[DENSE])
            figures[f"difference, {what}"] = _percent(difference, "points")
            above = sum(value > 0 for value in difference.values)
            figures[f"seeds with pooling above, {what}"] = Figure(above, n=difference.n)
    return Measured(figures, {"accuracy": series})


def _percent(found: SeedStatistics, unit: str = "%") -> Figure:
    return Figure(found.mean, unit, found.n, found.interval)


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
    above = [f"seeds with pooling above, {count} a class, shifted" for count in PROTOCOLS]
    as_good = all(value(f"difference, {count} a class") >= -2 for count in PROTOCOLS)
    better = all(value(name) == figures[name].n for name in above)
    differences = [f"difference, {count} a class{what}" for what in ("", ", shifted") for count in PROTOCOLS]
    reason = {
        (True, True): "With fewer parameters it is as accurate, and far less hurt by shifts in every seed.",
        (True, False): "With fewer parameters it is as accurate; shifts do not decide for it in every seed.",
        (False, True): "With fewer parameters it is less hurt by shifts, and less accurate on centred images.",
        (False, False): "It is less accurate on centred images, and shifts do not decide for it in every seed.",
    }[as_good, better]
    verdict = (Verdict.FAILS, Verdict.IN_PART, Verdict.HOLDS)[as_good + better]
    return Judgement(verdict, reason, (*differences, *counts))


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
