"""Claim 33: what MobileNetV2 has of GoogLeNet, ResNet and DenseNet, by the operations of its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import nn

from vertebra.anatomy import inspect
from vertebra.graph.rows import Row
from vertebra.introspect import find_additions, find_concatenations, find_gates
from vertebra.lab.charts import network_bars
from vertebra.lab.each_network import judge_each, measure_each
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.user_networks import image_shape, image_size
from vertebra.models import ConvNet, create_model
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="MobileNetV2",
    stated_by="article l.757–761",
    claim="MobileNet joins GoogLeNet's saving, ResNet's stable gradients and DenseNet's reuse.",
    claim_ja="MobileNetは、GoogLeNetの計算量の少なさ、ResNetの勾配の安定性、DenseNetの特徴の再利用を受け継ぐ。",
    should_hold="The graph of MobileNetV2 has 10 additions and no concatenation; GoogLeNet's has 9 concatenations and "
    "DenseNet-121's 62.",
    source="torchvision 0.29",
    rule="Three things can be inherited: fewer MACs than GoogLeNet's, additions of a shortcut as in ResNet, and "
    "concatenations as in DenseNet. Holds if MobileNetV2 has all three, in part if one or two, else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Operations that join feature maps, and MACs, of each family",
    caption="Left: ResNet's shortcuts are additions, DenseNet's reuse of features is concatenation, squeeze-excitation "
    "is a gate. Right: MACs at 224 × 224, or at the size that a network of yours is for.",
    networks_title="Operations that join feature maps, and MACs",
    seconds=2,
    expected={
        "mobilenet_v2: additions": Expected(10, "torchvision 0.29"),
        "mobilenet_v2: concatenations": Expected(0, "torchvision 0.29"),
        "googlenet: concatenations": Expected(9, "torchvision 0.29"),
        "densenet121: concatenations": Expected(62, "torchvision 0.29"),
    },
)
_FAMILIES = ("vgg16", "googlenet", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "efficientnet_v2_s")
_JOINS: dict[str, Callable[[Sequence[Row]], Sequence[Any]]] = {
    "additions": find_additions,
    "concatenations": find_concatenations,
    "gates": find_gates,
}
_SHARE = "MACs, of GoogLeNet's"


def measure(setup: Setup, mobilenet: nn.Module | None = None) -> Measured:
    """Count in the graphs of all families at 224 × 224; `mobilenet` stands for MobileNetV2."""
    with meta_build():
        networks: dict[str, nn.Module] = {name: create_model(name) for name in _FAMILIES}
    return measure_networks(setup, networks | ({} if mobilenet is None else {"mobilenet_v2": mobilenet}))


def judge(measured: Measured) -> Judgement:
    """What of the three does MobileNetV2 have?"""
    return _judge(measured, "mobilenet_v2: ")


def _judge(measured: Measured, prefix: str = "") -> Judgement:
    saves = measured.value(f"{prefix}{_SHARE}") < 100
    adds, concatenates = (measured.value(f"{prefix}{join}") > 0 for join in ("additions", "concatenations"))
    verdict = {3: Verdict.HOLDS, 0: Verdict.FAILS}.get(saves + adds + concatenates, Verdict.IN_PART)
    reason = {
        (True, True, True): "It saves arithmetic, adds shortcuts and concatenates feature maps.",
        (True, True, False): "It saves arithmetic and adds shortcuts, but concatenates nothing as DenseNet does.",
        (True, False, True): "It saves arithmetic and concatenates, but adds no shortcut as ResNet does.",
        (False, True, True): "It adds shortcuts and concatenates, but has no fewer MACs than GoogLeNet.",
        (True, False, False): "It saves arithmetic, but neither adds shortcuts nor concatenates.",
        (False, True, False): "It adds shortcuts, but has no fewer MACs than GoogLeNet and concatenates nothing.",
        (False, False, True): "It concatenates, but has no fewer MACs than GoogLeNet and adds no shortcut.",
        (False, False, False): "It has no fewer MACs than GoogLeNet, adds no shortcut and concatenates nothing.",
    }[saves, adds, concatenates]
    return Judgement(verdict, reason, tuple(f"{prefix}{name}" for name in ("additions", "concatenations", _SHARE)))


def draw(measured: Measured, canvas: Canvas) -> None:
    """Joins, and MACs."""
    left, right = canvas.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    network_bars(left, measured, {join: join for join in _JOINS}, "operations in the graph")
    network_bars(right, measured, {"MACs": "MACs"}, "MACs, 10⁹", 1e3)
    right.get_legend().remove()
    right.invert_yaxis()  # once more: the axis is shared


def measure_networks(setup: Setup, networks: Mapping[str, nn.Module]) -> Measured:
    """The same counts for each network, and GoogLeNet's MACs at the same size."""
    with meta_build():
        googlenet = create_model("googlenet")
    macs_of_googlenet = cache(lambda side: inspect(googlenet, side).macs)

    def count(_: str, network: nn.Module) -> Measured:
        is_own = isinstance(network, ConvNet)
        side = 224 if is_own else image_size(network)
        anatomy, reference = inspect(network, side if is_own else image_shape(network)), macs_of_googlenet(side)
        figures = {name: Figure(len(find(anatomy.rows))) for name, find in _JOINS.items()}
        figures["MACs"] = Figure(anatomy.macs / 1e6, "M MACs")
        return Measured(figures | {_SHARE: Figure(100 * anatomy.macs / reference, "%")})

    return measure_each(count, networks, setup)


def judge_networks(measured: Measured) -> Judgement:
    """The same rule for each."""
    return judge_each(_judge, measured)


def draw_networks(measured: Measured, canvas: Canvas) -> None:
    """The same for each."""
    draw(measured, canvas)
