"""Claim 38: on which devices MBConv is the faster block, and on which FusedMBConv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vertebra.anatomy.roofline import Device
from vertebra.lab.charts import COLORS, device_axis, ratio_scale
from vertebra.lab.device_bounds import devices_by_flops_per_byte, flops_per_byte, rank_correlation
from vertebra.lab.experiment import Claim, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fused_stages import SECONDS, StagePair, draw_ratios, fused, ratio_figures, separated
from vertebra.models import ConvNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="EfficientNetV2",
    stated_by="article l.1287",
    claim="The separated MBConv suits phones, the integrated FusedMBConv strong GPUs.",
    claim_ja="分離型はスマートフォンなどのエッジデバイスに、統合型は強力なGPUに向く。",
    should_hold="The more a device computes in the time of one byte, the better for FusedMBConv. In the paper's Table "
    "3, fusing the first stages of B4 brings a V100 from 155 to 216 images/s, a TPU core from 262 to 362.",
    source="EfficientNetV2, Table 3; roofline",
    rule="Times of V2-S's first three stages, fused over MBConv, in three parts: over the devices known the predicted "
    "ratio falls with FLOPs per byte (the 95 % interval of the rank correlation is below 0); measured on a CPU, which "
    "like a phone computes few FLOPs per byte, it is above 1; measured on a GPU it is below 1 (intervals exclude 1). "
    "Holds if all three are so; does not hold if none of those that could be asked here is; in part otherwise. Not "
    "decided where nothing was timed, or where there is no trend and an interval includes 1.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="V2-S: time of a stage with FusedMBConv, relative to MBConv",
    caption="Below the line FusedMBConv is faster. Points are lower bounds from the peaks of each device; on the "
    "right, dots are measured on this machine, untrained, with 95 % intervals, and crosses are predicted for it.",
    seconds=30,
)
SIZE, BATCH = 384, 16


def measure(
    setup: Setup,
    networks: tuple[ConvNet, ConvNet] | None = None,
    known: Mapping[str, Device] | None = None,
    seconds: float = SECONDS,
) -> Measured:
    """Predict for all devices; with a GPU, measure there and on the CPU.

    Args:
        setup: how.
        networks: with MBConv and with FusedMBConv, on the meta device; None: V2-S.
        known: the devices; None: those of devices.toml.
        seconds: how long to time a stage.
    """
    plain, integrated = (separated("efficientnet_v2_s"), fused("efficientnet_v2_s")) if networks is None else networks
    pair = StagePair.of(plain, integrated, SIZE, BATCH)
    devices = devices_by_flops_per_byte(known)
    predicted = {device.key: pair.predicted(device) for device in devices}
    balance = [flops_per_byte(device) for device in devices]
    figures = {f"{key}: predicted, first three stages": Figure(r["first three"], "×") for key, r in predicted.items()}
    for stage in next(iter(predicted.values())):
        trend = rank_correlation(balance, [ratios[stage] for ratios in predicted.values()])
        figures[f"rank correlation, {stage}"] = trend
    here = () if setup.quick else tuple(dict.fromkeys(("cpu", setup.device)))
    for device in here:
        figures |= ratio_figures(plain, integrated, SIZE, device, seconds, setup.progress)
    places = dict(zip(predicted, balance, strict=True))
    return Measured(figures, {"predicted": predicted, "devices": places, "measured": list(here)})


def judge(measured: Measured) -> Judgement:
    """The trend over the devices, and the side of 1 on this machine."""
    trend = measured.figures["rank correlation, first three"]
    parts = {"rank correlation, first three": trend.interval is not None and trend.interval[1] < 0}
    unclear = False
    for device in measured.series["measured"]:
        name = f"{device}, first three: measured"
        low, high = measured.figures[name].interval or (0.0, 0.0)
        parts[name] = low > 1 if device == "cpu" else 0 < high < 1
        unclear = unclear or low <= 1 <= high
    decided_by = tuple(parts)
    if len(parts) == 1:
        reason = "Predicted times alone do not decide it, and nothing was timed."
        return Judgement(Verdict.OPEN, reason, decided_by)
    if len(parts) == 3 and all(parts.values()):
        reason = "The trend is there; MBConv is faster on this CPU, FusedMBConv on this GPU."
        return Judgement(Verdict.HOLDS, reason, decided_by)
    if not any(parts.values()) and unclear:
        reason = "The predicted trend is not there; the interval of the times on this machine includes 1."
        return Judgement(Verdict.OPEN, reason, decided_by)
    if not any(parts.values()):
        return Judgement(
            Verdict.FAILS, "Neither the predicted trend nor the measured times are as claimed.", decided_by
        )
    if all(parts.values()):
        reason = "The predicted trend is there, and MBConv is faster on this CPU. No GPU was measured."
    elif parts["rank correlation, first three"]:
        reason = "The predicted trend is there, but the times on this machine are not all as claimed."
    else:
        reason = "Times on this machine are as claimed in part or in whole, but devices show no trend."
    return Judgement(Verdict.IN_PART, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Ratio by device for each stage, and beside it this machine's."""
    predicted, known = measured.series["predicted"], measured.series["devices"]
    here = measured.series["measured"]
    axes = canvas.subplots(1, 1 + len(here), sharey=True, squeeze=False, width_ratios=[2, *[1] * len(here)])[0]
    stages = [stage for stage in next(iter(predicted.values())) if stage != "first three"]
    for stage, color in zip(stages, COLORS, strict=False):
        ratios = [by_stage[stage] for by_stage in predicted.values()]
        axes[0].plot([known[key] for key in predicted], ratios, "o-", color=color, label=stage, markersize=4)
    device_axis(axes[0], known)
    axes[0].set_ylabel("time, fused over MBConv")
    axes[0].legend(fontsize=8, ncols=2)
    for panel, device in zip(axes[1:], here, strict=True):
        draw_ratios(panel, measured, device)
        panel.set_ylabel("")
    ratio_scale(axes[0], 0.2, 10)
