"""Claim 2: does the gap between training and validation accuracy grow with the parameters, at one trunk?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from vertebra.lab.charts import BLUE, ORANGE, bars, seeds
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit_all import fit_all
from vertebra.lab.overfitting import Gaps, bounds, gap_figures
from vertebra.lab.pretrained_features import SIZE, linear_head_accuracy
from vertebra.lab.progress_parts import part_of
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_data import Images
from vertebra.lab.small_photos import photos, photos_for
from vertebra.lab.vgg_heads import FEW, PER_CLASS, PHOTO_HEADS, PHOTO_SEEDS, PHOTOS, few_digits, few_photos, heads
from vertebra.models import ConvNet, create_model
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Arms = Mapping[str, Callable[..., ConvNet]]

# Heads from the fewest parameters to the most.
ARMS: Arms = heads(128, 1024)
MARGIN = 5  # points: what counts as overfitting, and as more of it
CLASSES = 20  # of photos
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")

CLAIM = Claim(
    family="VGG",
    stated_by="article l.8",
    claim="With more than 130 M parameters it overfits a set of Caltech-101's size, 50 images a class.",
    claim_ja="1億3000万を超えるパラメーターは、1クラス50枚のCaltech-101ほどのデータには多すぎ、過学習につながる。",
    should_hold="VGG-11, 13, 16, 19 have 132.9, 133.0, 138.4, 143.7 M. On one trunk the gap between training and "
    "validation accuracy does not grow with the head. Another network than VGG, on Caltech-101 with 30 images a class, "
    "has 46.5 % from scratch and 86.5 % pretrained (Zeiler & Fergus 2013).",
    source="counts; Zeiler & Fergus 2013",
    rule="Not decided if a network has not fitted its training images (95 %). On the digits and, with --data, on the "
    "photos, a network overfits if its gap between training and validation accuracy is above 5 points. Does not hold "
    "if that with the largest head does not on one set. Holds if it does on each, and its gap is above that of the "
    "smallest head on each; in part if it overfits, but on one set its gap is not 5 points above that of the smallest "
    "head: the count is not the cause. All by the whole 95 % interval over seeds, paired for differences; else not "
    "decided. VGG-16 is not trained.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="Overfitting of one trunk with larger and larger heads",
    caption="Each dot is one training, each bar the mean; beside each head the parameters of the network. Bars farther "
    "right from row to row mean that it overfits more with more parameters. A quick run shows VGG's parameters alone.",
    seconds=35,
    seeds=6,
    least_data=(CLASSES, photos_for(PER_CLASS)),
    expected={
        f"parameters of {name}": Expected(count, "counts")
        for name, count in zip(VGGS, (132_863_336, 133_047_848, 138_357_544, 143_667_240), strict=True)
    },
)


def measure(setup: Setup, arms: Arms = ARMS, images: Callable[[int], Images] = few_digits) -> Measured:
    """Count in VGG; train each head on 10 digits a class, then on 30 photos of each of 20 classes, if there are any."""
    figures = {}
    for name in VGGS:
        with meta_build():
            figures[f"parameters of {name}"] = Figure(sum(p.numel() for p in create_model(name).parameters()))
    if setup.quick:
        return Measured(figures)
    sets = {"digits": (arms, images, FEW)}
    large = None
    if setup.data is not None:
        reading = part_of(setup.progress, 0, 20)
        large = photos(setup.data, SIZE, classes=CLASSES, per_class=PER_CLASS, max_per_class=45, progress=reading)
        sets["photos"] = (PHOTO_HEADS, partial(few_photos, large.resized(32)), PHOTOS)
    gaps: Gaps = {}
    for part, (data, (own_arms, own_images, protocol)) in enumerate(sets.items()):
        progress = part_of(setup.progress, part, len(sets))
        own = range(min(setup.seeds, PHOTO_SEEDS) if data == "photos" else setup.seeds)
        curves = fit_all(own_arms, own, own_images, protocol, device=setup.device, progress=progress)
        more, own_gaps = gap_figures(data, own_arms, curves)
        figures |= more
        gaps |= {f"{data}, {arm}": values for arm, values in own_gaps.items()}
    if large is not None:
        ending = part_of(setup.progress, 19, 20)
        linear = linear_head_accuracy(large, range(PHOTO_SEEDS), PER_CLASS, setup.device, ending)
        gaps["photos, pretrained"] = [head.train - head.val for head in linear]
        figures["validation, photos, pretrained"] = over_seeds([head.val for head in linear]).figure("%")
        figures["gap, photos, pretrained"] = over_seeds(gaps["photos, pretrained"]).figure("points")
    return Measured(figures, {"gaps": gaps})


def judge(measured: Measured) -> Judgement:
    """Does the network with the largest head overfit, and more than that with the smallest?"""
    figures = measured.figures
    sets = [data for data in ("digits", "photos") if f"gap of the largest head, {data}" in figures]
    if not sets:
        return Judgement(Verdict.OPEN, "VGG's parameters were counted; nothing was trained.", ("parameters of vgg16",))
    largest = [f"gap of the largest head, {data}" for data in sets]
    growth = [f"gap of the largest above the smallest head, {data}" for data in sets]
    decided_by = (*growth, *largest)
    if any(figure.value < 95 for name, figure in figures.items() if name.startswith("training, ")):
        return Judgement(Verdict.OPEN, "A network has not fitted its training images.", decided_by)
    (least, most), (least_growth, most_growth) = bounds(figures, largest), bounds(figures, growth)
    if min(most) <= MARGIN:
        return Judgement(Verdict.FAILS, "Even the largest head does not overfit.", decided_by)
    if min(least) <= MARGIN:
        return Judgement(Verdict.OPEN, "Whether the largest head overfits is too uncertain.", decided_by)
    where = "photos were tried too, but" if "photos" in sets else "only digits were tried, and"
    if min(least_growth) > 0:
        reason = f"This trunk overfits, and more with a larger head; {where} VGG-16 itself was not trained."
        return Judgement(Verdict.HOLDS, reason, decided_by)
    if min(most_growth) <= MARGIN:
        reason = f"This trunk overfits, but hardly more with a larger head; {where} VGG-16 itself was not trained."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    return Judgement(Verdict.OPEN, "It overfits; whether more with a larger head is too uncertain.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """A row for each head; without training, VGG's parameters."""
    axes = canvas.subplots()
    if measured.series:
        gaps = measured.series["gaps"]
        counts = {arm: measured.figures.get(f"parameters, {arm}") for arm in gaps}
        rows = {arm if n is None else f"{arm}: {n.value / 1e3:,.0f} k": gaps[arm] for arm, n in counts.items()}
        colors = [BLUE if arm.startswith("digits") else ORANGE for arm in gaps]
        seeds(axes, rows, "training minus validation accuracy, points", colors)
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        return
    bars(axes, {name: measured.value(f"parameters of {name}") / 1e6 for name in VGGS}, "parameters, 10⁶")
