"""Claim 23: what each scaling of EfficientNet costs, which of them are in its code, and accuracy at equal MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vertebra.anatomy import inspect
from vertebra.lab import scaled_networks as scaled
from vertebra.lab.charts import BLUE, ORANGE, bars, seeds
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.seed_statistics import over_seeds, paired_difference
from vertebra.models.efficientnet import scaled_b0

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_MACS = (385.8, 686.8, 1088, 1827, 4394, 10270, 19070, 37750)
_PARAMETERS = (5.29, 7.79, 9.11, 12.23, 19.34, 30.39, 43.04, 66.35)
_PAPER = {"baseline": 77.3, "width × 2": 78.9, "depth × 4": 79.0, "resolution × 2": 79.1, "compound": 81.1}
AT_224, UNEQUAL = "B7: runs at 224 pixels too", "largest over smallest MACs of the trained"

CLAIM = Claim(
    family="EfficientNet",
    stated_by="article l.755, 941–943",
    claim="Not simply deeper, wider or larger images, but efficient; under compound scaling the quoted code names "
    "width and depth only.",
    claim_ja="深さ・幅・解像度をただ大きくするのではなく、効率を追い求めている。引用コードで倍率として現れるのは幅と深さの2つである。",
    should_hold="Width × 2, depth × 4 or resolution × 2 alone cost about 4 times B0's MACs each. Width and depth are "
    "in the network's code, resolution in the transforms of its weights. That all three together are more accurate "
    "needs ImageNet.",
    source="counts of torchvision 0.29; Tan & Le 2019, Table 7 and Fig. 8",
    rule="Code: the multipliers of width (2) and depth (4) and a resolution of 448 each cost 3.5 to 4.5 times B0's "
    "MACs, and B7 runs at 224 pixels too; else it does not hold. Efficiency, on the first 20 classes of a folder with "
    "40 photos (without Caltech-101's Faces_easy, which has the pictures of Faces), at MACs within 15 %: holds if "
    "compound scaling is more accurate than each of the three alone (95 % intervals of the differences above 0); in "
    "part if not decided, if nothing was trained, or if one of the three is more accurate.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="What scaling costs, and what it gains at equal MACs",
    caption="MACs over B0's: orange scales EfficientNet-B0 in one way alone, blue are B1 to B7, scaled in all three. "
    "With --data, right: accuracy of a small network scaled to about equal MACs; one dot a seed, bars are means.",
    seconds=95,
    seeds=3,
    least_data=(scaled.CLASSES, scaled.PER_CLASS),
    expected={f"B{i}: MACs": Expected(macs, "counts", 0.001) for i, macs in enumerate(_MACS)}
    | {f"B{i}: parameters": Expected(count, "counts", 0.001) for i, count in enumerate(_PARAMETERS)}
    | {"width × 2: MACs over B0's": Expected(3.76, "counts", 0.002),
       "depth × 4: MACs over B0's": Expected(4.08, "counts", 0.002),
       "resolution × 2: MACs over B0's": Expected(3.99, "counts", 0.002)}
    | {f"ImageNet top-1 in %, {name}": Expected(top1, "Tan & Le 2019, Table 7") for name, top1 in _PAPER.items()},
)  # fmt: skip


def measure(
    setup: Setup,
    scale: scaled.Scale = scaled_b0,
    arms: Mapping[str, scaled.Small] = scaled.ARMS,
    variants: Sequence[int] = range(len(_MACS)),
) -> Measured:
    """Count B0 to B7 at their own resolution, and each scaling alone; train at equal MACs where there are photos."""
    figures: dict[str, Figure] = {}
    for i in variants:
        found = inspect(f"efficientnet_b{i}")
        figures[f"B{i}: MACs"] = Figure(found.macs / 1e6, "M MACs")
        figures[f"B{i}: parameters"] = Figure(found.parameters / 1e6, "M")
        figures[f"B{i}: resolution"] = Figure(found.rows[0].input_shapes[0][-1], "px")
    figures |= {f"{name}: MACs over B0's": Figure(r, "×") for name, r in scaled.macs_of_single_scalings(scale).items()}
    figures[AT_224] = Figure(int(scaled.runs_at_b0_size(scale)))
    if setup.quick or setup.data is None:
        return Measured(figures)
    macs = {name: arm.macs() for name, arm in arms.items()}
    figures |= {
        f"{name}, trained: MACs over the base's": Figure(m / scaled.BASE.macs(), "×") for name, m in macs.items()
    }
    figures[UNEQUAL] = Figure(max(macs.values()) / min(macs.values()), "×")
    accuracy = scaled.accuracies(setup.data, setup, {"base": scaled.BASE, **arms})
    figures |= {f"{name}, trained: accuracy": over_seeds(own).figure("%") for name, own in accuracy.items()}
    for name in ("width", "depth", "resolution"):
        figures[f"compound over {name}"] = paired_difference(accuracy["compound"], accuracy[name]).figure("points")
    return Measured(figures, {"accuracy": accuracy})


def judge(measured: Measured) -> Judgement:
    """Are width and depth in the code, and resolution not? Is compound scaling more accurate at equal MACs?"""
    costs = tuple(f"{name}: MACs over B0's" for name in ("width × 2", "depth × 4", "resolution × 2"))
    if not all(3.5 <= measured.value(cost) <= 4.5 for cost in costs) or not measured.value(AT_224):
        reason = "The network's code does not scale width and depth, and leave the resolution to the images."
        return Judgement(Verdict.FAILS, reason, (*costs, AT_224))
    if UNEQUAL not in measured.figures:
        reason = "The code scales width and depth, the images the third; whether all three gain more was not run."
        return Judgement(Verdict.IN_PART, reason, (*costs, AT_224))
    gains = tuple(f"compound over {name}" for name in ("width", "depth", "resolution"))
    intervals = [measured.figures[gain].interval or (0, 0) for gain in gains]
    if measured.value(UNEQUAL) > 1.15:
        reason = "The code scales width and depth, the images the third; the trained networks differ in MACs."
    elif all(low > 0 for low, _ in intervals):
        reason = "The code scales width and depth, the images the third; all three together are the most accurate here."
        return Judgement(Verdict.HOLDS, reason, (*gains, *costs))
    elif any(high < 0 for _, high in intervals):
        reason = "The code scales width and depth, the images the third; one of them alone is more accurate here."
    else:
        reason = "The code scales width and depth, the images the third; what gains most is not decided here."
    return Judgement(Verdict.IN_PART, reason, (*gains, *costs))


def draw(measured: Measured, canvas: Canvas) -> None:
    """MACs of the single scalings and of B1 to B7; accuracy of the trained."""
    accuracy = measured.series.get("accuracy")
    left, *right = canvas.subplots(1, 2).flat if accuracy else [canvas.subplots()]
    alone = {n.partition(": ")[0]: f.value for n, f in measured.figures.items() if n.endswith(": MACs over B0's")}
    compound = {f"B{i}": measured.value(f"B{i}: MACs") / measured.value("B0: MACs") for i in range(1, len(_MACS))
                if f"B{i}: MACs" in measured.figures}  # fmt: skip
    bars(left, alone | compound, "MACs over those of B0", color=[ORANGE] * len(alone) + [BLUE] * len(compound))
    left.set(xscale="log", xlim=(1, 250))
    left.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    for axes in right:
        seeds(axes, accuracy or {}, "validation accuracy, %")
