"""Claim 4b: how much of the way from 138 M parameters to 7 M is the head's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.introspect import add_fully_connected_layers, pool_globally
from vertebra.lab.charts import network_bars, stacked_bars
from vertebra.lab.classifier_head import head_of
from vertebra.lab.cost_shares import NOT_RUN, costs, parameters_not_run, running
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import inspect_own
from vertebra.models import googlenet, vgg16
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="GoogLeNet",
    stated_by="article l.109–110",
    claim="Dropping the huge fully connected layers for global average pooling takes 138 M parameters to 7 M.",
    claim_ja="巨大な全結合層をやめて大域平均プーリングに替えた結果、パラメーター数は1億3800万から700万になった。",
    should_hold="138.4 M (VGG-16) become 15.2 M with a pooled head; 6.6 M (GoogLeNet) would be 232.0 M with VGG's.",
    source="counts",
    rule="Holds if GoogLeNet has 6 to 8 M parameters and VGG-16 137 to 139 M, and pooling VGG-16's head alone saves "
    "more than half of the difference and of its logarithm; in part if one of the two holds; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="VGG-16 and GoogLeNet, each with either head",
    caption="From the first bar to the second the head alone changes, from the second to the last the convolutions "
    "alone: the longer way is what takes the parameters away.",
    networks_title="Parameters with the network's own head and with a pooled one",
    networks_caption="Where the lower bar is shorter, pooling and one linear layer would save parameters.",
    seconds=1,
    expected={
        "VGG-16": Expected(138_357_544, "counts"),
        "convolutions of VGG-16": Expected(14_714_688, "counts"),
        "VGG-16 with a pooled head": Expected(15_227_688, "counts"),
        "GoogLeNet": Expected(6_624_904, "counts"),
        "GoogLeNet with auxiliary heads": Expected(13_004_888, "counts"),
        "GoogLeNet with VGG's head": Expected(232_003_208, "counts"),
    },
)
SAVED = "saved by a pooled head"
SHARES = ("the head's share of the difference", "the head's share of the logarithm")


def measure(setup: Setup, plain: Layer = vgg16, parallel: Layer = googlenet) -> Measured:
    """Count parameters; GoogLeNet without the heads that run in training alone."""
    with meta_build():
        networks: dict[str, nn.Module] = {
            "VGG-16": plain(),
            "VGG-16 with a pooled head": pool_globally(plain()),
            "GoogLeNet with VGG's head": add_fully_connected_layers(parallel(aux_logits=False)),
            "GoogLeNet": parallel(aux_logits=False),
            "GoogLeNet with auxiliary heads": parallel(),
        }
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    heads = {name: head_of(name, inspect(network, 224).rows).parameters for name, network in networks.items()}
    whole, pooled, goal = (counts[name] for name in ("VGG-16", "VGG-16 with a pooled head", "GoogLeNet"))
    way, decades = (whole - goal, math.log(whole / goal)) if whole > goal else (math.inf, math.inf)
    figures = {n: Figure(count) for n, count in (counts | {"convolutions of VGG-16": whole - heads["VGG-16"]}).items()}
    shares = ((whole - pooled) / way, math.log(whole / pooled) / decades)
    figures |= {name: Figure(100 * share, "%") for name, share in zip(SHARES, shares, strict=True)}
    shown = list(counts)[:4]
    parts = {"convolutions": [counts[name] - heads[name] for name in shown]}
    parts["fully connected layers"] = [heads[name] for name in shown]
    return Measured(figures, {"networks": shown, "parts": parts})


def judge(measured: Measured) -> Judgement:
    """Are the two totals right, and is most of the way between them the head's?"""
    decided_by = ("VGG-16", "GoogLeNet", "VGG-16 with a pooled head", *SHARES)
    is_right = 137e6 < measured.value("VGG-16") < 139e6 and 6e6 < measured.value("GoogLeNet") < 8e6
    is_head = all(measured.value(name) > 50 for name in SHARES)
    reasons = {
        (True, True): "The counts are right, and most of the way is the head's; the rest is the convolutions'.",
        (True, False): "The counts are right, but the head saves the smaller part.",
        (False, True): "The head saves most, but the counts are others.",
        (False, False): "The counts are others, and the head saves the smaller part.",
    }
    verdict = (Verdict.FAILS, Verdict.IN_PART, Verdict.HOLDS)[is_right + is_head]
    return Judgement(verdict, reasons[is_right, is_head], decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Each trunk with each head, in two parts."""
    parts = {part: [count / 1e6 for count in counts] for part, counts in measured.series["parts"].items()}
    names = [f"{name}: {measured.value(name) / 1e6:.1f} M" for name in measured.series["networks"]]
    stacked_bars(canvas.subplots(), names, parts, "parameters, millions")


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count each network as it is and with one linear layer on its pooled channels."""
    return measure_each(_count, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Would it save more than half?"""
    return judge_each(_judge_count, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Each network as it is and with a pooled head."""
    kinds = {"as it is": "parameters", "with a pooled head": "parameters with a pooled head"}
    network_bars(canvas.subplots(), measured, kinds, "parameters, millions", 1e6)


def _count(name: str, network: nn.Module) -> Measured:
    rows = inspect_own(network).rows
    head, total = head_of(name, rows), costs(running(rows))["parameters"]
    pooled = total - head.parameters + head.pooled_parameters
    figures = {"parameters": Figure(total), "parameters in the head": Figure(head.parameters)}
    figures[NOT_RUN] = parameters_not_run(rows)
    saved = Figure(100 * (total - pooled) / total, "%")
    return Measured(figures | {"parameters with a pooled head": Figure(pooled), SAVED: saved})


def _judge_count(measured: Measured) -> Judgement:
    if measured.value(SAVED) > 50:
        return Judgement(Verdict.HOLDS, "A pooled head would save more than half of the parameters.", (SAVED,))
    return Judgement(Verdict.FAILS, "A pooled head would save at most half of the parameters.", (SAVED,))
