"""Claim 24: MACs and time of EfficientNet-B4's stages with MBConv and with FusedMBConv, as in the paper's Table 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vertebra.anatomy import inspect
from vertebra.introspect.mbconv_swaps import fuse_mbconv
from vertebra.lab.charts import COLORS
from vertebra.lab.device_bounds import devices_by_flops_per_byte
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fused_stages import FIRST, SECONDS, StagePair, draw_ratios, fused, ratio_figures, separated
from vertebra.models import ConvNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# Images a second with the arms below (EfficientNetV2, Table 3).
PAPER = {"V100": (155, 216, 223, 206), "TPU core": (262, 362, 327, 254)}
CLAIM = Claim(
    family="EfficientNetV2",
    stated_by="article l.1058–1060, 1283, 1291",
    claim="Fused blocks do more arithmetic in less time, since one operation fills the GPU, and are used in the first "
    "stages.",
    claim_ja="統合型は計算量が増えるにもかかわらず、GPUを使い切れるために速く、初めの数ステージで使われる。",
    should_hold="EfficientNet-B4 with none, the first three, five or all stages fused, paper's Table 3: 155, 216, 223, "
    "206 images/s on a V100 and 262, 362, 327, 254 on a TPU core; 82.8, 83.1, 83.1, 81.7 % top-1.",
    source="EfficientNetV2, Table 3; counts; roofline",
    rule="Does not hold unless every stage has more MACs fused. Then a GPU decides: B4's first three stages must take "
    "less time fused than with MBConv for the claim to hold, more for it not to hold (95 % interval of the ratio). "
    "Bounds of GPUs and times on a CPU do not decide it.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="EfficientNet-B4: speed as more stages are fused, and time by stage",
    caption="Left: speed relative to B4 without fused stages, predicted from the peaks of devices (lines) and measured "
    "in the paper (dashed). Right: time fused over MBConv on this machine, untrained; crosses are predicted.",
    seconds=33,
    expected={
        "none: parameters": Expected(19.34, "counts", 0.001),
        "stages 1–3: parameters": Expected(19.94, "counts; the paper has 20.0", 0.001),
        "stages 1–5: parameters": Expected(43.4, "EfficientNetV2, Table 3", 0.01),
        "all stages: parameters": Expected(132.1, "counts; the paper has 132.0", 0.001),
        "none: MACs": Expected(4.39, "counts; the paper has 4.5", 0.002),
        "stages 1–3: MACs": Expected(7.34, "counts; the paper has 7.5", 0.002),
        "stages 1–5: MACs": Expected(21.3, "EfficientNetV2, Table 3", 0.1),
        "all stages: MACs": Expected(36.0, "counts; the paper has 34.4", 0.002),
    },
)
SIZE, BATCH = 380, 16
B4 = "efficientnet_b4"


def measure(setup: Setup, networks: tuple[ConvNet, ConvNet] | None = None, seconds: float = SECONDS) -> Measured:
    """Count and predict all arms; time each stage.

    Args:
        setup: how.
        networks: with MBConv and with FusedMBConv, on the meta device, to compare by stage; None: B4.
        seconds: how long to time a stage.
    """
    # Table 3's parameters tell the kernels: 3×3 where three stages are fused, MBConv's own where five or all are.
    rows = {"none": separated(B4), "stages 1–3": fused(B4, FIRST, kernel=3), "stages 1–5": fused(B4, (1, 2, 3, 4, 5))}
    arms = {name: inspect(network, SIZE, BATCH) for name, network in (rows | {"all stages": fused(B4)}).items()}
    figures: dict[str, Figure] = {}
    for arm, found in arms.items():
        figures[f"{arm}: parameters"] = Figure(found.parameters / 1e6, "M")
        figures[f"{arm}: MACs"] = Figure(found.macs / BATCH / 1e9, "GMACs an image")
    # By stage: 3×3 in the first three, and MBConv's kernels behind them.
    plain, integrated = networks or (rows["none"], cast(ConvNet, fuse_mbconv(fused(B4, FIRST, kernel=3))))
    first = arms["none"] if networks is None else inspect(plain, SIZE, BATCH)
    pair = StagePair(first, inspect(integrated, SIZE, BATCH))
    macs = pair.macs_ratio()
    figures |= {f"{stage}: MACs, fused over MBConv": Figure(ratio, "×") for stage, ratio in macs.items()}
    figures["least growth of MACs in a stage"] = Figure(min(macs.values()), "×")
    speeds: dict[str, list[float]] = {}
    for device in devices_by_flops_per_byte():
        times = [found.latency(device).total_ms for found in arms.values()]
        speeds[device.key] = [times[0] / time for time in times]
        for arm, speed in list(zip(arms, speeds[device.key], strict=True))[1:]:
            figures[f"{device.key}: speed, {arm} over none"] = Figure(speed, "×")
        slower = [stage for stage, ratio in pair.predicted(device).items() if stage in macs and ratio > 1]
        turn = list(macs).index(slower[0]) if slower else len(macs)
        figures[f"{device.key}: stages before fused is slower"] = Figure(turn)
    if not setup.quick:
        figures |= ratio_figures(plain, integrated, SIZE, setup.device, seconds, setup.progress)
    return Measured(figures, {"speeds": speeds, "arms": list(arms), "device": setup.device})


def judge(measured: Measured) -> Judgement:
    """More MACs in every stage, and less time on a GPU in the first three?"""
    timed = measured.figures.get(f"{measured.series['device']}, first three: measured")
    decided_by: tuple[str, ...] = ("least growth of MACs in a stage",)
    if measured.value("least growth of MACs in a stage") <= 1:
        return Judgement(Verdict.FAILS, "Fused blocks do not have more MACs in every stage.", decided_by)
    if timed is None:
        return Judgement(Verdict.OPEN, "They have more MACs; nothing was timed.", decided_by)
    low, high = timed.interval or (0.0, 0.0)
    decided_by = (f"{measured.series['device']}, first three: measured", *decided_by)
    if measured.series["device"] == "cpu":
        which = "slower" if low > 1 else "faster" if 0 < high < 1 else "neither faster nor slower"
        reason = f"With more MACs, they are {which} on this CPU. It is claimed of GPUs, and none was measured."
        return Judgement(Verdict.OPEN, reason, decided_by)
    if 0 < high < 1:
        reason = "With more MACs, the first three stages take less time fused on this GPU."
        return Judgement(Verdict.HOLDS, reason, decided_by)
    if low > 1:
        reason = "With more MACs, the first three stages take more time fused on this GPU."
        return Judgement(Verdict.FAILS, reason, decided_by)
    return Judgement(Verdict.OPEN, "The interval of the times on this GPU includes 1.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Speeds of the arms, and the ratio of each stage here."""
    device = measured.series["device"]
    arms = [arm.replace("stages", "").strip() for arm in measured.series["arms"]]
    panels = 1 + any(name.endswith(": measured") for name in measured.figures)
    axes = canvas.subplots(1, panels, squeeze=False, width_ratios=[1.6, 1][:panels])[0]
    for (key, speeds), color in zip(measured.series["speeds"].items(), (*COLORS, "#5d3a9b"), strict=False):
        axes[0].plot(arms, speeds, "o-", color=color, label=key, markersize=4)
    for (name, rates), style in zip(PAPER.items(), ("s--", "^--"), strict=True):
        axes[0].plot(
            arms, [rate / rates[0] for rate in rates], style, color="0.2", label=f"paper, {name}", markersize=5
        )
    axes[0].set(xlabel="stages fused", ylabel="speed relative to no fused stages")
    axes[0].axhline(1, color="0.3", linewidth=1)
    axes[0].legend(fontsize=8, ncols=5 if panels == 1 else 3, loc="lower center", bbox_to_anchor=(0.5, 1))
    if panels == 2:
        draw_ratios(axes[1], measured, device)
