"""Claim 43: channels of the width multiplier, and the rates of stochastic depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vertebra.anatomy import inspect
from vertebra.lab.charts import BLUE, COLORS, GREY
from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Setup, Verdict
from vertebra.lab.small_networks import seeded
from vertebra.models import efficientnet_b0, mobilenet_v2
from vertebra.models.mbconv import MBConv
from vertebra.models.state_dict import meta_build

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_WIDTHS, _PARAMETERS = (0.75, 0.5, 0.35), (2_636_424, 1_968_680, 1_677_128)
CLAIM = Claim(
    family="MobileNetV2, EfficientNet",
    stated_by="code l.823–826, 856–863, 1149–1150",
    claim="The width multiplier is rounded to multiples of 8; stochastic depth rises with the block, 0.2·i/16 in B0.",
    claim_ja="幅の倍率を掛けたチャンネル数は8の倍数に丸められる。確率的深さでブロックを飛ばす確率は、奥のブロックほど高い(B0では0.2·i/16)。",
    should_hold="All channels of MobileNetV2 × 0.75, 0.5 and 0.35 are multiples of 8, and the head stays at 1,280. "
    "B0's rates rise evenly; 6 positive ones are on blocks without a skip, where they do nothing.",
    source="counts of torchvision 0.29",
    rule="Holds if in MobileNetV2 of all three widths every convolution has a multiple of 8 channels and at least 90 % "
    "of the product, stem and block outputs less than 8 from it, and B0's rates are 0.2·i/16 for its blocks i = 0 to "
    "15; in part if one of the two is so; else it does not hold.",
    decided_by=(Kind.COUNT,),
    title="Channels by width multiplier, and the probability to drop a block",
    caption="Left: channels of MobileNetV2's convolutions; lines are width × channels, before rounding. Right: grey "
    "blocks of EfficientNet-B0 have no skip, and dropping them does nothing.",
    seconds=1,
    expected={
        **{f"× {w}: parameters": Expected(n, "counts") for w, n in zip(_WIDTHS, _PARAMETERS, strict=True)},
        **{f"× {w}: MACs": Expected(n, "counts", 0.001) for w, n in zip(_WIDTHS, (209.1, 97.1, 59.3), strict=True)},
        "× 0.35: channels of the head": Expected(1280, "counts"),
        "B0: blocks that dropping skips": Expected(9, "counts"),
        "B0: mean number of blocks dropped": Expected(0.96, "counts", 0.005),
        "B0: positive rates that do nothing": Expected(6, "counts"),
    },
)
_UNEVEN, _FEWEST = "convolutions of no multiple of 8", "fewest channels, of the product"
_RATES, _IDLE = "B0: largest difference from 0.2·i/16", "B0: positive rates that do nothing"
_FARTHEST = "stem and block outputs, farthest from the product"


def measure(
    setup: Setup, mobilenet: Callable[..., nn.Module] = mobilenet_v2, b0: Callable[[], nn.Module] = efficientnet_b0
) -> Measured:
    """Count three widths at 224 × 224; read B0's rates, and see for each block whether dropping it does anything."""
    with meta_build():
        base, *networks = mobilenet_v2(), *(mobilenet(width_mult=width) for width in _WIDTHS)
    whole = _channels(base)
    figures: dict[str, Figure] = {}
    pairs: dict[str, list[list[int]]] = {}
    for width, network in zip(_WIDTHS, networks, strict=True):
        anatomy, (*channels, head) = inspect(network, 224), _channels(network)
        figures[f"× {width}: parameters"] = Figure(anatomy.parameters)
        figures[f"× {width}: MACs"] = Figure(anatomy.macs / 1e6, "M MACs")
        figures[f"× {width}: channels of the head"] = Figure(head)
        pairs[str(width)] = [[c, scaled] for c, scaled in zip(whole, channels, strict=False)]
    every = [(float(width), *pair) for width, own in pairs.items() for pair in own]
    figures[_UNEVEN] = Figure(sum(scaled % 8 > 0 for *_, scaled in every))
    figures[_FEWEST] = Figure(100 * min(s / (width * c) for width, c, s in every), "%")
    narrow = [w * c - own[i][1] for w, own in zip(_WIDTHS, pairs.values(), strict=True) for i, c in _narrow(base)]
    figures[_FARTHEST] = Figure(max(map(abs, narrow)), "channels")
    blocks = [block for block in seeded(b0, 0).eval().modules() if isinstance(block, MBConv)]
    rates, skips = [block.stochastic_depth.p for block in blocks], [_is_dropped(block) for block in blocks]
    figures |= {
        _RATES: Figure(max(abs(rate - 0.2 * i / len(blocks)) for i, rate in enumerate(rates))),
        "B0: blocks that dropping skips": Figure(sum(skips)),
        "B0: mean number of blocks dropped": Figure(sum(rate for rate, skip in zip(rates, skips, strict=True) if skip)),
        _IDLE: Figure(sum(rate > 0 and not skip for rate, skip in zip(rates, skips, strict=True))),
    }
    return Measured(figures, {"pairs": pairs, "rates": rates, "skips": skips})


