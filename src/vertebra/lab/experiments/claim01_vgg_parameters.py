"""Claim 1: where VGG-16 keeps its parameters, and where its arithmetic and its activations are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.anatomy import inspect
from vertebra.lab.charts import bars, stacked_bars
from vertebra.lab.cost_shares import COSTS, DENSE, KINDS, cost_shares
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import inspect_own

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="VGG",
    stated_by="article l.7",
    claim="The 4096-wide fully connected layers take much of the memory.",
    claim_ja="VGGのメモリの多くは、幅4096の全結合層が占めている。",
    should_hold="89.4 % of VGG-16's parameters, but 0.8 % of its MACs and less than 0.1 % of its activations. In "
    "training the activations overtake weights, gradients and momentum at a batch of 28.",
    source="counts of torchvision 0.29",
    rule="Holds if the fully connected layers have more than half of the parameters and of the activations; in part if "
    "of one of them; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Where the parameters, the MACs and the activations are",
    caption="Shares of the network by kind of layer, for one image. Activations are what convolutions and matrix "
    "products write. A kind with most of one cost may have little of another.",
    seconds=2,
    expected={
        "share of the parameters": Expected(89.4, "counts", 0.001),
        "share of the MACs": Expected(0.8, "counts", 0.05),
        "parameters": Expected(138_357_544, "counts"),
        "parameters: fully connected": Expected(123_642_856, "counts"),
        "parameters: largest layer": Expected(102_764_544, "counts"),
        "share of the parameters: largest layer": Expected(74.3, "counts", 0.001),
        "weights": Expected(553.4, "counts", 0.001),
        "weights of fully connected layers": Expected(494.6, "counts", 0.001),
        "MACs": Expected(15_470_264_320, "counts"),
        "MACs: fully connected": Expected(123_633_664, "counts"),
        "activations": Expected(13.6e6, "counts", 0.005),
        "activations: fully connected": Expected(9_192, "counts"),
        "weights, gradients and momentum": Expected(1660, "counts", 0.001),
        "kept for backward, without positions of maxima": Expected(61.1, "counts", 0.001),
        "batch at which that is more, without positions of maxima": Expected(28, "counts"),
    },
)


def measure(setup: Setup, network: str | nn.Module = "vgg16") -> Measured:
    """Count at 224 × 224, and a training step with momentum."""
    found = inspect(network, 224)
    measured = cost_shares(found)
    figures = dict(measured.figures)
    figures["weights"] = Figure(found.parameter_bytes / 1e6, "MB")
    figures["weights of fully connected layers"] = Figure(4 * figures[f"parameters: {DENSE}"].value / 1e6, "MB")
    step = found.training_memory("momentum")
    fixed = step.parameters + step.gradients + step.optimizer_state
    # Max pooling keeps the position of each maximum, an int64, beside the values.
    positions = sum(8 * math.prod(row.output_shape) for row in found.layers if row.op == "max_pool2d")
    figures["weights, gradients and momentum"] = Figure(fixed / 1e6, "MB")
    for what, nbytes in {"": 0, ", without positions of maxima": positions}.items():
        kept = step.saved_activations - nbytes
        figures[f"kept for backward{what}"] = Figure(kept / 1e6, "MB an image")
        figures[f"batch at which that is more{what}"] = Figure(fixed // kept + 1)
    return Measured(figures, measured.series)


def judge(measured: Measured) -> Judgement:
    """More than half of the parameters, and of the activations?"""
    decided_by = ("share of the parameters", "share of the activations", "share of the MACs")
    most = [measured.value(name) > 50 for name in decided_by[:2]]
    reason = {
        (True, True): "The fully connected layers have most of the parameters and of the activations.",
        (True, False): "The fully connected layers have most of the parameters and few of the activations.",
        (False, True): "The fully connected layers have most of the activations and few of the parameters.",
        (False, False): "The fully connected layers have neither most of the parameters nor of the activations.",
    }[most[0], most[1]]
    return Judgement((Verdict.FAILS, Verdict.IN_PART, Verdict.HOLDS)[sum(most)], reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Shares of the kinds of layers, for each of the three costs, and the parameters of each stage."""
    _draw({"VGG-16": measured.series}, canvas)


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same counts, at the size that each network is for."""
    return measure_each(lambda _, network: cost_shares(inspect_own(network)), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """The same rule for each."""
    return judge_each(judge, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """The same for all; stages of a single network alone."""
    _draw(measured.series["networks"], canvas)


def _draw(networks: Mapping[str, Any], canvas: Canvas) -> None:
    rows = [f"{name}, {cost}" for name in networks for cost in COSTS]
    values = {k: [own["kinds"].get(k, {}).get(c, 0) for own in networks.values() for c in COSTS] for k in KINDS}
    upper, *lower = canvas.subplots(2).flat if len(networks) == 1 else [canvas.subplots()]
    stacked_bars(upper, rows, values, "share of the network, %")
    for axes in lower:
        bars(axes, {s: n / 1e6 for s, n in next(iter(networks.values()))["stages"].items()}, "parameters by stage, 10⁶")
