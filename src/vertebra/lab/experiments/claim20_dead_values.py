"""Claim 20: values and channels without gradient under ReLU, ReLU6 and SiLU, and whether SiLU helps depthwise more."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.lab import slope_shares as slopes
from vertebra.lab.activation_gain import GAIN, INTERACTION, arms_of, gain_figures
from vertebra.lab.charts import network_bars, seeds
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import fit_all
from vertebra.lab.small_data import digits
from vertebra.models.layers import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

ACTIVATIONS: Mapping[str, Layer] = {"ReLU": nn.ReLU, "ReLU6": nn.ReLU6, "SiLU": nn.SiLU}
FLAT, DEAD = slopes.FLAT, slopes.DEAD

CLAIM = Claim(
    family="EfficientNet",
    stated_by="article l.990, 1005, 1054",
    claim="SiLU keeps small negative values weakly, so gradients flow smoothly, where ReLU kills all negative values; "
    "that makes up for the weak depthwise layer.",
    claim_ja="負の値をすべて切り捨てるReLUと違い、SiLUは小さな負の値をわずかに通すので、勾配が途切れにくい。"
    "これが深さ方向畳み込みの表現力不足を補う。",
    should_hold="About half of the values have no slope under ReLU and ReLU6, hardly any under SiLU; channels hardly "
    "die. SiLU is lowest at -1.278, and steepest downwards at -2.40. The second half needs more seeds, harder images.",
    source="counts; EfficientNet-B0 77.7 % top-1, Lite0, which lacks the gates too, 75.1 %",
    rule="First half: of the values that activations of the depthwise networks get on validation images, less than 5 % "
    "have an absolute slope below 0.001 under SiLU, more than 25 % under ReLU and ReLU6, in every seed. Second half: "
    "SiLU's gain in accuracy over ReLU6 is positive with depthwise convolutions, and larger than with dense ones (95 % "
    "interval of the difference, paired by seed, above 0; not decided if it includes 0). Both: holds; one: in part.",
    decided_by=(Kind.INIT, Kind.TRAINING),
    title="Values without slope by activation, and what SiLU gains",
    caption="Left: share of values whose slope is below 0.001, with depthwise convolutions (untrained in a quick run). "
    "Right: if SiLU made up for these, it would gain more over ReLU6 with them than with dense ones. One dot a seed.",
    seconds=70,
    seeds=5,
    expected={
        "SiLU: least value": Expected(-0.278, "calculus", 0.002),
        "SiLU: least value at": Expected(-1.278, "calculus", 0.001),
        "SiLU: least slope": Expected(-0.0998, "calculus", 0.001),
        "SiLU: least slope at": Expected(-2.40, "calculus", 0.001),
    },
    networks_title="Values and channels without slope",
    networks_caption="On noise; untrained unless the file holds weights. Dead channels have no value with a slope.",
)


def measure(setup: Setup, activations: Mapping[str, Layer] = ACTIVATIONS) -> Measured:
    """Least value and slope of each function; shares before training, and after it; accuracy of all arms."""
    figures = slopes.least_figures("SiLU", activations["SiLU"]())
    arms = arms_of(activations)
    shares = {name: slopes.untrained_shares(arms[f"{name}, depthwise"], setup.seeds) for name in activations}
    figures |= slopes.share_figures(shares, ", untrained")
    acc: dict[str, list[float]] = {}
    if not setup.quick:
        how: dict[str, Any] = {"measure": slopes.val_shares, "device": setup.device, "progress": setup.progress}
        curves = fit_all(arms, range(setup.seeds), digits().split, Protocol(epochs=8), **how)
        shares = {name: [curve.found for curve in curves[f"{name}, depthwise"]] for name in activations}
        acc = {arm: [100 * curve.val_accuracy[-1] for curve in own] for arm, own in curves.items()}
        figures |= slopes.share_figures(shares) | gain_figures(acc)
    return Measured(figures, {"flat": {n: [own.flat for own in each] for n, each in shares.items()}, "acc": acc})


def judge(measured: Measured) -> Judgement:
    """Fewer values without slope in every seed? More gained with depthwise than with dense?"""
    flat, trained = measured.series["flat"], INTERACTION in measured.figures
    first = max(flat["SiLU"]) < 5 and min(*flat["ReLU"], *flat["ReLU6"]) > 25
    if not trained:
        reason = "Untrained, hardly any value lacks a gradient under SiLU; training was not run."
        shares = (f"ReLU6: {FLAT}, untrained", f"SiLU: {FLAT}, untrained")
        return Judgement(Verdict.OPEN, reason if first else "Untrained, SiLU spares no gradients.", shares)
    low, high = measured.figures[INTERACTION].interval or (0, 0)
    second = low > 0 and measured.value(f"{GAIN}: depthwise") > 0
    reason = "Hardly any value lacks a gradient under SiLU; whether it makes up for depthwise is not decided here."
    if second:
        reason = "Hardly any value lacks a gradient under SiLU, and on digits depthwise convolutions gain more by it."
    elif high < 0:
        reason = "Hardly any value lacks a gradient under SiLU, but on digits depthwise convolutions gain less by it."
    if not first:
        reason = "Under SiLU values lack a gradient as under ReLU."
    verdict = (Verdict.FAILS, Verdict.IN_PART, Verdict.HOLDS)[first + second]
    return Judgement(verdict, reason, (f"ReLU6: {FLAT}", f"SiLU: {FLAT}", INTERACTION, f"ReLU: {DEAD}"))


def draw(measured: Measured, canvas: Canvas) -> None:
    """Shares by activation; accuracy by activation and convolution."""
    left, *right = canvas.subplots(1, 2).flat if measured.series["acc"] else [canvas.subplots()]
    seeds(left, measured.series["flat"], "values without slope, %")
    left.set_xlim(-3, 103)
    for axes in right:
        seeds(
            axes,
            {arm.replace(", ", "\n"): own for arm, own in measured.series["acc"].items()},
            "validation accuracy, %",
        )


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same shares on noise, and that of each function."""
    return measure_each(partial(slopes.network_shares, device=setup.device), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Has each many flat values by its ReLUs, and hardly any by its SiLUs?"""
    return judge_each(_judge_one, measured)


def _judge_one(measured: Measured) -> Judgement:
    rectifiers, smooth = measured.series["rectifiers"], measured.series["smooth"]
    if not rectifiers and not smooth:
        return Judgement(Verdict.OPEN, "It has neither ReLU nor SiLU.", (FLAT, DEAD))
    if all(flat > 25 for flat in rectifiers) and all(flat < 5 for flat in smooth):
        reason = "ReLUs leave many values without a gradient, SiLUs hardly any, where it has them."
        return Judgement(Verdict.HOLDS, reason, (FLAT, DEAD))
    return Judgement(Verdict.FAILS, "Its ReLUs leave few values without a gradient, or its SiLUs many.", (FLAT, DEAD))


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Both shares of each network."""
    network_bars(canvas.subplots(), measured, {FLAT: FLAT, DEAD: DEAD}, "share, %")
