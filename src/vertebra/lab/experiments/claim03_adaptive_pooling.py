"""Claim 3: adaptive pooling lets VGG take other sizes than 224; what it computes there, and how accuracy fares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from vertebra.intervals import wilson
from vertebra.lab.charts import seed_lines
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol, evaluate
from vertebra.lab.fit_all import fit_all
from vertebra.lab.pooling_by_size import pooling_by_size
from vertebra.lab.pretrained_sizes import accuracy_by_size
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_data import Images, digits, resized
from vertebra.lab.small_networks import SmallVGG
from vertebra.models import VGG, ConvNet, vgg11

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TRAINED_AT, TESTED_AT = 16, (8, 12, 16, 20, 24, 32, 48)
ACCEPTED, PHOTOS_AT, LITE0_TRAINED_AT = range(32, 449, 16), (128, 160, 192, 224, 288, 384), 224
PROTOCOL = Protocol(epochs=8, lr=0.05)
ARM = partial(SmallVGG, (16, 16, "M", 32, 32, "M"), hidden_size=256, pooled=4)

CLAIM = Claim(
    family="VGG",
    stated_by="article l.9, 18",
    claim="Adaptive 7 × 7 pooling accepts any input size; without it 256, for example, would fail.",
    claim_ja="適応的平均プーリングがあるので、入力が224×224でなくても(たとえば256×256でも)エラーにならず、全結合層につながる。",
    should_hold="It changes nothing from 224 to 255 pixels, averages 8 × 8 values in seven overlapping bins a side at "
    "256, and repeats values below 224; below 32 the network fails before it. Without it 256 fails. Accuracy is best "
    "at the size trained at.",
    source="counts and a run",
    rule="Holds if every size from 32 to 448 that was tried runs with the pooling and 256 fails without it; in part if "
    "256 does so, but another size fails with it; else it does not hold. Accuracy at other sizes is told, "
    "and does not decide: to accept an image is not to recognise it.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="What adaptive pooling makes of other input sizes",
    caption="The pooling always hands on 7 × 7 values; fewer of them are independent where it repeats values. Right, "
    "where training ran: a network tested at sizes other than its own (dashed); bands are the range over seeds.",
    seconds=9,
    seeds=3,
    least_data=(1, 1),
    expected={
        "sizes from 224 to 255 at which the pooling changes nothing": Expected(32, "counts"),
        "side of the map at 256": Expected(8, "counts"),
        "bins at 256": Expected(7, "counts"),
        "bins at 256 that overlap the next": Expected(6, "counts"),
        "runs at 256 without the pooling": Expected(0, "a run"),
        "smallest size that leaves a map": Expected(32, "a run"),
    },
)


def measure(setup: Setup, build: Callable[[], VGG] = vgg11, arm: Callable[..., ConvNet] = ARM) -> Measured:
    """Run VGG-11, which has the pooling and the head of all; then train a small one, and test it at other sizes."""
    shapes = pooling_by_size(build, ACCEPTED)
    if setup.quick:
        return shapes
    images = digits().resized(TRAINED_AT).split
    curves = fit_all(
        {"": arm}, range(setup.seeds), images, PROTOCOL, measure=_accuracies, device=setup.device,
        progress=setup.progress,
    )[""]  # fmt: skip
    tested = [curve.found for curve in curves]
    accuracy = {size: over_seeds([own[size] for own in tested]) for size in TESTED_AT}
    figures = {f"accuracy at {s}": Figure(a.mean, "%", a.n, a.interval) for s, a in accuracy.items()}
    best = sum(own[TRAINED_AT] == max(own.values()) for own in tested)
    figures["seeds in which the training size is best"] = Figure(best, n=setup.seeds)
    series = {"digits": {str(size): a.values for size, a in accuracy.items()}}
    if setup.data is not None:
        photos = accuracy_by_size(setup.data, PHOTOS_AT, setup.device, setup.progress)
        figures["photos with ImageNet labels"] = Figure(len(next(iter(photos.values()), [])))
        for size, right in photos.items():
            low, high = wilson(sum(right), len(right))
            share = 100 * sum(right) / len(right)
            figures[f"Lite0, photos at {size}"] = Figure(share, "%", len(right), (100 * low, 100 * high))
    return Measured({**shapes.figures, **figures}, {**shapes.series, **series})


def _accuracies(network: ConvNet, images: Images) -> dict[int, float]:
    """Validation accuracy, in %, at each size; the originals have 8 × 8 pixels."""
    original = digits().split(images.seed)
    return {
        size: 100 * evaluate(network, resized(original.val, size), images.val_labels, images.preprocessing)[1]
        for size in TESTED_AT
    }


def judge(measured: Measured) -> Judgement:
    """Does every size run with the pooling, and 256 fail without it?"""
    value = measured.value
    decided_by = ("sizes that run", "sizes tried", "runs at 256 without the pooling", "smallest size that leaves a map")
    if not value("runs at 256") or value("runs at 256 without the pooling"):
        return Judgement(Verdict.FAILS, "It is not the pooling that lets 256 in.", decided_by)
    if value("sizes that run") < value("sizes tried"):
        return Judgement(Verdict.IN_PART, "The pooling lets 256 in, and not every other size.", decided_by)
    best = "seeds in which the training size is best"
    if best not in measured.figures:
        reason = "The pooling lets in every size that leaves it a map; accuracy at other sizes was not run."
        return Judgement(Verdict.HOLDS, reason, decided_by)
    if value(best) == measured.figures[best].n:
        reason = (
            "The pooling lets in every size that leaves it a map; accuracy is best at the training size all the same."
        )
    else:
        reason = (
            "The pooling lets in every size that leaves it a map; accuracy is not always best at the training size."
        )
    return Judgement(Verdict.HOLDS, reason, (*decided_by, best))


def draw(measured: Measured, canvas: Canvas) -> None:
    """Left the independent values by size; right, where it was measured, accuracy by size."""
    has_accuracy = "digits" in measured.series
    left, *right = canvas.subplots(1, 2).flat if has_accuracy else [canvas.subplots()]
    independent = measured.series["independent"]
    left.step([int(size) for size in independent], list(independent.values()), where="post")
    left.set(xlabel="input size, pixels", ylabel="independent values among the 49", ylim=(0, 52))
    for axes in right:
        lines = {"digits": {int(size) / TRAINED_AT: own for size, own in measured.series["digits"].items()}}
        photos = {size: measured.figures.get(f"Lite0, photos at {size}") for size in PHOTOS_AT}
        if any(photos.values()):
            lines["Lite0 on photos"] = {s / LITE0_TRAINED_AT: [f.value] for s, f in photos.items() if f is not None}
        seed_lines(axes, lines, "input size over training size", "accuracy, %")
        axes.axvline(1, color="0.6", linestyle="--", linewidth=1)
