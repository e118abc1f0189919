"""Claim 15: memory traffic and time per MAC of DenseNet and ResNet, and what limits them, or any network, where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.anatomy.roofline import Device
from vertebra.lab.bandwidth_costs import BATCH, bandwidth_costs, count_network, draw_bounds, times_per_mac
from vertebra.lab.charts import bars
from vertebra.lab.device_bounds import devices_by_flops_per_byte, flops_per_byte, is_gpu
from vertebra.lab.each_network import each_measured, judge_each, measure_each
from vertebra.lab.experiment import Claim, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.models import get_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

DENSE, RESIDUAL = "DenseNet-201", "ResNet-50"
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.746",
    claim="GPUs compute fast and have comparatively little bandwidth; DenseNet, dominated by memory access, did not "
    "spread partly for that reason.",
    claim_ja="GPUは演算の速さに比べてメモリ帯域が狭く、メモリ律速のDenseNetが広まらなかった一因はそこにある。",
    should_hold="At equal MACs DenseNet moves more bytes than ResNet, and takes longer on a GPU.",
    source="counts, roofline; Lee et al. 2019 (VoVNet)",
    rule="Does not hold unless every GPU known computes more FLOPs per byte than every CPU known, DenseNet-201 moves "
    "more bytes per MAC than ResNet-50, of nearly as many MACs, and more than half of its predicted time is bound by "
    "memory on most GPUs, and a larger share than of ResNet-50's; nor if a GPU measured here takes less time per MAC "
    "for it (95 % interval). Otherwise in part: why a network spread cannot be measured. Times on a CPU do not decide "
    "it. Of your networks, each is asked whether it is bound by memory on most GPUs.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="What memory traffic costs",
    caption="Right: where a line is high, memory decides the time on these devices, not arithmetic. From the peaks of "
    "each device; what is called measured is this machine's time, untrained.",
    seconds=20,
)
SIZE, SECONDS = 224, 12.0


def measure(
    setup: Setup,
    networks: Mapping[str, nn.Module] | None = None,
    known: Mapping[str, Device] | None = None,
    seconds: float = SECONDS,
) -> Measured:
    """Count and predict both, and time them in turns; the network that the claim is about comes first."""
    if networks is None:
        networks = {DENSE: get_model("densenet201"), RESIDUAL: get_model("resnet50")}
    counted = {name: inspect(network, SIZE, BATCH) for name, network in networks.items()}
    found = measure_each(lambda name, _: bandwidth_costs(counted[name], known), networks, setup)
    figures, (first, second) = dict(found.figures), counted
    macs = counted[second].macs / counted[first].macs
    traffic = figures[f"{first}: bytes per MAC"].value / figures[f"{second}: bytes per MAC"].value
    figures["bytes per MAC, one over the other"] = Figure(traffic, "×")
    balance: dict[bool, list[float]] = {True: [], False: []}
    for device in devices_by_flops_per_byte(known):
        times = [network.latency(device).total_ms for network in counted.values()]
        figures[f"{device.key}: time per MAC"] = Figure(macs * times[0] / times[1], "×")
        balance[is_gpu(device)].append(flops_per_byte(device))
    figures["least FLOPs per byte of a GPU"] = Figure(min(balance[True]), "FLOPs per byte")
    figures["most FLOPs per byte of a CPU"] = Figure(max(balance[False]), "FLOPs per byte")
    if not setup.quick:
        figures |= times_per_mac(setup, networks, counted, SIZE, seconds)
    return Measured(figures, {**found.series, "device": setup.device})


def judge(measured: Measured) -> Judgement:
    """More bytes per MAC, bound by memory, and slower where a GPU was timed?"""
    first, timed = next(iter(measured.series["networks"])), measured.figures.get("measured: time per MAC")
    subject, other = each_measured(measured).values()
    shares, others = subject.series["shares"], other.series["shares"]
    decided_by: tuple[str, ...] = ("bytes per MAC, one over the other", f"{first}: GPUs on which it is bound by memory")
    decided_by = (*decided_by, "measured: time per MAC") if timed else decided_by
    if measured.value("least FLOPs per byte of a GPU") <= measured.value("most FLOPs per byte of a CPU"):
        return Judgement(Verdict.FAILS, "Not every GPU computes more for each byte than the CPUs.", decided_by)
    if measured.value(decided_by[0]) <= 1:
        return Judgement(Verdict.FAILS, "It does not move more bytes per MAC than the other network.", decided_by)
    if judge_network(subject).verdict is Verdict.FAILS or any(shares[key] <= others[key] for key in shares):
        reason = "Memory does not decide its time on most GPUs, or no more than the other's."
        return Judgement(Verdict.FAILS, reason, decided_by)
    history = "why it did not spread cannot be measured."
    if timed is None or measured.series["device"] == "cpu":
        reason = f"It moves more bytes per MAC and is bound by memory on most GPUs. No GPU was timed, and {history}"
        return Judgement(Verdict.IN_PART, reason, decided_by)
    low, high = timed.interval or (timed.value, timed.value)
    if low > 1:
        reason = f"It moves more bytes per MAC, and takes longer per MAC on this GPU; {history}"
        return Judgement(Verdict.IN_PART, reason, decided_by)
    if high < 1:
        return Judgement(Verdict.FAILS, "On this GPU it takes less time per MAC.", decided_by)
    return Judgement(Verdict.OPEN, "The interval of the times per MAC on this GPU includes 1.", decided_by)


def judge_network(measured: Measured) -> Judgement:
    """Bound by memory on most GPUs?"""
    decided_by = ("GPUs on which it is bound by memory", "bytes per MAC", "FLOPs per byte")
    if 2 * measured.value(decided_by[0]) > measured.series["GPUs"]:
        return Judgement(Verdict.HOLDS, "On most GPUs more than half of its time is bound by memory.", decided_by)
    return Judgement(Verdict.FAILS, "On most GPUs less than half of its time is bound by memory.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Time per MAC, one network over the other, and what limits each."""
    (left, right), (first, second) = canvas.subplots(1, 2, width_ratios=[1, 1.2]), measured.series["networks"]
    times = {name.split(":")[0]: f.value for name, f in measured.figures.items() if name.endswith(": time per MAC")}
    bars(left, times, f"time per MAC, {first} over {second}")
    left.axvline(1, color="0.3", linewidth=1)
    draw_bounds(right, measured)


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count each at the size that it is for, and predict what limits it."""
    return measure_each(lambda name, network: bandwidth_costs(count_network(name, network)), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Each bound by memory on most GPUs?"""
    return judge_each(judge_network, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """Bytes per MAC of each, and what limits it."""
    left, right = canvas.subplots(1, 2, width_ratios=[1, 1.2])
    bars(left, {name: own.value("bytes per MAC") for name, own in each_measured(measured).items()}, "bytes per MAC")
    draw_bounds(right, measured)
