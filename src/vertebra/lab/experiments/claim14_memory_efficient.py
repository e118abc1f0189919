"""Claim 14: what DenseNet's `memory_efficient` saves in memory, by depth, and what it costs in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from vertebra.introspect import count_saved_bytes
from vertebra.lab.charts import BLUE, ORANGE
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.forward_timing import GPU_BATCH, ratio_figure, time_training_steps
from vertebra.lab.kept_by_stage import draw_kept, judge_kept, measure_kept
from vertebra.models import densenet121
from vertebra.models.densenet import DenseBlock
from vertebra.models.layers import Layer
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

LAYERS, CHANNELS, SIZE = (6, 12, 24, 48), 64, 28  # of the blocks
SHAPES = {"cpu": (4, 3, 128, 128), "cuda": (GPU_BATCH, 3, 224, 224)}  # of the images that are timed
ARMS, NETWORK = {"": False, ", memory_efficient": True}, "kept, DenseNet-121"
BYTES = (f"{NETWORK}, without positions of maxima", *(f"kept, {n} layers" for n in LAYERS))
KNOWN = dict(zip(ARMS, ((128.9, 10.2, 27.7, 84.4, 284.6), (61.3, 5.5, 11.0, 21.8, 43.5)), strict=True))  # MB
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.601, 744, 747",
    claim="`memory_efficient` drops intermediate results: less memory, longer training; the deeper, the more there is "
    "to keep.",
    claim_ja="memory_efficientは中間結果を保持しないのでメモリを節約できるが、逆伝播で再計算が必要になり、学習時間は延びる。",
    should_hold="DenseNet-121 keeps 61.3 instead of 128.9 MB an image for the backward pass, a block in proportion to "
    "its layers instead of to their square.",
    source="counts; Pleiss 2017; pytorch/vision PR 797",
    rule="A parabola is fitted to the bytes that blocks of 6, 12, 24 and 48 layers keep. Holds if memory_efficient "
    "keeps less in DenseNet-121 and in each block, the quadratic term is more than 50 % of what 48 layers keep without "
    "it and less than 5 % with it, and a training step takes longer with it (95 % interval of the ratio above 1). In "
    "part if less is kept, but one of the others is not so or was not measured; does not hold if no less is kept.",
    decided_by=(Kind.COUNT, Kind.TIMING),
    title="DenseNet with and without memory_efficient",
    caption="Left: a dense block (28 × 28, growth rate 32) with the fitted parabola; a curve that bends upwards grows "
    "faster than the depth. Right: below 1 it saves, above 1 it costs. Untrained.",
    networks_title="Kept for the backward pass",
    networks_caption="For one image. With checkpointing the input of each block is kept, and the rest computed again.",
    seconds=30,
    expected={
        f"{name}{a}": Expected(mb, "counts", 0.01) for a in ARMS for name, mb in zip(BYTES, KNOWN[a], strict=True)
    }
    | {"training step, ratio": Expected(1.41, "pytorch/vision PR 797, on GPUs", 0.1)},
)
SAVED, SQUARE, STEP = f"{NETWORK}, ratio", "quadratic term, 48 layers", "training step, ratio"


def measure(setup: Setup, network: Layer = densenet121, block: Layer = DenseBlock) -> Measured:
    """Count on the meta device, then time training steps in turns."""
    figures, batch = dict[str, Figure](), 2  # the statistics of batch norms are kept once a batch
    for arm, efficient in ARMS.items():
        with meta_build():
            saved = count_saved_bytes(network(memory_efficient=efficient), torch.empty(batch, 3, 224, 224))
            images = torch.empty(1, CHANNELS, SIZE, SIZE, requires_grad=True)
            blocks = [count_saved_bytes(block(n, CHANNELS, 4, 32, 0.0, efficient), images) for n in LAYERS]
        totals = {"": saved.total, ", without positions of maxima": saved.total - saved.indices}
        figures |= {f"{NETWORK}{what}{arm}": Figure(n / batch / 1e6, "MB an image") for what, n in totals.items()}
        kept = [one.total / 1e6 for one in blocks]
        figures |= {f"kept, {n} layers{arm}": Figure(mb, "MB an image") for n, mb in zip(LAYERS, kept, strict=True)}
        square = np.polyfit(LAYERS, kept, 2)[0] * LAYERS[-1] ** 2 / kept[-1]
        figures[f"{SQUARE}{arm}"] = Figure(round(100 * float(square), 6) + 0.0, "%")
    figures[SAVED] = Figure(figures[f"{NETWORK}, memory_efficient"].value / figures[NETWORK].value, "×")
    if not setup.quick:
        networks = {name: network(memory_efficient=efficient) for name, efficient in ARMS.items()}
        timings = time_training_steps(setup, networks, SHAPES[setup.device], seconds=25)
        figures[STEP] = ratio_figure(timings, ", memory_efficient", "")
        figures |= {f"training step{arm}": Figure(timings.median_ms(arm), "ms", timings.rounds) for arm in ARMS}
    return Measured(figures)


def judge(measured: Measured) -> Judgement:
    """Less memory, by depth, and more time?"""
    time = measured.figures.get(STEP)
    decided_by = (SAVED, *(f"{SQUARE}{arm}" for arm in ARMS), *([STEP] if time else []))
    pairs = [[measured.value(f"kept, {layers} layers{arm}") for arm in ARMS] for layers in LAYERS]
    if measured.value(SAVED) >= 1 or any(kept <= efficient for kept, efficient in pairs):
        return Judgement(Verdict.FAILS, "It keeps no less, in the network or in a block.", decided_by)
    if measured.value(SQUARE) <= 50 or abs(measured.value(f"{SQUARE}, memory_efficient")) >= 5:
        return Judgement(Verdict.IN_PART, "It keeps less, but the growth with depth is not as claimed.", decided_by)
    if time is None:
        return Judgement(Verdict.IN_PART, "It keeps less, as claimed of depth; the time was not measured.", decided_by)
    if time.interval is None or time.interval[0] <= 1:
        return Judgement(Verdict.IN_PART, "It keeps less, but training is not shown to take longer.", decided_by)
    return Judgement(Verdict.HOLDS, "It keeps less, the more so with depth, and training takes longer.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """A block's bytes by depth, and the network's bytes and time relative to those without."""
    left, right = canvas.subplots(1, 2, width_ratios=[3, 2])
    depths = np.arange(LAYERS[-1] + 1)
    for arm, color, label in zip(ARMS, (BLUE, ORANGE), ("as it is", "memory_efficient"), strict=True):
        kept = [measured.value(f"kept, {layers} layers{arm}") for layers in LAYERS]
        left.plot(LAYERS, kept, "o", color=color)
        left.plot(depths, np.polyval(np.polyfit(LAYERS, kept, 2), depths), color=color)
        left.annotate(label, (LAYERS[-1], kept[-1]), (-12, 4), textcoords="offset points", ha="right", color=color)
    left.set(xlabel="layers of the block", ylabel="kept for backward, MB an image", xticks=LAYERS)
    ratios = {"bytes kept": SAVED, "training step": STEP}
    shown = {label: measured.value(name) for label, name in ratios.items() if name in measured.figures}
    right.bar_label(right.bar(list(shown), list(shown.values()), 0.5, color=ORANGE), fmt="{:.2f}", label_type="center")
    if STEP in measured.figures:
        right.plot([1, 1], measured.figures[STEP].interval, color="0.2")
    right.axhline(1, color=BLUE)
    right.set(ylabel="DenseNet-121 with it over as it is, ×", xlim=(-0.6, len(shown) - 0.4))


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Count by stage, and Vertebra's own networks with activation checkpointing too, whose steps are timed."""
    return measure_each(lambda _, network: measure_kept(setup, network), networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """The same rule, without the depth."""
    return judge_each(judge_kept, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """One network by stage, or the sums of several."""
    draw_kept(measured, canvas)
