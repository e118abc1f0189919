"""Claim 13: whether a small growth rate keeps DenseNet's gradients from growing towards the input."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vertebra.introspect import batch_statistics, gradient_norms
from vertebra.lab.charts import log_ticks, seed_lines
from vertebra.lab.experiment import Claim, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import Arm, fit_all
from vertebra.lab.seed_statistics import power
from vertebra.lab.small_data import Images, digits
from vertebra.lab.small_networks import seeded, small_densenet
from vertebra.models import ConvNet, DenseNet
from vertebra.models.layers import Layer
from vertebra.train.loss import to_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

BLOCKS, RATES = (4, 8, 12, 8), (8, 12, 16, 24, 32, 48)
SMALL_BLOCKS, SMALL_RATES, PROTOCOL = (2, 3, 2), (8, 16, 24), Protocol(epochs=3)
CLAIM = Claim(
    family="DenseNet",
    stated_by="article l.596, 740",
    claim="The growth rate keeps gradients from exploding.",
    claim_ja="成長率を設けることで、勾配爆発が抑えられる。",
    should_hold="If it did, a smaller growth rate k would make gradients smaller at the first convolution, and would "
    "make them grow less on the way there from the last.",
    source="none found",
    rule="The slope of log norm on log k, for the gradient of the first convolution's weights and for its ratio to the "
    "last one's, untrained and after 3 epochs of training. Holds if all four slopes are positive (95 % interval above "
    "0), does not hold if none is, in part otherwise. Not decided if none is shown to be positive, but the interval of "
    "one reaches from below 0 to above 0.5, which would be growth like √k.",
    decided_by=(Kind.INIT, Kind.TRAINING),
    title="DenseNet's gradients over the growth rate",
    caption="A line that rises means that a smaller growth rate makes gradients smaller; only if the first one's rises "
    "more steeply than the last one's do they grow less between the two. Bands: range of the seeds.",
    seconds=24,
    seeds=3,
)
FIRST, RATIO, TRAINED = "slope, first convolution", "slope, first over last", ", trained"
DECISIVE = (FIRST, RATIO, f"{FIRST}{TRAINED}", f"{RATIO}{TRAINED}")
PLACES = ("first convolution", "middle", "last")


def measure(setup: Setup, build: Layer = DenseNet, small: Arm = small_densenet) -> Measured:
    """Gradient norms of untrained networks on noise, then of small ones on the digits that they were trained on.

    As in the paper the stem has 2k channels; in a full run one of 64 for every k is measured beside it.
    """
    norms: dict[str, dict[str, list[float]]] = {}
    for done, (seed, k) in enumerate(itertools.product(range(setup.seeds), RATES)):
        setup.progress("gradients of untrained networks", done, setup.seeds * len(RATES))
        noise = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).to(setup.device)
        for what, stem in ({"": 2 * k} if setup.quick else {"": 2 * k, ", stem of 64 channels": 64}).items():
            network = seeded(partial(build, k, BLOCKS, stem, num_classes=10), seed)
            _add(norms, _norms(network.to(setup.device), noise), k, what)
    if not setup.quick:
        arms = {str(k): partial(small, SMALL_BLOCKS, k) for k in SMALL_RATES}
        options: dict[str, Any] = {"measure": _trained_norms, "device": setup.device, "progress": setup.progress}
        for rate, curves in fit_all(arms, range(setup.seeds), digits().split, PROTOCOL, **options).items():
            for curve in curves:
                _add(norms, curve.found, int(rate), TRAINED)
    slopes = {f"slope, {which}": power({int(k): own for k, own in by_k.items()}) for which, by_k in norms.items()}
    return Measured(slopes, {"norms": norms})


def _add(norms: dict[str, dict[str, list[float]]], found: dict[str, float], k: int, what: str) -> None:
    for place, norm in found.items():
        norms.setdefault(f"{place}{what}", {}).setdefault(str(k), []).append(norm)


def _norms(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Norms of the gradients of the first, middle and last convolution's weights, in a batch's own statistics."""
    with batch_statistics(network):
        found = [layer.weight for layer in gradient_norms(network, images) if layer.is_convolution]
    first, middle, last = found[0], found[len(found) // 2], found[-1]
    return {"first convolution": first, "middle": middle, "last": last, "first over last": first / last}


def _trained_norms(network: ConvNet, images: Images) -> dict[str, float]:
    pixels = torch.from_numpy(images.train[:64]).to(next(network.parameters()).device)
    return _norms(network, to_images(pixels, images.preprocessing))


def judge(measured: Measured) -> Judgement:
    """Which slopes are positive, which may be?"""
    names = [name for name in DECISIVE if name in measured.figures]
    ends = [measured.figures[name].interval or (-math.inf, math.inf) for name in names]
    positive = [low > 0 for low, _ in ends]
    trained = "" if len(names) == len(DECISIVE) else " No network was trained."
    if all(positive):
        verdict, reason = Verdict.HOLDS, "The smaller the growth rate, the less do gradients grow towards the input."
    elif any(positive):
        verdict, reason = Verdict.IN_PART, "A smaller growth rate makes gradients smaller in some respects alone."
    elif any(low < 0 and high > 0.5 for low, high in ends):
        verdict, reason = Verdict.OPEN, "The slopes are too uncertain."
    else:
        verdict, reason = Verdict.FAILS, "A smaller growth rate does not make gradients grow less towards the input."
    return Judgement(verdict, f"{reason}{trained}", tuple(names))


def draw(measured: Measured, canvas: Canvas) -> None:
    """Norms over the growth rate, untrained and trained."""
    norms = measured.series["norms"]
    panels = {"": "untrained", TRAINED: "trained"} if f"last{TRAINED}" in norms else {"": "untrained"}
    for axes, (what, title) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        lines = {place: {float(k): own for k, own in norms[f"{place}{what}"].items()} for place in PLACES}
        seed_lines(axes, lines, "growth rate k", f"norm of the gradient, {title}")
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(ticks := list(next(iter(lines.values()))), [f"{k:.0f}" for k in ticks])
        log_ticks(axes)
