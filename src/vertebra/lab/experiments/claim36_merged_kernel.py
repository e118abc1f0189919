"""Claim 36: whether MBConv's 1×1 and depthwise convolution can be merged into one dense 3×3, as FusedMBConv has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.lab.charts import BLUE, ORANGE, bars
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.models.mbconv import FusedMBConv, FusedMBConvConfig, MBConv, MBConvConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="EfficientNetV2",
    stated_by="article l.1041",
    claim="Fusing merges the depthwise results into one 3×3.",
    claim_ja="FusedMBConvは、深さ方向畳み込みまでの結果を1つの3×3畳み込みにまとめたものである。",
    should_hold="1×1 then depthwise with nothing between is a dense 3×3 whose slices have rank 1 (8 → 32 channels: 544 "
    "weights become 2,304). With norm and SiLU between there is no such kernel.",
    source="algebra",
    rule="Holds if a dense 3×3, fitted by least squares, computes what an MBConv's 1×1 and depthwise convolution do "
    "with norm and activation between them, on other images, to 1e-12 of the variance; in part if only with nothing "
    "between is there a dense 3×3 that computes the same (error below 1e-12); else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="One dense 3×3 instead of 1×1 and depthwise 3×3",
    caption="Untrained, on noise. Left: what the best dense 3×3 leaves unexplained of the output. Right: a kernel that "
    "merges the two has one singular value in each slice; FusedMBConv's may have all.",
    seconds=1,
    seeds=5,
    expected={
        "error with nothing between": Expected(0, "algebra: below 1e-12", 1e-12),
        "weights of 1×1 and depthwise": Expected(544, "algebra"),
        "weights of the dense 3×3": Expected(2_304, "algebra"),
        "rank of a merged slice": Expected(1, "algebra"),
    },
)
CHANNELS, EXPANSION = 8, 4
NOTHING, NORM, ALL = "nothing between", "norm between", "norm and activation between"


def measure(setup: Setup, block: Callable[..., nn.Module] = MBConv) -> Measured:
    """Both layers and what is between them from a block of 8 → 32 channels, in float64."""
    found: dict[str, list[float]] = {NOTHING: [], NORM: [], ALL: []}
    errors, ranks, ratios = [], [], []
    spectra: dict[str, list[float]] = {}
    for seed in range(setup.seeds):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            separated: Any = block(MBConvConfig(EXPANSION, 3, 1, CHANNELS, CHANNELS, 1), 0.0, nn.BatchNorm2d).double()
            fused: Any = FusedMBConv(FusedMBConvConfig(EXPANSION, 3, 1, CHANNELS, CHANNELS, 1), 0.0, nn.BatchNorm2d)
            images = torch.randn(2, 24, CHANNELS, 16, 16, dtype=torch.float64)
        (pointwise, *between), depthwise = separated.block[0], separated.block[1][0]
        if between and isinstance(between[0], nn.BatchNorm2d):  # statistics as after training, not 0 and 1
            between[0].momentum = None
            between[0](pointwise(images[0]))
        separated.eval()
        layers = {NOTHING: [], NORM: between[:1], ALL: between}
        for arm, middle in layers.items():
            outputs = [depthwise(nn.Sequential(pointwise, *middle)(half))[..., 1:-1, 1:-1] for half in images]
            found[arm].append(_unexplained(images, [output.detach() for output in outputs]))
        merged = (depthwise.weight * pointwise.weight).detach()  # (32, 1, 3, 3) · (32, 8, 1, 1)
        difference = F.conv2d(images[1], merged, padding=1) - depthwise(pointwise(images[1]))
        errors.append(float(difference.detach().abs().max()))
        dense = fused.block[0][0].weight.detach().double()
        spectra = {name: _spectrum(kernel) for name, kernel in (("merged", merged), ("FusedMBConv", dense))}
        ranks.append(max(int(torch.linalg.matrix_rank(s)) for s in merged.flatten(2)))
        ratios.append(spectra["FusedMBConv"][1])
    figures = {
        "error with nothing between": Figure(max(errors), n=len(errors)),
        **{f"unexplained, {arm}": _mean(values, "%") for arm, values in found.items()},
        "weights of 1×1 and depthwise": Figure(pointwise.weight.numel() + depthwise.weight.numel()),
        "weights of the dense 3×3": Figure(dense.numel()),
        "rank of a merged slice": Figure(max(ranks), n=setup.seeds),
        "second over first singular value of FusedMBConv's slices": _mean(ratios),
    }
    return Measured(figures, {"singular values": spectra})


def _unexplained(images: Tensor, outputs: list[Tensor]) -> float:
    """Fit a 3×3 with bias on the first half of the images; the share of the second half's variance that is left, %."""
    patches = [F.pad(F.unfold(half, 3).transpose(1, 2).flatten(0, 1), (0, 1), value=1.0) for half in images]
    wanted = [output.flatten(2).transpose(1, 2).flatten(0, 1) for output in outputs]
    kernel = torch.linalg.lstsq(patches[0], wanted[0]).solution  # (8 · 9 + 1, 32)
    left = wanted[1] - patches[1] @ kernel
    return 100 * float(left.square().sum() / (wanted[1] - wanted[1].mean(0)).square().sum())


def _spectrum(kernel: Tensor) -> list[float]:
    """Singular values of the slices (inputs × 9) of each output channel, over the largest one, averaged."""
    values = torch.linalg.svdvals(kernel.flatten(2))
    return [float(value) for value in (values / values[:, :1]).mean(0)]


def _mean(values: list[float], unit: str = "") -> Figure:
    return Figure(float(np.mean(values)), unit, len(values))


def judge(measured: Measured) -> Judgement:
    """Is there a kernel, with what is between and without?"""
    decided_by = ("error with nothing between", f"unexplained, {ALL}", "rank of a merged slice")
    if measured.value("error with nothing between") > 1e-12:
        return Judgement(Verdict.FAILS, "Not even with nothing between does a dense 3×3 compute the same.", decided_by)
    if measured.value(f"unexplained, {ALL}") > 100 * 1e-12:
        reason = "The two merge only with nothing between; with norm and activation no dense 3×3 computes the same."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    return Judgement(Verdict.HOLDS, "One dense 3×3 computes the same, with what is between included.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """What is left unexplained, and the singular values of the two kernels."""
    left, right = canvas.subplots(1, 2)
    names = {"nothing": NOTHING, "norm": NORM, "norm and\nactivation": ALL}
    shares = {label: measured.value(f"unexplained, {arm}") for label, arm in names.items()}
    bars(left, shares, "unexplained variance of the output, %", "{:.2g}")
    left.set_ylabel("between the two layers")
    for (name, values), color in zip(measured.series["singular values"].items(), (BLUE, ORANGE), strict=True):
        right.plot(range(1, len(values) + 1), values, "o-", color=color, label=name)
    right.set_xlabel("singular value of a kernel slice (8 × 9)")
    right.set_ylabel("share of the largest")
    right.legend()
