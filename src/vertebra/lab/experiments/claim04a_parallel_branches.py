"""Claim 4a: what parallel branches save, apart from what the 1×1 in front of them saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vertebra.anatomy import inspect
from vertebra.introspect import DenseInception, ReducedInception, UnreducedInception, googlenet_with
from vertebra.lab.charts import grouped_bars
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.models.googlenet import Inception
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

ONE_CONVOLUTION, BRANCHES = "one 3×3 convolution", "parallel branches"
WITHOUT_1X1, WITH_1X1 = "without 1×1 in front", "with 1×1 in front"

CLAIM = Claim(
    family="GoogLeNet",
    stated_by="article l.107",
    claim="Parallel convolution branches cut the parameters greatly.",
    claim_ja="畳み込みを並列の枝に分けると、パラメーター数は大きく減る。",
    should_hold="Every module as one 3×3 convolution has 29.9 M parameters, with a 1×1 in front 10.7 M, as four "
    "branches 6.6 M: the branches cut them, as a 1×1 alone computes part of the channels; the 1×1 in front cuts more.",
    source="counts",
    rule="Holds if the branches save more than a third of the modules' parameters against one 3×3 convolution of as "
    "many output channels, both with and without 1×1 in front; in part if in one of the two; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Parameters of GoogLeNet's modules: branches or one convolution",
    caption="Within each group, the lower bar against the upper one is what the branches save; between the groups, "
    "what the 1×1 in front of the larger convolutions saves. Output channels are the same in all four.",
    seconds=1,
    expected={
        "parameters, one 3×3": Expected(29_923_848, "counts"),
        "parameters, 1×1 then one 3×3": Expected(10_694_280, "counts"),
        "parameters, branches": Expected(6_624_904, "counts"),
        "parameters, branches without 1×1": Expected(18_389_512, "counts"),
        "MACs, one 3×3": Expected(4.98e9, "counts", 0.002),
        "MACs, 1×1 then one 3×3": Expected(2.35e9, "counts", 0.002),
        "MACs, branches": Expected(1.50e9, "counts", 0.002),
    },
)


def measure(setup: Setup, branches: Layer = Inception, unreduced_branches: Layer = UnreducedInception) -> Measured:
    """Count the whole network at 224 × 224, and its nine modules alone: the rest is the same in all four."""
    arms: dict[str, tuple[str, str, Layer]] = {
        "one 3×3": (ONE_CONVOLUTION, WITHOUT_1X1, DenseInception),
        "1×1 then one 3×3": (ONE_CONVOLUTION, WITH_1X1, ReducedInception),
        "branches without 1×1": (BRANCHES, WITHOUT_1X1, unreduced_branches),
        "branches": (BRANCHES, WITH_1X1, branches),
    }
    figures: dict[str, Figure] = {}
    modules: dict[str, dict[str, int]] = {ONE_CONVOLUTION: {}, BRANCHES: {}}
    for arm, (form, reduction, inception) in arms.items():
        with meta_build():
            network = googlenet_with(inception)
        found = inspect(network, 224)
        modules[form][reduction] = sum(row.parameters for row in found.layers if row.name.startswith("inception"))
        figures |= {f"parameters, {arm}": Figure(found.parameters), f"MACs, {arm}": Figure(found.macs)}
    for reduction in (WITHOUT_1X1, WITH_1X1):
        share = 1 - modules[BRANCHES][reduction] / modules[ONE_CONVOLUTION][reduction]
        figures[f"saved by branches, {reduction}"] = Figure(100 * share, "%")
    for form, counts in modules.items():
        figures[f"saved by 1×1, {form}"] = Figure(100 * (1 - counts[WITH_1X1] / counts[WITHOUT_1X1]), "%")
    return Measured(figures, {"modules": modules})


def judge(measured: Measured) -> Judgement:
    """More than a third, at equal reductions?"""
    saved = (f"saved by branches, {WITH_1X1}", f"saved by branches, {WITHOUT_1X1}")
    reduced = f"saved by 1×1, {ONE_CONVOLUTION}"
    great = [measured.value(name) > 100 / 3 for name in saved]
    decided_by = (*saved, reduced)
    if not any(great):
        return Judgement(Verdict.FAILS, "The branches save at most a third of the modules' parameters.", decided_by)
    if not all(great):
        return Judgement(
            Verdict.IN_PART, "The branches save more than a third in only one of the two comparisons.", decided_by
        )
    if measured.value(reduced) > max(measured.value(name) for name in saved):
        reason = "The branches save more than a third of the modules' parameters; the 1×1 in front of them saves more."
    else:
        reason = "The branches save more than a third of the modules' parameters, and more than the 1×1 in front."
    return Judgement(Verdict.HOLDS, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Four bars: branches or not, 1×1 in front or not."""
    modules = measured.series["modules"]
    groups = [WITHOUT_1X1, WITH_1X1]
    series = {form: [counts[group] / 1e6 for group in groups] for form, counts in modules.items()}
    grouped_bars(canvas.subplots(), groups, series, "parameters of the nine modules, millions")
