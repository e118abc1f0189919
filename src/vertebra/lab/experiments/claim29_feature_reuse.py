"""Claim 29: whether each output of a DenseNet feeds all later layers, is kept apart, and is reused."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from vertebra.lab.charts import bars
from vertebra.lab.dense_reuse import (
    draw_lost,
    draw_weights,
    kept_maps,
    layer_connections,
    least_on_input,
    mean_lost,
    measure_reuse,
)
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import Arm, fit_all
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import seeded, small_densenet
from vertebra.models import densenet121
from vertebra.models.layers import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

PROTOCOL, SMALL = Protocol(epochs=8), partial(small_densenet, (4, 4, 4), 8)
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.529, 606–611, 735–738",
    claim="Every output feeds all later layers, is kept apart and can be reused in any way.",
    claim_ja="各層の出力は後続のすべての層に渡され、混ざらずに保たれるので、どのような形でも再利用できる。",
    should_hold="A block's output begins with its input, bit for bit. Only within blocks is each layer connected to "
    "all later ones: 535 of 1,711 pairs in DenseNet-121. Layers behind a transition give its output the least weight.",
    source="DenseNet 2017 §3, Fig. 5",
    rule="Kept apart: all inputs of DenseNet-121's blocks and outputs of their layers are in the block's output, bit "
    "for bit. All later layers: every layer has weights for the outputs of all before it in the network. Reused: in a "
    "small DenseNet trained on digits, zeros for the output of one layer in all that read it but the next cost "
    "validation accuracy, on average over layers (95 % interval over seeds above 0). Holds if all three are so, does "
    "not hold if none, in part otherwise.",
    decided_by=(Kind.COUNT, Kind.TRAINING),
    title="What a trained DenseNet reads, and what it loses",
    caption="Left: the longer a bar, the more the network needs that map; the lower bar of a pair is what layers "
    "behind the next one need of it. Right: mean absolute weight of each row by source, relative to its largest. A "
    "quick run shows the connections alone.",
    seconds=14,
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
LATER = "accuracy lost without a layer's output, but in the next layer"
LOST = {  # figure → what was found, of layers or of blocks' inputs
    LATER: ("lost_later", "layer"),
    "accuracy lost without a layer's output": ("lost", "layer"),
    "accuracy lost without a block's input, but in the next layer": ("lost_later", "input"),
    "accuracy lost without a block's input": ("lost", "input"),
}


def measure(setup: Setup, network: Layer = densenet121, small: Arm = SMALL) -> Measured:
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
    for name, (key, kind) in LOST.items():
        figures[name] = over_seeds([mean_lost(one[key], kind) for one in found]).figure("points")
    figures["validation accuracy"] = over_seeds([one["accuracy"] for one in found]).figure("%")
    least = over_seeds([least_on_input(one["weights"]) for one in found])
    figures["layers behind a transition with the least weight on it"] = least.figure("%")
    return Measured(figures, {"seeds": found})


def judge(measured: Measured) -> Judgement:
    """Kept apart, connected to all, reused?"""
    kept = 0 < measured.value(KEPT) == measured.value(MAPS)
    connected = measured.value(CONNECTED) == measured.value(POSSIBLE)
    parts, reasons = [kept, connected], ["Outputs are kept apart." if kept else "Outputs are not kept apart."]
    reasons.append("They feed all later layers." if connected else "They feed the later layers of their block alone.")
    if (lost := measured.figures.get(LATER)) is None:
        reasons.append("Whether they are reused was not measured.")
    else:
        parts.append(lost.interval is not None and lost.interval[0] > 0)
        reasons.append("Later layers need them." if parts[-1] else "Later layers are not shown to need them.")
    verdict = Verdict.HOLDS if all(parts) else Verdict.IN_PART if any(parts) else Verdict.FAILS
    return Judgement(verdict, " ".join(reasons), (CONNECTED, POSSIBLE, KEPT, *([LATER] if lost else [])))


def draw(measured: Measured, canvas: Canvas) -> None:
    """Accuracy lost by source, and weights by reader and source; without training the counts."""
    if seeds := measured.series.get("seeds"):
        left, right = canvas.subplots(1, 2)
        draw_lost(left, seeds)
        draw_weights(right, seeds)
    else:
        shown = {name: measured.value(name) for name in (CONNECTED, POSSIBLE)}
        bars(canvas.subplots(), shown, "pairs of a map and a later layer, DenseNet-121")
