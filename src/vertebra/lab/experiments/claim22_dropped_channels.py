"""Claim 22: accuracy without the channels of the lowest gates, against others, and what the projection reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vertebra.lab.charts import seeds
from vertebra.lab.dropped_channels import HIGHEST, LEAST, LOWEST, RANDOM, WHOLE, without_channels
from vertebra.lab.experiment import Claim, Expected, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit_all import Arm
from vertebra.lab.gated_network import GATED, LEAST_DATA, fit_gated, images_of
from vertebra.lab.seed_statistics import over_seeds, paired_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

RANK, UNREAD = "rank of the projections over their output channels", "channels that no projection reads"

CLAIM = Claim(
    family="EfficientNet",
    stated_by="article l.1276–1277",
    claim="The projection drops unimportant channels; what is not needed is ignored.",
    claim_ja="最後の1×1による射影で、重要度の低いチャンネルは捨てられる。",
    should_hold="Gates rescale channels, and the projection mixes all of them: its rank is the number of its output "
    "channels, it reads every channel, and without the quarter with the lowest gates accuracy falls, if less than "
    "without others.",
    source="a run; Hu et al. 2018 look at gates' values alone",
    rule="Of each image, the 25 % of the channels before each projection that have the lowest gates are set to 0, in "
    "all blocks. Holds if that costs less than 1 point of accuracy in every seed; if it does so in some seeds, or "
    "accuracy is below 50 % to begin with, it is not decided. Else it does not hold; in part if the same share with "
    "the lowest contributions (mean absolute value × norm of the weights that read it) costs less than 1 point in "
    "every seed.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="Accuracy without a quarter of the channels that each projection reads",
    caption="Channels of each image are set to 0 before the last 1×1 of all blocks of a network trained here. If what "
    "has low gates were not needed, the row of the lowest gates would be where that of none is. One dot a seed, bars "
    "are means.",
    seconds=16,
    seeds=5,
    is_quick=False,
    least_data=LEAST_DATA,
    expected={RANK: Expected(100, "counts"), UNREAD: Expected(0, "counts")},
)


def measure(setup: Setup, arm: Arm = GATED) -> Measured:
    """Train; then drop a quarter of the channels, chosen in four ways."""
    found: list[dict[str, Any]] = [curve.found for curve in fit_gated(setup, images_of(setup), without_channels, arm)]
    accuracy = {dropped: [own["accuracy"][dropped] for own in found] for dropped in found[0]["accuracy"]}
    figures = {f"accuracy: {dropped} dropped": over_seeds(own).figure("%") for dropped, own in accuracy.items()}
    costs = {dropped: paired_difference(accuracy[WHOLE], own) for dropped, own in accuracy.items() if dropped != WHOLE}
    figures |= {f"cost of {dropped}": cost.figure("points") for dropped, cost in costs.items()}
    for name, key in ((RANK, "rank"), (UNREAD, "unread")):
        figures[name] = over_seeds([own[key] for own in found]).figure("%")
    return Measured(figures, {"accuracy": accuracy, "costs": {name: list(cost.values) for name, cost in costs.items()}})


def judge(measured: Measured) -> Judgement:
    """What do the channels with the lowest gates cost, and those with the lowest contributions?"""
    costs = measured.series["costs"]
    decided_by = tuple(f"cost of {dropped}" for dropped in (LOWEST, RANDOM, HIGHEST, LEAST))
    if min(measured.series["accuracy"][WHOLE]) < 50:
        return Judgement(Verdict.OPEN, "The networks did not learn enough to tell.", decided_by)
    if max(costs[LOWEST]) < 1:
        return Judgement(Verdict.HOLDS, "The channels with the lowest gates are not needed.", decided_by)
    if min(costs[LOWEST]) < 1:
        return Judgement(Verdict.OPEN, "What the channels with the lowest gates cost differs by the seed.", decided_by)
    if max(costs[LEAST]) < 1:
        reason = "Some channels are not needed, but they are not those with the lowest gates."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    ranked = all(a < b < c for a, b, c in zip(costs[LOWEST], costs[RANDOM], costs[HIGHEST], strict=True))
    if ranked:
        reason = "Gates rank the channels, and those with the lowest are needed too."
    else:
        reason = "The channels with the lowest gates are needed, and gates do not even rank them."
    return Judgement(Verdict.FAILS, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Accuracy by which channels are dropped."""
    axes = canvas.subplots()
    seeds(axes, measured.series["accuracy"], "validation accuracy, %")
    axes.set_xlim(0, 102)
    axes.set_ylabel("channels that are dropped")
