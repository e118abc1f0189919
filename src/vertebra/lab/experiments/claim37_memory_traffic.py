"""Claim 37: convolutions, activations, MACs and parameters of MBConv and FusedMBConv, and what limits them where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vertebra.anatomy import Group
from vertebra.anatomy.roofline import Device
from vertebra.lab.charts import grouped_bars
from vertebra.lab.device_bounds import devices_by_flops_per_byte, memory_bound_share
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fused_stages import FIRST, StagePair, fused, separated, stage_counts
from vertebra.models import ConvNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="EfficientNetV2",
    stated_by="article l.1059, 1282–1283, 1288",
    claim="MBConv loads, computes and stores again and again and is I/O-bound; fused does it once, with more "
    "parameters.",
    claim_ja="MBConvは読み込み・計算・書き戻しを層ごとに繰り返すため、メモリの待ち時間が生じる。"
    "統合型はそれが1回で済む代わりに、パラメーターが増える。",
    should_hold="V2-S by stage, fused against MBConv: 8 convolutions against 20 (stage 2; two of each block's are "
    "squeeze-excitation's), 1/1.9 to 1/2.2 of the activation bytes, 3.8 to 6.5 times the MACs, 3.5 to 4.3 times the "
    "parameters. Once is twice: all but the first stage's blocks have two convolutions.",
    source="counts, roofline",
    rule="In each of V2-S's first three stages MBConv must have more convolutions, more activation bytes (read and "
    "written by convolutions) and fewer parameters; else it does not hold. Then it holds if more than half of these "
    "stages' predicted time with MBConv is bound by memory on every device, in part if on some or on none.",
    decided_by=(Kind.COUNT,),
    title="V2-S: what fusing costs and saves, and what limits MBConv",
    caption="Upper: fused over MBConv in the stages that V2-S fuses; below 1 it saves. Lower: share of their predicted "
    "time that is bound by memory; devices that compute little for each byte come first.",
    seconds=1,
    expected={
        "stage2: convolutions, MBConv": Expected(20, "counts"),
        "stage2: convolutions, fused": Expected(8, "counts"),
        "least saving of activation bytes": Expected(1.9, "counts", 0.03),
        "largest saving of activation bytes": Expected(2.2, "counts", 0.03),
        "least growth of MACs": Expected(3.8, "counts", 0.02),
        "largest growth of MACs": Expected(6.5, "counts", 0.02),
        "least growth of parameters": Expected(3.5, "counts", 0.02),
        "largest growth of parameters": Expected(4.3, "counts", 0.02),
        "parameters, first three MBConv": Expected(20.81, "counts", 0.001),
        "parameters, first three fused": Expected(21.46, "counts", 0.001),
        "MACs, first three MBConv": Expected(4.96, "counts", 0.001),
        "MACs, first three fused": Expected(8.37, "counts", 0.001),
    },
)
SIZE, BATCH = 384, 16
COSTS = ("activation bytes", "MACs", "parameters")


def measure(
    setup: Setup, networks: tuple[ConvNet, ConvNet] | None = None, known: Mapping[str, Device] | None = None
) -> Measured:
    """Count all six stages with either block; roofline of the first three.

    Args:
        setup: how.
        networks: with MBConv and with FusedMBConv, on the meta device; None: V2-S.
        known: the devices; None: those of devices.toml.
    """
    plain, integrated = (separated("efficientnet_v2_s"), fused("efficientnet_v2_s")) if networks is None else networks
    pair = StagePair.of(plain, integrated, SIZE, BATCH)
    figures: dict[str, Figure] = {}
    counts = {"MBConv": stage_counts(pair.separated), "fused": stage_counts(pair.fused)}
    ratios: dict[str, dict[str, float]] = {}
    for stage, before in counts["MBConv"].items():
        ratios[stage] = {cost: counts["fused"][stage][cost] / before[cost] for cost in COSTS}
        for kind, of_stage in counts.items():
            figures[f"{stage}: convolutions, {kind}"] = Figure(of_stage[stage]["convolutions"])
            figures[f"{stage}: memory traffic, {kind}"] = Figure(of_stage[stage]["bytes per MAC"], "bytes per MAC")
        figures |= {f"{stage}: {cost}, fused over MBConv": Figure(ratio, "×") for cost, ratio in ratios[stage].items()}
    for cost in COSTS:
        growth = sorted(found[cost] for found in ratios.values())
        what, ends = (f"growth of {cost}", growth) if growth[0] > 1 else (f"saving of {cost}", [1 / g for g in growth])
        figures |= {f"least {what}": Figure(min(ends), "×"), f"largest {what}": Figure(max(ends), "×")}
    first: dict[str, Group] = {group.name: group for group in pair.fused.stages if group.name in FIRST}
    for arm, stages in {"MBConv": {}, "fused": first}.items():
        groups = [stages.get(group.name, group) for group in pair.separated.stages]
        figures[f"parameters, first three {arm}"] = Figure(sum(g.parameters for g in groups) / 1e6, "M")
        figures[f"MACs, first three {arm}"] = Figure(sum(g.macs for g in groups) / BATCH / 1e9, "GMACs an image")
    bound: dict[str, list[float]] = {}
    for device in devices_by_flops_per_byte(known):
        bound[device.key] = [100 * memory_bound_share(a.latency(device), FIRST) for a in (pair.separated, pair.fused)]
        figures[f"{device.key}: bound by memory, MBConv"] = Figure(bound[device.key][0], "%")
        figures[f"{device.key}: bound by memory, fused"] = Figure(bound[device.key][1], "%")
    return Measured(figures, {"ratios": {stage: ratios[stage] for stage in FIRST}, "bound": bound})


def judge(measured: Measured) -> Judgement:
    """More trips and fewer parameters in each stage, and bound by memory where?"""
    stages, bound = measured.series["ratios"], measured.series["bound"]
    more = [measured.value(f"{s}: convolutions, MBConv") > measured.value(f"{s}: convolutions, fused") for s in stages]
    saves = [found["activation bytes"] < 1 < found["parameters"] for found in stages.values()]
    by_share = sorted(bound, key=lambda key: bound[key][0])  # the two ends first, which tell whether devices agree
    decided_by = tuple(f"{key}: bound by memory, MBConv" for key in (by_share[0], *by_share[:0:-1]))
    decided_by += tuple(f"{stage}: activation bytes, fused over MBConv" for stage in stages)
    if not all(more) or not all(saves):
        reason = "MBConv does not have more convolutions and activation bytes and fewer parameters in each stage."
        return Judgement(Verdict.FAILS, reason, decided_by)
    where = [share > 50 for share, _ in bound.values()]
    reason = "MBConv has more convolutions and activation bytes, and fewer parameters"
    if all(where):
        return Judgement(Verdict.HOLDS, f"{reason}; on every device it is bound by memory.", decided_by)
    if any(where):
        reason += "; it is bound by memory on some devices, and by compute on others."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    return Judgement(Verdict.IN_PART, f"{reason}, but on no device is it bound by memory.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Ratios of costs by stage, and what limits either block on each device."""
    stages, bound = measured.series["ratios"], measured.series["bound"]
    upper, lower = canvas.subplots(2, height_ratios=[1, 1.5])
    ratios = {cost: [found[cost] for found in stages.values()] for cost in COSTS}
    grouped_bars(upper, list(stages), ratios, "fused over MBConv, ×", fontsize=7)
    shares = {kind: [both[i] for both in bound.values()] for i, kind in enumerate(("MBConv", "fused"))}
    grouped_bars(lower, list(bound), shares, "bound by memory, % of the predicted time", fontsize=7)
