"""Claim 25: in which order EfficientNetV2 uses MBConv and FusedMBConv, and whether it uses one of them or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.lab.charts import BLUE, ORANGE
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.models import get_model
from vertebra.models.mbconv import FusedMBConv, MBConv
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="EfficientNetV2",
    stated_by="article l.1284–1286, 1288–1290",
    claim="MBConv finds what matters, FusedMBConv then computes it at once; one has to pick one of the two.",
    claim_ja="MBConvが重要な特徴を見つけ、FusedMBConvがそれをまとめて計算する。どちらを使うかは二つに一つである。",
    should_hold="V2-S has 10 fused blocks and then 30 MBConv, M 13 and 44, L 18 and 61; no fused block follows an "
    "MBConv. The article's last line (l.1291) says so too.",
    source="torchvision's source; EfficientNetV2, Table 4",
    rule="The order is contradicted where a fused block has no MBConv before it in a network that has both, the choice "
    "of one of the two where a network has both. Holds if neither is contradicted, in part if one is, and does not "
    "hold if both are.",
    decided_by=(Kind.COUNT,),
    title="EfficientNetV2: the kind of each block, from input to output",
    caption="One square a block, numbered from the input. Where the fused blocks are on the left, nothing was found by "
    "an MBConv before them.",
    seconds=1,
    expected={
        f"{name}: {what}": Expected(value, "torchvision's source")
        for name, fused, separated in (("V2-S", 10, 30), ("V2-M", 13, 44), ("V2-L", 18, 61))
        for what, value in (
            ("fused blocks", fused),
            ("MBConv blocks", separated),
            ("fused blocks behind an MBConv", 0),
        )
    },
)


def measure(setup: Setup, networks: Mapping[str, nn.Module] | None = None) -> Measured:
    """The kinds of the blocks in the order in which they run."""
    if networks is None:
        with meta_build():
            networks = {f"V2-{size}": get_model(f"efficientnet_v2_{size.lower()}") for size in "SML"}
    figures: dict[str, Figure] = {}
    orders: dict[str, list[bool]] = {}  # whether each block is fused
    for name, network in networks.items():
        is_fused = [isinstance(m, FusedMBConv) for m in network.modules() if isinstance(m, (FusedMBConv, MBConv))]
        first = is_fused.index(False) if False in is_fused else len(is_fused)
        figures[f"{name}: fused blocks"] = Figure(sum(is_fused))
        figures[f"{name}: MBConv blocks"] = Figure(len(is_fused) - sum(is_fused))
        figures[f"{name}: fused blocks behind an MBConv"] = Figure(sum(is_fused[first:]))
        orders[name] = is_fused
    return Measured(figures, {"is fused": orders})


def judge(measured: Measured) -> Judgement:
    """Does a fused block come first, and does a network have both?"""
    counts = [
        tuple(measured.value(f"{name}: {what}") for what in ("fused blocks", "MBConv blocks"))
        for name in measured.series["is fused"]
    ]
    behind = [f"{name}: fused blocks behind an MBConv" for name in measured.series["is fused"]]
    has_both = [fused > 0 and separated > 0 for fused, separated in counts]
    is_first = [
        both and measured.value(name) < fused for both, name, (fused, _) in zip(has_both, behind, counts, strict=True)
    ]
    decided_by = (*behind, *(f"{name}: fused blocks" for name in measured.series["is fused"]))
    if any(is_first):
        reason = "The networks have both kinds, and fused blocks come before the first MBConv."
        return Judgement(Verdict.FAILS, reason, decided_by)
    if any(has_both):
        return Judgement(Verdict.IN_PART, "MBConv comes before the fused blocks, but one network has both.", decided_by)
    return Judgement(Verdict.HOLDS, "Each network has one kind alone, so nothing contradicts the order.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """One row of squares a network, coloured by kind."""
    orders = measured.series["is fused"]
    axes = canvas.subplots()
    for kind, color, label in ((True, ORANGE, "FusedMBConv"), (False, BLUE, "MBConv")):
        places = [(i + 1, row) for row, order in enumerate(orders.values()) for i, f in enumerate(order) if f == kind]
        axes.scatter([x for x, _ in places], [y for _, y in places], 14, color, marker="s", label=label)
    for row, order in enumerate(orders.values()):
        text = f"{sum(order)} fused, {len(order) - sum(order)} MBConv"
        axes.text(1, row - 0.22, text, fontsize=9, color="0.3")
    axes.set_yticks(range(len(orders)), list(orders))
    axes.set_ylim(len(orders) - 0.5, -0.6)
    axes.set_xlabel("number of the block, from the input")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2)
