"""Claim 28: whether a gradient can vanish although the input is added whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from vertebra.introspect import batch_statistics
from vertebra.lab.block_gradients import gradient_through, gradients_by_block, zeroed_by_last_relu
from vertebra.lab.charts import SKY, seed_lines
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.seed_statistics import over_seeds
from vertebra.lab.small_networks import SmallResNet, seeded
from vertebra.lab.user_networks import random_images
from vertebra.models import resnet18, resnet34, resnet50, resnet101, resnet152
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

VANISHED = 0.1  # smallest gradient norm of a block over that of the last
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet-18": resnet18, "ResNet-34": resnet34, "ResNet-50": resnet50, "ResNet-101": resnet101,
    "ResNet-152": resnet152,
}  # fmt: skip
RESIDUAL: Callable[..., nn.Module] = partial(SmallResNet, 56)

CLAIM = Claim(
    family="ResNet",
    stated_by="article l.733–734",
    claim="As x stays whole in F(x) + x, gradients can never vanish.",
    claim_ja="F(x) + x にはxがそのまま含まれるため、勾配が消失することはありえない。",
    should_hold="With F = -x a block's output and gradient are exactly 0; the ReLU after the addition stops gradients, "
    "and 3 or 4 shortcuts are convolutions. As a tendency it is right.",
    source="He et al. 2016 (identity mappings), 2–3",
    rule="Holds if a block with F = -x passes a gradient, and in untrained residual networks, with and without batch "
    "norm, no block's gradient norm is under a tenth of the last block's, in any seed; in part if the sum x + F(x) "
    "passes one there and the ReLU after it does not; else it does not hold, whatever the tendency.",
    decided_by=(Kind.COUNT, Kind.INIT),
    title="Where a residual network's gradients can vanish, and where they do not",
    caption="Untrained, 56 layers. Left: gradient norm at the last convolution of each block, over the last "
    "block's; below 1 gradients shrink towards the input. Right: share of values at which the ReLU after the "
    "addition stops the gradient, by block of ResNet-50. Bands are the range over seeds.",
    seconds=2,
    seeds=3,
    expected={
        "F = -x: largest output": Expected(0, "algebra"),
        "F = -x: largest gradient": Expected(0, "algebra"),
        **{f"{name}: convolutional shortcuts": Expected(3, "source") for name in ("ResNet-18", "ResNet-34")},
        **{f"ResNet-{depth}: convolutional shortcuts": Expected(4, "source") for depth in (50, 101, 152)},
    },
)


def measure(setup: Setup, factor: float = -1, residual: Callable[..., nn.Module] = RESIDUAL) -> Measured:
    """A block with F = factor · x; then the shortcuts and ReLUs of ResNets, and gradients by block."""
    output, gradient = gradient_through(factor, last_relu=True)
    _, of_sum = gradient_through(factor, last_relu=False)
    figures = {
        "F = -x: largest output": Figure(output),
        "F = -x: largest gradient": Figure(gradient),
        "F = -x: largest gradient of the sum": Figure(of_sum),
    }
    for name, build in NETWORKS.items():
        with meta_build():
            shortcuts = [m for path, m in build().named_modules() if ".downsample." in path]
        figures[f"{name}: convolutional shortcuts"] = Figure(sum(isinstance(m, nn.Conv2d) for m in shortcuts))
    network = seeded(NETWORKS["ResNet-50"], 0)
    with batch_statistics(network):
        zeroed = [100 * share for share in zeroed_by_last_relu(network, random_images(network, 4, 64))]
    figures["ResNet-50: values stopped by the ReLU after the addition"] = Figure(
        sum(zeroed) / len(zeroed), "%", len(zeroed)
    )
    lines: dict[str, list[list[float]]] = {}
    for name, options in {"": {}, ", no norm": {"batch_norm": False}}.items():
        builds = {"residual": partial(residual, **options), "plain": partial(RESIDUAL, residual=False, **options)}
        for kind, build in builds.items():
            own = [gradients_by_block(seeded(build, seed), seed, setup.device) for seed in range(setup.seeds)]
            lines[f"{kind}{name}"] = own
            figures[f"{kind}{name}: smallest over last block"] = over_seeds([min(norms) for norms in own]).figure("×")
    return Measured(figures, {"zeroed": zeroed, "norms": lines})


def judge(measured: Measured) -> Judgement:
    """Does the gradient pass a block with F = -x, and every block of an untrained network?"""
    value = measured.value
    smallest = {line: min(min(norms) for norms in own) for line, own in measured.series["norms"].items()}
    kinds = [line for line in smallest if line.startswith("residual")]
    tendency = all(smallest[line] >= VANISHED for line in kinds)
    decided_by: tuple[str, ...] = ("F = -x: largest gradient", "F = -x: largest gradient of the sum")
    decided_by += tuple(f"{line}: smallest over last block" for line in kinds)
    if value(decided_by[0]):
        if tendency:
            return Judgement(Verdict.HOLDS, "A gradient passes even where the branch takes the input away.", decided_by)
        return Judgement(
            Verdict.FAILS, "Gradients of untrained residual networks vanish from block to block.", decided_by
        )
    if value(decided_by[1]):
        return Judgement(Verdict.IN_PART, "The sum passes the gradient, but the ReLU after it does not.", decided_by)
    if tendency:
        reason = (
            "Where the branch takes the input away nothing passes; untrained networks keep their gradients, though."
        )
    else:
        reason = (
            "Where the branch takes the input away nothing passes, and untrained networks lose their gradients too."
        )
    return Judgement(Verdict.FAILS, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Gradient norms by block; values that the last ReLU stops."""
    left, right = canvas.subplots(1, 2, width_ratios=(1.4, 1))
    # In the order of claim 8, which gives each kind its color.
    norms = sorted(measured.series["norms"].items(), key=lambda line: ("no norm" in line[0], line[0]))
    lines = {line: {i + 1.0: list(at) for i, at in enumerate(zip(*own, strict=True))} for line, own in norms}
    seed_lines(left, lines, "block", "gradient norm over the last block's")
    left.set_yscale("log")
    left.axhline(1, color="0.3", linewidth=1)
    zeroed = measured.series["zeroed"]
    right.bar(range(1, len(zeroed) + 1), zeroed, color=SKY)
    right.set(xlabel="block of ResNet-50", ylabel="values stopped by the last ReLU, %")