def _channels(network: nn.Module) -> list[int]:
    """Output channels of each convolution, in order; the last is the head's."""
    return [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]


def _narrow(network: nn.Module) -> list[tuple[int, int]]:
    """Place and channels of the stem and of each block's last convolution, that are rounded; the others follow them."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)][:-1]
    return [(i, c.out_channels) for i, c in enumerate(convolutions) if not i or c.out_channels < c.in_channels]


def _is_dropped(block: Any) -> bool:
    """Whether a block that is always dropped returns its input; one that has no skip takes no notice."""
    first = next(module for module in block.modules() if isinstance(module, nn.Conv2d))
    images = torch.randn(1, first.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    block.stochastic_depth.p = 1.0
    block.stochastic_depth.train()
    with torch.no_grad():
        return torch.equal(block(images), images)


def judge(measured: Measured) -> Judgement:
    """Multiples of 8, and rates that rise as they should?"""
    rounded = measured.value(_UNEVEN) == 0 and measured.value(_FEWEST) >= 90 and measured.value(_FARTHEST) < 8
    rises, decided_by = measured.value(_RATES) < 1e-9, (_UNEVEN, _FARTHEST, _RATES, _IDLE)
    if rounded and rises:
        reason = "Channels are rounded so and rates rise so; those of blocks without a skip do nothing."
        return Judgement(Verdict.HOLDS, reason, decided_by)
    if rounded:
        return Judgement(Verdict.IN_PART, "Channels are rounded so, but the rates are others.", decided_by)
    if rises:
        return Judgement(Verdict.IN_PART, "The rates rise so, but channels are not rounded so.", decided_by)
    return Judgement(Verdict.FAILS, "Neither are channels rounded so, nor do the rates rise so.", decided_by)


def draw(measured: Measured, canvas: Canvas) -> None:
    """Channels before and after rounding; rates by block."""
    left, right = canvas.subplots(1, 2)
    for (width, pairs), color in zip(measured.series["pairs"].items(), COLORS, strict=False):
        counts = sorted({c for c, _ in pairs})
        left.plot(counts, [float(width) * c for c in counts], "-", color=color, linewidth=0.8)
        left.plot(*zip(*pairs, strict=True), "o", color=color, markersize=4, label=f"width {width}")
    left.set(xscale="log", yscale="log", xlabel="channels at width 1", ylabel="channels")
    left.legend()
    colors = [BLUE if skip else GREY for skip in measured.series["skips"]]
    right.bar(range(len(colors)), measured.series["rates"], color=colors)
    right.set(xlabel="block i of EfficientNet-B0", xticks=range(0, len(colors), 3), ylabel="probability to drop it")
