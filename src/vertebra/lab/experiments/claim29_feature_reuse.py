"""Claim 29: whether each output of a DenseNet feeds all later layers, is kept apart, and is reused."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING

import torch

from vertebra.lab.charts import BLUE, ORANGE
from vertebra.lab.dense_reuse import kept_maps, layer_connections, least_on_input, measure_reuse
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import fit_all
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import seeded, small_densenet
from vertebra.models import densenet121
from vertebra.models.layers import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

PROTOCOL = Protocol(epochs=8)
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.529, 606–611, 735–738",
    claim="Every output feeds all later layers, is kept apart and can be reused in any way.",
    claim_ja="各層の出力は後続のすべての層に渡され、混ざらずに保たれるので、どのような形でも再利用できる。",
    should_hold="A block's output begins with its input, bit for bit; only within blocks is each layer connected to all "
    "later ones: 535 of 1,711 connections in DenseNet-121. Behind a transition its output gets the least weight.",
    source="DenseNet 2017 §3, Fig. 5",
    rule="Three parts. Kept apart: all inputs of DenseNet-121's blocks and outputs of their layers are in the block's "
    "output, bit for bit. All later layers: every layer has weights for the outputs of all before it in the network. "
    "Reused: in a small DenseNet trained on digits, zeros in place of one source in all that read it but the next "
    "layer cost validation accuracy, on average over sources (95 % interval over seeds above 0). Holds if all three "
    "are so, does not hold if none, in part otherwise.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="What a trained DenseNet reads, and what it loses",
    caption="Left: bars to the right mean that what reads a map needs it; below, that even without the next layer. "
    "Right: mean absolute weight of each layer by source, relative to the layer's largest; dark columns are read most.",
    seconds=40,
    seeds=3,
    expected={
        "first channels equal to the block's input": Expected(64, "counts"),
        "connections": Expected(535, "counts"),
        "connections if all were connected": Expected(1711, "counts"),
        "layers behind a transition with the least weight on it": Expected(100, "DenseNet 2017 §5, on CIFAR-10", 0.1),
    },
)
KEPT, MAPS = "maps unchanged in the block's output", "maps that blocks put together"
CONNECTED, POSSIBLE = "connections", "connections if all were connected"
LATER = "accuracy lost, zeroed for all but the next layer"


def measure(setup: Setup, network: Layer = densenet121, small: Layer = partial(small_densenet, (4, 4, 4), 8)) -> Measured:
    """Look at an untrained DenseNet-121, then train small ones and leave sources out."""
    whole = seeded(network, 0)
    kept = kept_maps(whole.eval(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    connected, possible = layer_connections(whole)
    figures = {
        KEPT: Figure(kept.unchanged),
        MAPS: Figure(kept.maps),
        "first channels equal to the block's input": Figure(kept.first_channels),
        CONNECTED: Figure(connected),
        POSSIBLE: Figure(possible),
    }
    if setup.quick:
        return Measured(figures)
    curves = fit_all(
        {"small": small}, range(setup.seeds), digits().split, PROTOCOL, measure=measure_reuse, device=setup.device,
        progress=setup.progress,
    )  # fmt: skip
    found = [curve.found for curve in curves["small"]]
    for name, key in {"accuracy lost, zeroed for all layers": "lost", LATER: "lost_later"}.items():
        figures[name] = over_seeds([statistics.fmean(one[key].values()) for one in found]).figure("points")
    figures["validation accuracy"] = over_seeds([one["accuracy"] for one in found]).figure("%")
    least = over_seeds([least_on_input(one["weights"]) for one in found])
    figures["layers behind a transition with the least weight on it"] = least.figure("%")
    return Measured(figures, {"seeds": found})


def judge(measured: Measured) -> Judgement:
    """Kept apart, connected to all, reused?"""
    kept = 0 < measured.value(KEPT) == measured.value(MAPS)
    connected = measured.value(CONNECTED) == measured.value(POSSIBLE)
    lost = measured.figures.get(LATER)
    reused = lost is not None and lost.interval is not None and lost.interval[0] > 0
    decided_by = (CONNECTED, POSSIBLE, KEPT, *([LATER] if lost else []))
    if lost is None:
        if kept and connected:
            reason = "Outputs are kept apart and feed all later layers; whether they are reused was not measured."
            return Judgement(Verdict.HOLDS, reason, decided_by)
        if kept:
            reason = "Outputs are kept apart, but only within a block; whether they are reused was not measured."
            return Judgement(Verdict.IN_PART, reason, decided_by)
        verdict = Verdict.IN_PART if connected else Verdict.FAILS
        return Judgement(verdict, "Outputs are not kept apart; whether they are reused was not measured.", decided_by)
    if kept and connected and reused:
        return Judgement(Verdict.HOLDS, "Outputs are kept apart, feed all later layers and are reused.", decided_by)
    if not (kept or connected or reused):
        return Judgement(Verdict.FAILS, "Outputs are neither kept apart nor shown to be reused.", decided_by)
    if kept and reused:
        reason = "Outputs are kept apart and reused, but only within a block."
    elif kept:
        reason = "Outputs are kept apart, but not shown to be reused."
    else:
        reason = "Outputs are not kept apart."
    return Judgement(Verdict.IN_PART, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Accuracy lost by source, and weights by reader and source."""
