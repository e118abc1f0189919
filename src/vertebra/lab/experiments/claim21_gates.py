"""Claim 21: whether trained gates differ by channel and depend on the image, and what accuracy owes to that."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.lab.charts import network_bars, seeds
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit_all import Arm
from vertebra.lab.gate_effects import OTHER, SPREADS, effect_figures, gate_effects, network_spreads, untrained_spreads
from vertebra.lab.gated_network import GATED, LEAST_DATA, fit_gated, images_of
from vertebra.lab.seed_statistics import over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FOLLOW = "gates that another channel changes"
LEAST = 0.01  # spread that counts

CLAIM = Claim(
    family="EfficientNet",
    stated_by="article l.1020, 1275",
    claim="Squeeze-excitation learns, over all channels, how much each counts.",
    claim_ja="SEは全チャンネルの情報をもとに、どのチャンネルをどれだけ重視するかを学習する。",
    should_hold="Gates differ from channel to channel and from image to image, as random ones do too; they follow the "
    "class more after training than before. Each is computed from all channels.",
    source="Hu et al. 2018",
    rule="In every seed, of the mean over layers: the standard deviation of the gates over channels is at least 0.01; "
    "that over images is so too, and that over classes larger than over shuffled labels; that over classes is larger "
    "than before training. On average over seeds another value of one channel changes 90 % of the other gates. All "
    "four: holds; neither of the first two: does not hold; else in part. Accuracy with other gates does not decide.",
    decided_by=(Kind.TRAINING,),
    title="How trained gates differ, and accuracy with other gates",
    caption="Above: standard deviation of the gates, mean of the layers; shuffled classes show what chance makes, "
    "untrained rows what random weights do. Below: accuracy with gates replaced. One dot a seed, bars are means.",
    seconds=16,
    seeds=5,
    is_quick=False,
    least_data=LEAST_DATA,
    expected={"ImageNet top-1 error of ResNet-50, without less with": Expected(1.51, "Hu et al. 2018: 24.80, 23.29 %")},
    networks_title="How gates differ from channel to channel and from image to image",
    networks_caption="Mean of all layers, on noise or on the photos of --data; untrained unless the file holds "
    "weights. Random gates lie near 0.5 and mean nothing.",
)


def measure(setup: Setup, arm: Arm = GATED) -> Measured:
    """Train; then record the gates on validation images, and replace them."""
    images = images_of(setup)
    before = [untrained_spreads(arm, images(seed)) for seed in range(setup.seeds)]
    found: list[dict[str, Any]] = [curve.found for curve in fit_gated(setup, images, gate_effects, arm)]
    spreads = {over: [fmean(own["spreads"][over]) for own in found] for over in SPREADS}
    spreads |= {f"{over}, untrained": [fmean(own[over]) for own in before] for over in SPREADS[:3]}
    accuracy = {gates: [own["accuracy"][gates] for own in found] for gates in found[0]["accuracy"]}
    figures = effect_figures(spreads, accuracy) | {FOLLOW: over_seeds([own["follow"] for own in found]).figure("%")}
    return Measured(figures, {"spreads": spreads, "accuracy": accuracy})


def judge(measured: Measured) -> Judgement:
    """Do the gates weigh channels, by the image, over all channels?"""
    spreads = measured.series["spreads"]
    pairs = zip(spreads["classes"], spreads["shuffled classes"], spreads["classes, untrained"], strict=True)
    above = [(own > chance, own > before) for own, chance, before in pairs]
    by_channel = min(spreads["channels"]) >= LEAST
    by_image = min(spreads["images"]) >= LEAST and all(is_above for is_above, _ in above)
    verdict = Verdict.IN_PART if by_channel or by_image else Verdict.FAILS
    if not by_channel:
        reason = "The gates depend on the image, but not on the channel."
        reason = reason if by_image else "The gates depend neither on the channel nor on what the image shows."
    elif not by_image:
        reason = "The gates differ by channel, whatever the image shows."
    elif not all(is_above for _, is_above in above):
        reason = "The gates differ by channel and image, but follow the class no more than before training."
    elif measured.value(FOLLOW) < 90:
        reason = "The gates differ by channel and image, but each is not computed from all channels."
    else:
        verdict = Verdict.HOLDS
        reason = (
            "The gates differ by channel and image, and learn to follow the class; what accuracy owes to it is open."
        )
        if (measured.figures[f"cost of {OTHER}"].interval or (0, 0))[0] > 0:
            reason = "The gates differ by channel and image, and learn to follow the class; with others accuracy falls."
    decided_by = [f"spread over {over}" for over in ("channels", "images", "classes", "classes, untrained")]
    return Judgement(verdict, reason, (*decided_by, f"cost of {OTHER}", FOLLOW))


def draw(measured: Measured, canvas: Canvas) -> None:
    """Spreads, and accuracy by what the gates are replaced with."""
    left, right = canvas.subplots(2, height_ratios=(7, 4))
    seeds(left, measured.series["spreads"], "standard deviation of gates (0 to 1)")
    left.set_xlim(left=0)
    seeds(right, measured.series["accuracy"], "validation accuracy, %")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same spreads of the user's networks, on noise or photos."""
    return measure_each(partial(network_spreads, setup=setup), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Do its gates differ by channel, and by image?"""
    return judge_each(_judge_one, measured)


def _judge_one(measured: Measured) -> Judgement:
    names = ("spread over channels", "spread over images")
    by_channel, by_image = (measured.value(name) >= LEAST for name in names)
    reason = "Its gates differ by channel and depend on the image."
    if not by_image:
        reason = "Its gates differ by channel, and hardly depend on the image."
    if not by_channel:
        reason = "Its gates hardly differ by channel."
    return Judgement((Verdict.FAILS, Verdict.IN_PART, Verdict.HOLDS)[by_channel + by_image], reason, names)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Both spreads of each network."""
    kinds = {f"over {over}": f"spread over {over}" for over in ("channels", "images")}
    network_bars(canvas.subplots(), measured, kinds, "standard deviation of gates (0 to 1)")
