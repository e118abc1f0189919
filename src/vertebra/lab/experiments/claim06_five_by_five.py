"""Claim 6: what the branch of GoogLeNet that is called 5×5 convolves with, by its kernel and by what it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.introspect import InceptionWith5x5, googlenet_with
from vertebra.introspect.receptive_field_by_gradient import GradientField, receptive_field_by_gradient
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.models.googlenet import Inception
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SIDE = 7  # of the maps that the branches run on: larger than any receptive field in question
AS_IT_IS, PAPER = "as it is", "with a true 5×5"
MODULES, KERNELS, FIELDS = "modules", "branches with a 3×3 kernel and no larger one", "branches that read 3×3 positions"

CLAIM = Claim(
    family="GoogLeNet",
    stated_by="article l.108, 284",
    claim='GoogLeNet\'s "5×5" branch is a 3×3.',
    claim_ja="「5×5」の枝の実体は3×3畳み込みである。",
    should_hold="The branch has a 3×3 in all nine modules; with a true 5×5 the network has 5.7 % more parameters.",
    source="counts; https://github.com/pytorch/vision/issues/906",
    rule="Holds if in every module the branch's largest kernel is 3×3 and one output reads 3×3 positions, by its "
    "gradient; in part if that is so in some modules, or of the kernel alone; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title='What one output of the "5×5" branch reads, and what a true 5×5 would',
    caption="Coloured positions of the module's input reach the central output of the branch in module 3a, as its "
    "gradient shows (untrained). Above each: what the whole network costs at 224 × 224.",
    seconds=1,
    expected={
        KERNELS: Expected(9, "source"),
        "parameters with a true 5×5": Expected(7_005_832, "counts"),
        "MACs with a true 5×5": Expected(1_582_671_872, "counts"),
        "more parameters with a true 5×5": Expected(5.7, "counts", 0.01),
        "more MACs with a true 5×5": Expected(5.6, "counts", 0.01),
    },
)


def measure(setup: Setup, inception: Layer = Inception) -> Measured:
    """Read the kernels of the branch, run it for its gradient, and count the network with either kernel."""
    with meta_build():
        networks = {AS_IT_IS: googlenet_with(inception), PAPER: googlenet_with(InceptionWith5x5)}
    counts = {arm: inspect(network, 224) for arm, network in networks.items()}
    branches = {arm: _branches(network) for arm, network in networks.items()}
    fields = [_field(branch) for branch in branches[AS_IT_IS]]
    own, paper = counts[AS_IT_IS], counts[PAPER]
    figures = {
        MODULES: Figure(len(fields)),
        KERNELS: Figure(sum(_largest_kernel(branch) == (3, 3) for branch in branches[AS_IT_IS])),
        FIELDS: Figure(sum((field.height, field.width) == (3, 3) for field in fields)),
        "parameters": Figure(own.parameters),
        "parameters with a true 5×5": Figure(paper.parameters),
        "more parameters with a true 5×5": Figure(100 * (paper.parameters / own.parameters - 1), "%"),
        "MACs": Figure(own.macs),
        "MACs with a true 5×5": Figure(paper.macs),
        "more MACs with a true 5×5": Figure(100 * (paper.macs / own.macs - 1), "%"),
    }
    first = {arm: _field(found[0]) for arm, found in branches.items()}
    boxes = {arm: [field.left, field.top, field.width, field.height] for arm, field in first.items()}
    return Measured(figures, {"boxes": boxes})


def judge(measured: Measured) -> Judgement:
    """The kernel and what it reads, in every module?"""
    decided_by = (KERNELS, FIELDS, MODULES)
    kernels, fields, modules = (measured.value(name) for name in decided_by)
    if kernels == fields == modules:
        return Judgement(Verdict.HOLDS, "In every module it is a 3×3, by its kernel and by what it reads.", decided_by)
    if kernels == modules:
        return Judgement(Verdict.IN_PART, "Its kernels are 3×3, but together they read more.", decided_by)
    if kernels or fields:
        return Judgement(Verdict.IN_PART, "It is a 3×3 in some modules, not in all.", decided_by)
    return Judgement(Verdict.FAILS, "In no module is it a 3×3.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """The positions that one output reads, twice."""
    own = (measured.value("parameters"), measured.value("MACs"))
    paper = (measured.value("parameters with a true 5×5"), measured.value("MACs with a true 5×5"))
    panels = canvas.subplots(1, 2)
    for axes, (arm, (left, top, width, height)), (parameters, macs) in zip(
        panels, measured.series["boxes"].items(), (own, paper), strict=True
    ):
        reads = [[left <= x < left + width and top <= y < top + height for x in range(SIDE)] for y in range(SIDE)]
        axes.pcolormesh([[float(cell) for cell in row] for row in reads], cmap="Blues", vmax=1.3, edgecolors="white")
        axes.set(aspect="equal", xlabel="column", ylabel="row", xticks=[], yticks=[])
        axes.set_title(f"{arm}: {parameters / 1e6:.2f} M parameters, {macs / 1e9:.2f} G MACs", fontsize=10)
        axes.text(SIDE / 2, SIDE / 2, f"{width} × {height}", ha="center", va="center", color="white", weight="bold")


def _branches(network: nn.Module) -> list[nn.Module]:
    named = (getattr(module, "branch3", None) for module in network.modules())
    return [branch for branch in named if isinstance(branch, nn.Module)]


def _largest_kernel(branch: nn.Module) -> tuple[int, ...]:
    return max(layer.kernel_size for layer in branch.modules() if isinstance(layer, nn.Conv2d))


def _field(branch: nn.Module) -> GradientField:
    return receptive_field_by_gradient(branch, SIDE, "")
