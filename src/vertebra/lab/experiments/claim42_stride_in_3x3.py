"""Claim 42: where ResNet-50's bottlenecks have their stride, and which positions of their input they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from vertebra.anatomy import inspect
from vertebra.introspect import move_stride_to_1x1, positions_read
from vertebra.lab.charts import network_bars
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import image_size
from vertebra.models import resnet50
from vertebra.models.layers import Layer
from vertebra.models.resnet import Bottleneck
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SIZE = 32  # pixels of the image of which positions are counted: 8, 4 and 2 a side where the blocks halve
MOVED = "with the stride in the first 1×1"
STRIDED, IN_3X3 = "bottlenecks with a stride", "bottlenecks with the stride in the 3×3"
READ = "positions read, least of any block"

CLAIM = Claim(
    family="ResNet",
    stated_by="code l.355–359",
    claim="ResNet's bottleneck has its stride in the 3×3 instead of the first 1×1.",
    claim_ja="解像度を下げるストライドは、最初の1×1ではなく3×3に置かれている(v1.5)。",
    should_hold="ResNet-50 has 6.0 % more MACs than with the stride in the first 1×1, where 3 of 4 positions of a "
    "strided block's input would never be read, and as many parameters.",
    source="source (v1.5), counts",
    rule="Holds if every bottleneck with a stride has it in its 3×3, and each position of its input reaches the output "
    "(by gradient); in part if one of the two, or some have it there; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Positions of a strided bottleneck's input that reach the output",
    caption="Dark positions of the map that layer2's first block reads have a gradient (a 32 × 32 image, untrained), "
    "white ones do not. Above each: the network's MACs at 224 × 224.",
    networks_title="Positions read by a network's convolutions with a stride",
    networks_caption="Of the map that each convolution with a stride reads, the positions that have a gradient: in the "
    "worst place and on average. Below 100 % some are read by nothing.",
    seconds=1,
    expected={
        "MACs": Expected(4_089_184_256, "counts"),
        f"MACs, {MOVED}": Expected(3_857_973_248, "counts"),
        f"more MACs than {MOVED}": Expected(6.0, "counts", 0.002),
        "parameters": Expected(25_557_032, "counts"),
        f"parameters, {MOVED}": Expected(25_557_032, "counts"),
        f"{READ}, {MOVED}": Expected(25, "a stride of 2 along both sides"),
    },
)


def measure(setup: Setup, build: Layer = resnet50) -> Measured:
    """Count both networks at 224 × 224, and run them for the gradient of their maps."""
    with meta_build():
        networks = {"": build(), f", {MOVED}": move_stride_to_1x1(resnet50())}
    counts = {arm: inspect(network, 224) for arm, network in networks.items()}
    reads = {arm: positions_read(network, SIZE) for arm, network in networks.items()}
    blocks = [module for module in networks[""].modules() if isinstance(module, Bottleneck)]
    strided = [b for b in blocks if max(*b.conv1.stride, *b.conv2.stride, *b.conv3.stride) > 1]
    figures = {STRIDED: Figure(len(strided)), IN_3X3: Figure(sum(max(b.conv2.stride) > 1 for b in strided))}
    for arm, found in counts.items():
        inside = {path: mask for path, mask in reads[arm].items() if path.startswith("layer")}
        figures |= {f"MACs{arm}": Figure(found.macs), f"parameters{arm}": Figure(found.parameters)}
        figures[f"{READ}{arm}"] = Figure(min(100 * float(mask.double().mean()) for mask in inside.values()), "%")
    own, moved = (found.macs for found in counts.values())
    figures[f"more MACs than {MOVED}"] = Figure(100 * (own / moved - 1), "%")
    masks = {arm: next(mask for path, mask in r.items() if path.startswith("layer2")) for arm, r in reads.items()}
    return Measured(figures, {"read": {arm: mask.int().tolist() for arm, mask in masks.items()}})


def judge(measured: Measured) -> Judgement:
    """In the 3×3, and is everything read?"""
    decided_by = (IN_3X3, STRIDED, READ)
    in_3x3, strided, read = (measured.value(name) for name in decided_by)
    if in_3x3 == strided > 0 and read == 100:
        return Judgement(Verdict.HOLDS, "All have it in the 3×3, and every position is read.", decided_by)
    if in_3x3 == strided > 0:
        return Judgement(Verdict.IN_PART, "All have it in the 3×3, but some positions are never read.", decided_by)
    if in_3x3 or read == 100:
        return Judgement(Verdict.IN_PART, "Only some have it in the 3×3, or other layers read the rest.", decided_by)
    return Judgement(Verdict.FAILS, "None has it in the 3×3, and some positions are never read.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """The map of one block, in both networks."""
    panels = canvas.subplots(1, 2)
    names = ("as it is", MOVED)
    for axes, name, (arm, mask) in zip(panels, names, measured.series["read"].items(), strict=True):
        axes.pcolormesh(mask, cmap="Blues", vmin=0, vmax=1.3, edgecolors="0.9")
        axes.set(aspect="equal", xlabel="column", ylabel="row", xticks=[], yticks=[])
        axes.set_title(f"{name}: {measured.value(f'MACs{arm}') / 1e9:.2f} G MACs", fontsize=10)


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """Run each network once, for the gradient of what its convolutions with a stride read."""
    return measure_each(_shares, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """Is everything read?"""
    return judge_each(_judge_shares, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """The least and the mean share of each network."""
    network_bars(canvas.subplots(), measured, {"least": "least read", "mean": "read on average"}, "positions read, %")


def _shares(name: str, network: nn.Module) -> Measured:
    shares = [100 * float(mask.double().mean()) for mask in positions_read(network, image_size(network)).values()]
    figures = {"least read": Figure(min(shares), "%"), "read on average": Figure(sum(shares) / len(shares), "%")}
    return Measured(figures | {"convolutions with a stride": Figure(len(shares))})


def _judge_shares(measured: Measured) -> Judgement:
    if measured.value("least read") > 75:  # a border may be left out; a strided 1×1 leaves out three quarters
        return Judgement(Verdict.HOLDS, "Most positions are read everywhere.", ("least read",))
    return Judgement(Verdict.FAILS, "Somewhere a quarter of the positions or more is read by nothing.", ("least read",))
