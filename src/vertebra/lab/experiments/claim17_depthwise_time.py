"""Claim 17: a depthwise convolution costs very little: its share of the MACs against its share of the time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from vertebra import intervals
from vertebra.anatomy import devices, inspect
from vertebra.errors import UsageError
from vertebra.lab.charts import stacked_bars
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.small_networks import seeded
from vertebra.lab.time_shares import DEPTHWISE, ELEMENTWISE, PARTS, mac_shares, measured_shares, predicted_shares
from vertebra.lab.user_networks import image_shape
from vertebra.models import mobilenet_v2

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="MobileNetV2",
    stated_by="article l.1278",
    claim="Computing in space only, a depthwise convolution costs very little.",
    claim_ja="深さ方向畳み込みは空間方向しか計算しないので、そのコストはごくわずかである。",
    should_hold="6.9 % of MobileNetV2's MACs, but a larger share of the time, as it is bound by memory.",
    source="counts of torchvision 0.29; lower bounds from anatomy/devices.toml",
    rule="Very little is under a tenth. Holds if the depthwise convolutions have under a tenth of the MACs and, by the "
    "whole 95 % interval, of the time in each executor measured; in part if of the MACs, but over a tenth of a time by "
    "the whole interval; does not hold if over a tenth of the MACs; else it is not decided.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="MobileNetV2: MACs and time by kind of operation",
    caption="From above: MACs; where it was timed, time measured here and predicted; lower bounds on other devices. "
    "Where one kernel does a convolution and what follows it, its time is the convolution's.",
    networks_title="MACs and measured time by kind of operation",
    networks_caption="For each network its MACs, and its time on this machine. Where one kernel does a convolution and "
    "what follows it, its time is the convolution's.",
    seconds=22,
    expected={
        "MACs": Expected(300_774_272, "counts"),
        "MACs of depthwise convolutions": Expected(20_716_416, "counts"),
        "share of the MACs": Expected(6.9, "counts", 0.005),
    },
)
ROUNDS, SECONDS = 6, 0.6
_LIMIT = 10  # %


def measure(setup: Setup, network: nn.Module | None = None) -> Measured:
    """Count and predict at 224 × 224; unless quick, calibrate this machine for ONNX Runtime and measure."""
    network = seeded(mobilenet_v2, 0) if network is None else network
    measured = _measured(setup, "MobileNetV2", network)
    anatomy = inspect(network, image_shape(network))
    predicted = {f"bound on {key}": predicted_shares(anatomy.latency(key)) for key in devices()}
    if not setup.quick and setup.device == "cpu":
        setup.progress("calibrating this machine")
        predicted = {"predicted, onnxruntime": predicted_shares(anatomy.latency("here"))} | predicted
    figures = {f"share of the time, {name}": Figure(shares[DEPTHWISE], "%") for name, shares in predicted.items()}
    return Measured({**measured.figures, **figures}, {"shares": measured.series["shares"] | predicted})


def _measured(setup: Setup, name: str, network: nn.Module) -> Measured:
    anatomy = inspect(network, image_shape(network))
    shares = {"MACs": mac_shares(anatomy.rows)}
    if not shares["MACs"][DEPTHWISE]:
        raise UsageError(
            f"{name} has no depthwise convolution, so it has no share of the time. To see which operations "
            "take the time: vertebra inspect NETWORK --measure"
        )
    figures = {
        "share of the MACs": Figure(shares["MACs"][DEPTHWISE], "%"),
        "MACs": Figure(anatomy.macs),
        "MACs of depthwise convolutions": Figure(round(anatomy.macs * shares["MACs"][DEPTHWISE] / 100)),
    }
    for executor, runs in ({} if setup.quick else measured_shares(network, setup, ROUNDS, SECONDS)).items():
        own = {part: [run[part] for run in runs] for part in PARTS}
        shares[f"measured, {executor}"] = {part: statistics.median(values) for part, values in own.items()}
        for what, part in (("", DEPTHWISE), (f" of {ELEMENTWISE}", ELEMENTWISE)):
            figure = Figure(statistics.median(own[part]), "%", len(runs), intervals.median(own[part]))
            figures[f"share of the time{what}, measured, {executor}"] = figure
    return Measured(figures, {"shares": shares})


def judge(measured: Measured) -> Judgement:
    """Under a tenth of the MACs, and of each measured time?"""
    times = [name for name in measured.figures if name.startswith("share of the time, measured")]
    decided_by = ("share of the MACs", *times)
    if measured.value("share of the MACs") >= _LIMIT:
        return Judgement(Verdict.FAILS, "Depthwise convolutions have more than a tenth of the MACs.", decided_by)
    if not times:
        return Judgement(Verdict.OPEN, "They have few of the MACs; the time was not measured.", decided_by)
    bounds = [measured.figures[name].interval or (0.0, 100.0) for name in times]
    if all(high < _LIMIT for _, high in bounds):
        return Judgement(Verdict.HOLDS, "They have less than a tenth of the MACs and of the time.", decided_by)
    if any(low > _LIMIT for low, _ in bounds):
        return Judgement(Verdict.IN_PART, "They have few of the MACs, but more of the time.", decided_by)
    return Judgement(Verdict.OPEN, "They have few of the MACs; the measured times are too uncertain.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """One row for the MACs and for each time."""
    shares = measured.series["shares"]
    parts = {part: [own[part] for own in shares.values()] for part in PARTS}
    stacked_bars(canvas.subplots(), list(shares), parts, "share, %")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """MACs and measured time of each."""
    return measure_each(partial(_measured, setup), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """The same rule for each."""
    return judge_each(judge, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """The same rows for each."""
    networks = measured.series["networks"].items()
    rows = {f"{name}, {what}": own for name, series in networks for what, own in series["shares"].items()}
    draw(Measured({}, {"shares": rows}), canvas)
