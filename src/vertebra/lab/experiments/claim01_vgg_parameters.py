"""Claim 1: where VGG-16 keeps its parameters, and where its arithmetic and its activations are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.lab.charts import grouped_bars
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="VGG",
    stated_by="article l.7",
    claim="The 4096-wide fully connected layers take much of the memory.",
    claim_ja="VGGのメモリの多くは、幅4096の全結合層が占めている。",
    should_hold="89.4 % of VGG-16's parameters, but 0.8 % of its MACs and less than 0.1 % of its activations.",
    source="counts of torchvision 0.29",
    rule="Holds if the fully connected layers have more than half of the parameters and of the activations; in part if "
    "of one of them; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="VGG-16: parameters, MACs and activations by part",
    caption="Nearly all parameters are in the three fully connected layers, nearly all arithmetic and activations in "
    "the convolutions.",
    seconds=1,
    expected={
        "share of the parameters": Expected(89.4, "counts", 0.001),
        "share of the MACs": Expected(0.8, "counts", 0.05),
        "parameters in fully connected layers": Expected(123_642_856, "counts"),
        "MACs in fully connected layers": Expected(123_633_664, "counts"),
        "activations of fully connected layers": Expected(9_192, "counts"),
    },
)


def measure(setup: Setup, network: str | nn.Module = "vgg16") -> Measured:
    """Count at 224 × 224; the part of a row is what ran it, a linear layer or another."""
    rows = inspect(network, 224).layers
    parts: dict[str, Callable[[str], bool]] = {
        "convolutions and pooling": lambda op: op != "linear",
        "fully connected layers": lambda op: op == "linear",
    }
    # Of a linear layer its output, of a convolution too: ReLU works in place, and a view holds nothing of its own.
    sums = {
        part: {
            "parameters": sum(row.parameters for row in rows if belongs(row.op)),
            "MACs": sum(row.macs for row in rows if belongs(row.op)),
            "activations": sum(row.write_bytes // 4 for row in rows if belongs(row.op) and row.macs),
        }
        for part, belongs in parts.items()
    }
    dense = sums["fully connected layers"]
    whole = {name: sum(part[name] for part in sums.values()) for name in dense}
    figures = {f"share of the {name}": Figure(100 * dense[name] / whole[name], "%") for name in dense}
    figures |= {
        f"{name} {'of' if name == 'activations' else 'in'} fully connected layers": Figure(dense[name])
        for name in dense
    }
    return Measured(
        figures, {"parts": {part: {k: 100 * v / whole[k] for k, v in s.items()} for part, s in sums.items()}}
    )


def judge(measured: Measured) -> Judgement:
    """More than half of the parameters, and of the activations?"""
    decided_by = ("share of the parameters", "share of the activations", "share of the MACs")
    most = [measured.value(name) > 50 for name in decided_by[:2]]
    if all(most):
        return Judgement(Verdict.HOLDS, "Most of the parameters and of the activations are there.", decided_by)
    if most[0]:
        return Judgement(Verdict.IN_PART, "Most of the parameters are there, few of the activations.", decided_by)
    if most[1]:
        return Judgement(Verdict.IN_PART, "Most of the activations are there, few of the parameters.", decided_by)
    return Judgement(Verdict.FAILS, "Neither most of the parameters nor most of the activations are there.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Shares of the two parts, for each of the three costs."""
    parts = measured.series["parts"]
    costs = list(next(iter(parts.values())))
    grouped_bars(
        canvas.subplots(), costs, {part: list(s.values()) for part, s in parts.items()}, "share of the network, %"
    )
