"""What a network keeps for the backward pass, by stage, with and without activation checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vertebra.anatomy import inspect
from vertebra.errors import UsageError
from vertebra.introspect import preserved, saved_bytes_by_module
from vertebra.models import ConvNet

from .charts import grouped_bars
from .experiment import Figure, Judgement, Measured, Setup, Verdict
from .forward_timing import ratio_figure, time_training_steps, timed_batch
from .user_networks import random_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

OUTSIDE = "outside of stages"  # such as the inputs of blocks that are checkpointed
PLAIN, CHECKPOINTED = "as it is", "with checkpointing"
KEPT, RATIO, STEP = "kept", "kept, ratio", "training step, ratio"
_BATCH = 2


def kept_by_stage(network: nn.Module, images: Tensor) -> dict[str, int]:
    """Bytes that a forward pass in training mode keeps beside the weights, by the stages that `inspect` names."""
    stages = {row.module: row.stage for row in inspect(network, images.shape[1:]).rows if row.module}
    with preserved(network):
        network.train()
        found = saved_bytes_by_module(network, images)
    kept = dict.fromkeys(stages.values(), 0)
    for path, saved in found.items():
        stage = _stage(path, stages)
        kept[stage] = kept.get(stage, 0) + saved.total
    return {stage: nbytes for stage, nbytes in kept.items() if nbytes}


def _stage(path: str, stages: Mapping[str, str]) -> str:
    """The stage of a module, or of the nearest module around it; its first name where `inspect` does not run it."""
    around = path
    while around:
        if around in stages:
            return stages[around]
        around = around.rpartition(".")[0]
    return path.partition(".")[0] or OUTSIDE


def measure_kept(setup: Setup, network: nn.Module) -> Measured:
    """Count a batch of two; of Vertebra's networks also with activation checkpointing, and time a training step."""
    images = random_images(network, _BATCH)
    arms: dict[str, nn.Module] = {PLAIN: copy.deepcopy(network)}
    if isinstance(network, ConvNet):
        arms[CHECKPOINTED] = checkpointed = copy.deepcopy(network)
        checkpointed.set_activation_checkpointing(True)
    kept = {arm: kept_by_stage(own, images) for arm, own in arms.items()}
    totals = {arm: sum(stages.values()) for arm, stages in kept.items()}
    if not totals[PLAIN]:
        raise UsageError("nothing is kept for the backward pass: no parameter requires a gradient.")
    figures = {f"{KEPT} {arm}": Figure(total / _BATCH / 1e6, "MB an image") for arm, total in totals.items()}
    if len(arms) > 1:
        figures[RATIO] = Figure(totals[CHECKPOINTED] / totals[PLAIN], "×")
        if not setup.quick:
            shape = (timed_batch(setup.device, _BATCH), *images.shape[1:])
            timings = time_training_steps(setup, arms, shape, rounds=8)
            figures[STEP] = ratio_figure(timings, CHECKPOINTED, PLAIN)
    return Measured(figures, {"kept": {arm: _megabytes(stages) for arm, stages in kept.items()}})


def _megabytes(stages: Mapping[str, int]) -> dict[str, float]:
    return {stage: nbytes / _BATCH / 1e6 for stage, nbytes in stages.items()}


def judge_kept(measured: Measured) -> Judgement:
    """Is less kept, for more time?"""
    if RATIO not in measured.figures:
        reason = "Checkpointing is switched on in Vertebra's own networks alone; here what is kept is counted."
        return Judgement(Verdict.OPEN, reason, (f"{KEPT} {PLAIN}",))
    time = measured.figures.get(STEP)
    decided_by = (RATIO, *([STEP] if time else []))
    if measured.value(RATIO) >= 1:
        return Judgement(Verdict.FAILS, "With activation checkpointing it keeps no less.", decided_by)
    if time is None:
        reason = "With activation checkpointing it keeps less; the time was not measured."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    if time.interval is None or time.interval[0] <= 1:
        reason = "With activation checkpointing it keeps less, but is not shown to take longer."
        return Judgement(Verdict.IN_PART, reason, decided_by)
    return Judgement(Verdict.HOLDS, "With activation checkpointing it keeps less, and takes longer.", decided_by)


def draw_kept(measured: Measured, canvas: Canvas) -> None:
    """Bars for each stage of one network, or for the sums of several."""
    networks: Mapping[str, Any] = measured.series["networks"]
    if len(networks) == 1:
        bars = next(iter(networks.values()))["kept"]
    else:
        bars = {
            arm: {name: sum(own["kept"][arm].values()) for name, own in networks.items() if arm in own["kept"]}
            for arm in (PLAIN, CHECKPOINTED)
        }
    rows = list(dict.fromkeys(row for values in bars.values() for row in values))
    series = {arm: [values.get(row, float("nan")) for row in rows] for arm, values in bars.items() if values}
    grouped_bars(canvas.subplots(), rows, series, "kept for the backward pass, MB an image")
