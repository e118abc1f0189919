"""Claim 8: what the additions of a ResNet do to the gradients of a deep network, before any training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.lab.charts import norms_by_depth, seed_lines
from vertebra.lab.each_network import each_measured, judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.initial_gradients import compare_draws, exponents, gradients_of_seed, network_gradients
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_networks import SmallResNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

DEPTHS, DEEPEST = (20, 50, 98), "98"
KINDS = ("plain", "residual")
DECIDED_BY = ("-98: first / last", "-98: cosine", ", no norm-98: first / last")
NETWORK_DECIDING = ("first / last", "without skips, first / last", "cosine", "without skips, cosine")
VANISHED = 0.1  # norm of the gradient at the first convolution over that at the last
ARMS: Mapping[str, Callable[..., nn.Module]] = {
    f"{kind}{norm}": partial(SmallResNet, residual=kind == "residual", batch_norm=not norm)
    for norm in ("", ", no norm")
    for kind in KINDS
}

CLAIM = Claim(
    family="ResNet",
    stated_by="article l.310",
    claim="Adding instead of multiplying answers the vanishing gradients of deep networks.",
    claim_ja="掛け合わせる代わりに足し合わせることで、深いネットワークの勾配消失を防ぐ。",
    should_hold="Without batch norm the plain network's gradients vanish towards the input; with it they grow, and the "
    "addition does something else: it keeps the gradients of neighbouring inputs alike.",
    source="He et al. 2015, 4.1; Balduzzi et al. 2017 (1/√L with batch norm instead of 2^-L)",
    rule="With batch norm, as ResNets are: holds if, in the deepest networks and every seed, the gradient at the first "
    "convolution's output has under a tenth of the norm of that at the last one's in the plain network, and not in the "
    "residual one; else in part if, in every depth and seed, neighbouring input gradients are more alike (cosine) in "
    "the residual network; else it does not hold. What is so without batch norm is told beside it.",
    decided_by=(Kind.INIT,),
    title="Gradients of plain and residual networks at initialisation",
    caption="Untrained. Left: gradient norm at the first convolution's output over that at the last one's; below 1 "
    "gradients shrink towards the input. Right: how alike the input gradients of neighbouring points are; 0 means "
    "unrelated. Bands are the range over seeds.",
    networks_title="Gradients by depth of each network, and without its additions",
    networks_caption="Norm of the gradient at each layer's output, for images of noise; dashed: without the skip "
    "connections. A line that falls towards the left means that gradients vanish.",
    seconds=6,
    seeds=3,
    expected={"residual: cosine by depth, exponent": Expected(-0.5, "Balduzzi et al. 2017, fully connected", 0.3)},
)


def measure(setup: Setup, arms: Mapping[str, Callable[..., nn.Module]] = ARMS) -> Measured:
    """Gradients of every arm at three depths; by seed the same images for all, and the same weights."""
    figures, series = dict[str, Figure](), dict[str, Any](ratio={}, cosine={})
    for number, (arm, depth) in enumerate(product(arms, DEPTHS)):
        setup.progress("gradients", number, len(arms) * len(DEPTHS))
        found = [gradients_of_seed(partial(arms[arm], depth), seed, setup.device) for seed in range(setup.seeds)]
        ratios, weights = [own.ratio for own in found], [own.weight_ratio for own in found]
        cosines = series["cosine"].setdefault(arm, {})[str(depth)] = [own.cosine for own in found]
        series["ratio"].setdefault(arm, {})[str(depth)] = ratios
        figures[f"{arm}-{depth}: first / last"] = Figure(statistics.median(ratios), "×", len(ratios))
        figures[f"{arm}-{depth}: weights, first / last"] = Figure(statistics.median(weights), "×", len(weights))
        figures[f"{arm}-{depth}: cosine"] = over_seeds(cosines).figure()
    figures["residual: cosine by depth, exponent"] = over_seeds(exponents(series["cosine"]["residual"])).figure()
    return Measured(figures, series)


def judge(measured: Measured) -> Judgement:
    """Did gradients vanish without the addition, and are they more alike with it?"""
    cosine = measured.series["cosine"]
    pairs = [zip(cosine["residual"][depth], plain, strict=True) for depth, plain in cosine["plain"].items()]
    ends = {arm: (min(own[DEEPEST]), max(own[DEEPEST])) for arm, own in measured.series["ratio"].items()}
    answered, without_norm = (ends[f"plain{n}"][1] < VANISHED <= ends[f"residual{n}"][0] for n in ("", ", no norm"))
    verdict, reason = _verdict(answered, all(residual > plain for pair in pairs for residual, plain in pair))
    if not answered and without_norm:
        reason += " Without batch norm the plain network's gradients vanish, and the residual one's do not."
    return Judgement(verdict, reason, tuple(f"{kind}{what}" for what in DECIDED_BY for kind in KINDS))


def _verdict(answered: bool, alike: bool) -> tuple[Verdict, str]:
    if answered:
        return Verdict.HOLDS, "Gradients vanish towards the input without the addition, and not with it."
    if alike:
        return Verdict.IN_PART, "It is not vanishing that the addition answers: it keeps neighbouring gradients alike."
    return Verdict.FAILS, "The addition neither answers vanishing gradients nor keeps neighbouring ones alike."


def draw(measured: Measured, canvas: Canvas) -> None:
    """Ratio and cosine by depth."""
    labels = {"ratio": "gradient norm, first / last convolution", "cosine": "cosine of neighbouring input gradients"}
    left, right = canvas.subplots(1, 2)
    for axes, (what, label) in zip((left, right), labels.items(), strict=True):
        lines = {arm: {float(d): own for d, own in of.items()} for arm, of in measured.series[what].items()}
        seed_lines(axes, lines, "layers", label)
        axes.set_xticks(DEPTHS)
    right.get_legend().remove()  # the left one is enough
    left.set_yscale("log")
    left.axhline(1, color="0.3", linewidth=1)


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Each network, and where it adds, the same without its skips."""
    return measure_each(lambda _, network: network_gradients(network, setup.device), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """The same rule for each that adds, against itself without its skips."""
    adding = [name for name, own in each_measured(measured).items() if NETWORK_DECIDING[1] in own.figures]
    if adding:
        return judge_each(_judge_network, measured, adding)
    return Judgement(Verdict.OPEN, "None of these networks adds: there is no skip connection to take away.")


def _judge_network(measured: Measured) -> Judgement:
    found = compare_draws(measured.series["draws"], VANISHED)
    verdict = _verdict(*found) if found else (Verdict.OPEN, "Some gradients are 0 or infinite, so there is no ratio.")
    return Judgement(*verdict, NETWORK_DECIDING)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Norms by depth; dashed without skips."""
    norms_by_depth(canvas.subplots(), {name: own["norms"] for name, own in measured.series["networks"].items()})
