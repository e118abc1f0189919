"""Claim 34: MBConv is the inverted residual plus squeeze-excitation, and whether channels mix without the gates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vertebra.anatomy import inspect
from vertebra.lab.charts import bars
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.small_networks import seeded
from vertebra.models import efficientnet_b0, mobilenet_v2
from vertebra.models.layers import SqueezeExcitation
from vertebra.models.mbconv import MBConv, MBConvConfig
from vertebra.models.mobilenetv2 import InvertedResidual

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CLAIM = Claim(
    family="EfficientNet",
    stated_by="article l.762, 923, 1018–1020",
    claim="MBConv is InvertedResidual plus SE; SE is there because depthwise does not mix channels.",
    claim_ja="MBConvは逆残差ブロックにSEを加えたものである。SEがあるのは、深さ方向畳み込みがチャンネルを混ぜないからである。",
    should_hold="Without SE and with ReLU6 it equals InvertedResidual bit for bit. A change in one channel stays in it "
    "through the depthwise convolution, but reaches all outputs of the projection even with the gates held.",
    source="torchvision 0.29; Hu 2018",
    rule="Holds if each block of MobileNetV2 equals an MBConv without SE, with ReLU6 and the same weights, bit for bit "
    "in evaluation and training, and a change in one widened channel changes at most one output of an MBConv whose "
    "gates are held; in part if only the blocks are equal; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="MBConv: how far a change in one channel reaches",
    caption="One of the widened channels is changed in a block of EfficientNet-B0 (untrained; 24 channels, widened to "
    "144, projected to 40). Bars: channels that differ behind each of its parts.",
    seconds=1,
    expected={
        "blocks equal bit for bit": Expected(17, "torchvision 0.29"),
        "channels changed behind the depthwise convolution": Expected(1, "torchvision 0.29"),
        "channels changed behind the gates": Expected(144, "torchvision 0.29"),
        "channels changed behind the projection, gates held": Expected(40, "torchvision 0.29"),
        "SE, share of B0's parameters": Expected(12.0, "counts", 0.005),
        "SE, share of B0's MACs": Expected(0.16, "counts", 0.03),
        "B0: blocks with a 5×5": Expected(9, "torchvision 0.29"),
    },
)
Block = Callable[[int, int, int, float], nn.Module]


def _without_se(inp: int, oup: int, stride: int, expand_ratio: float) -> nn.Module:
    config = MBConvConfig(expand_ratio, 3, stride, inp, oup, 1)
    return MBConv(config, 0.0, nn.BatchNorm2d, None, activation_layer=nn.ReLU6)


def measure(setup: Setup, like: Block = _without_se, b0: Callable[[], nn.Module] = efficientnet_b0) -> Measured:
    """Compare all blocks of MobileNetV2; then change a channel in the first block of B0's stage 3, 24 → 144 → 40."""
    pairs: list[tuple[int, nn.Module, nn.Module]] = []

    def record(inp: int, oup: int, stride: int, expand_ratio: float, norm_layer: Any) -> nn.Module:
        pairs.append((inp, InvertedResidual(inp, oup, stride, expand_ratio), like(inp, oup, stride, expand_ratio)))
        return pairs[-1][1]

    seeded(partial(mobilenet_v2, block=record), 0)
    network: Any = seeded(b0, 0)
    figures = {"blocks": Figure(len(pairs)), "blocks equal bit for bit": Figure(sum(_equal(*pair) for pair in pairs))}
    reach = _reach(network.features[3][0].eval())
    figures |= {f"channels changed behind {part}": Figure(count) for part, count in reach.items()}
    whole = inspect(network, 224)
    gates = tuple(f"{path}." for path, module in network.named_modules() if isinstance(module, SqueezeExcitation))
    own = [row for row in whole.rows if row.module.startswith(gates)]
    figures["SE, share of B0's parameters"] = Figure(100 * sum(row.parameters for row in own) / whole.parameters, "%")
    figures["SE, share of B0's MACs"] = Figure(100 * sum(row.macs for row in own) / whole.macs, "%")
    figures["B0: blocks with a 5×5"] = Figure(sum(row.weight_shape[2:] == (5, 5) for row in whole.rows))
    return Measured(figures, {"reach": reach})


def _equal(channels: int, block: nn.Module, other: nn.Module) -> bool:
    """Whether both compute the same, bit for bit, once they have the same weights."""
    own, others = list(block.state_dict().values()), list(other.state_dict().values())
    if [value.shape for value in own] != [value.shape for value in others]:
        return False
    generator = torch.Generator().manual_seed(0)
    for value, copied in zip(own, others, strict=True):
        if value.ndim == 1:  # of a norm, which would otherwise be the identity
            value.uniform_(0.5, 1.5, generator=generator)
        copied.copy_(value)
    images = torch.randn(2, channels, 14, 14, generator=generator)
    with torch.no_grad():
        return all(torch.equal(block.train(mode)(images), other.train(mode)(images)) for mode in (False, True))


def _reach(block: Any) -> dict[str, int]:
    """Channels that differ behind each part, where one of the widened channels is changed."""
    _, depthwise, gate, project = block.block
    images = torch.randn(1, depthwise[0].in_channels, 28, 28, generator=torch.Generator().manual_seed(0))
    changed = images + torch.eye(images.shape[1])[0, :, None, None]
    held: list[Tensor] = []

    def differing(layer: Callable[[Tensor], Tensor]) -> int:
        return int((layer(images) != layer(changed)).flatten(2).any(2).sum())

    with torch.no_grad():
        reach = {"the depthwise convolution": differing(depthwise)}
        reach["the gates"] = differing(lambda x: gate(depthwise(x)))
        hook = gate.scale_activation.register_forward_hook
        handles = hook(lambda *call: held.append(call[-1])), hook(lambda *call: held[0])
        reach["the projection, gates held"] = differing(lambda x: project(gate(depthwise(x))))
    for handle in handles:
        handle.remove()
    return reach


def judge(measured: Measured) -> Judgement:
    """Are the blocks equal, and do channels mix without the gates?"""
    held = "channels changed behind the projection, gates held"
    decided_by = ("blocks equal bit for bit", "blocks", held, "channels changed behind the depthwise convolution")
    if measured.value("blocks equal bit for bit") != measured.value("blocks"):
        return Judgement(Verdict.FAILS, "Without SE it is another block than InvertedResidual.", decided_by)
    if measured.value(held) <= 1:
        return Judgement(Verdict.HOLDS, "Without SE it is InvertedResidual, and its channels do not mix.", decided_by)
    reason = "Without SE it is InvertedResidual, but its 1×1 convolutions mix the channels also without the gates."
    return Judgement(Verdict.IN_PART, reason, decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Channels that differ behind each part."""
    bars(canvas.subplots(), {f"behind {part}": n for part, n in measured.series["reach"].items()}, "channels changed")
