"""Tiny networks of the six families' own classes, which stand for the papers' in tests; conftest.py gives them out.

As a script it is `vertebra` with these networks under the registered names: `python tests/tiny.py train …`.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock


def _tiny_vgg(
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.5,
    batch_norm: bool = False,
    init_weights: bool = True,
) -> Any:
    from torch import nn

    from vertebra.models.state_dict import meta_build
    from vertebra.models.vgg import VGG, make_layers

    with meta_build():  # the constructor's classifier has 120 M parameters
        network = VGG(nn.Sequential(), num_classes)
    column: list[int | str] = [8, "M", 8, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"]
    network.features = make_layers(column, batch_norm, in_channels)
    network.classifier = nn.Sequential(
        nn.Linear(16 * 7 * 7, 32), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(32, 32), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(32, num_classes),
    )  # fmt: skip
    network._stages.clear()
    network._list_stages()
    if init_weights:
        network._initialise()
    return network


def _tiny_googlenet(num_classes: int = 1000, **options: Any) -> Any:
    from torch import nn

    from vertebra.models.googlenet import BasicConv2d, GoogLeNet, Inception, InceptionAux

    def conv(inputs: int, outputs: int, **more: Any) -> nn.Module:
        return BasicConv2d(inputs if inputs < 8 else inputs // 8, outputs // 8, **more)

    def inception(*widths: int) -> nn.Module:
        return Inception(*widths, conv_block=conv)

    def aux(inputs: int, classes: int, **more: Any) -> nn.Module:
        head = InceptionAux(inputs, classes, conv_block=conv, **more)
        head.fc1, head.fc2 = nn.Linear(256, 32), nn.Linear(32, classes)
        return head

    network = GoogLeNet(num_classes, blocks=(conv, inception, aux), **options)
    network.fc = nn.Linear(128, num_classes)
    network._stages = [replace(stage, channels=stage.channels // 8) for stage in network._stages]
    network._initialise()
    return network


def _tiny_resnet(
    block: str = "BasicBlock",
    num_classes: int = 1000,
    in_channels: int = 3,
    widths: tuple[int, ...] = (16, 32, 64, 96),
    depth: int = 1,
    **options: Any,
) -> Any:
    from torch import nn

    from vertebra.models.resnet import BasicBlock, Bottleneck, ResNet
    from vertebra.models.state_dict import meta_build

    kind = {"BasicBlock": BasicBlock, "Bottleneck": Bottleneck}[block]
    with meta_build():  # the constructor's widths are the paper's
        network = ResNet(kind, (1, 1, 1, 1), **options)
    network.inplanes, network.dilation = 16, 1
    network.conv1 = nn.Conv2d(in_channels, 16, kernel_size=7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(16)
    network._stages.clear()
    network._stage("stem", ["conv1", "bn1", "relu", "maxpool"], 16, 4)
    dilate = [False, *network.replace_stride_with_dilation]
    for number, width in enumerate(widths):
        layer = network._make_layer(kind, width, depth, 2 if number else 1, dilate[number])
        setattr(network, f"layer{number + 1}", layer)
    network.fc = nn.Linear(widths[-1] * kind.expansion, num_classes)
    network._initialise()
    return network


def _tiny_densenet(num_classes: int = 1000, **options: Any) -> Any:
    from vertebra.models.densenet import DenseNet

    return DenseNet(8, (2, 2, 2, 2), 16, num_classes=num_classes, **options)


def _tiny_mobilenet(num_classes: int = 1000, **options: Any) -> Any:
    from torch import nn

    from vertebra.models.mobilenetv2 import MobileNetV2

    rows = [(1, 8, 1, 1), (6, 8, 1, 2), (6, 16, 2, 2), (6, 24, 1, 2), (6, 32, 1, 2)]
    network = MobileNetV2(num_classes, inverted_residual_setting=rows, **options)
    last = len(network.features) - 1
    network.features[last][0] = nn.Conv2d(32, 64, 1, bias=False)  # the constructor has at least 1280
    network.features[last][1] = nn.BatchNorm2d(64)
    network.features[last].out_channels = 64
    network._stages[-1] = replace(network._stages[-1], channels=64)
    network.last_channel = 64
    network.classifier[-1] = nn.Linear(64, num_classes)
    network._initialise()
    return network


def _tiny_efficientnet(kind: str = "b", num_classes: int = 1000, **options: Any) -> Any:
    from torch import nn

    from vertebra.models.efficientnet import Conv2dSame, EfficientNet, FusedMBConvConfig, MBConvConfig, _lite_block

    make, fused = MBConvConfig, FusedMBConvConfig
    block = _lite_block if kind == "lite" else None
    rows = [
        fused(1, 3, 1, 16, 8, 1) if kind == "v2" else make(1, 3, 1, 16, 8, 1, block=block),
        fused(4, 3, 2, 8, 8, 1) if kind == "v2" else make(6, 3, 2, 8, 8, 1, block=block),
        make(6, 5, 2, 8, 16, 2, block=block),
        make(6, 3, 2, 16, 24, 1, block=block),
        make(6, 5, 2, 24, 32, 1, block=block),
    ]
    if kind == "lite":
        options = {"activation_layer": nn.ReLU6, "conv_layer": Conv2dSame} | options
    if kind == "v2":  # as the real ones
        options = {"norm_layer": partial(nn.BatchNorm2d, eps=1e-3), "min_size": 33} | options
    options = {"dropout": 0.2, "last_channel": 64} | options
    return EfficientNet(rows, num_classes=num_classes, **options)


# Builders by family; torch is imported when one is called.
FAMILIES: dict[str, Callable[..., Any]] = {
    "vgg": _tiny_vgg,
    "googlenet": _tiny_googlenet,
    "resnet": _tiny_resnet,
    "densenet": _tiny_densenet,
    "mobilenetv2": _tiny_mobilenet,
    "efficientnet": _tiny_efficientnet,
}


def _constructor(name: str, family: str) -> Callable[..., Any]:
    options: dict[str, Any] = {}
    if family == "vgg":
        options = {"batch_norm": name.endswith("_bn")}
    elif family == "efficientnet":
        options = {"kind": next((kind for kind in ("lite", "v2") if f"_{kind}" in name), "b")}
    elif family == "resnet":
        options = {"block": "BasicBlock" if name in ("resnet18", "resnet34") else "Bottleneck"}
        if name.startswith("resnext"):
            options |= {"groups": 4, "width_per_group": 16}
    return partial(FAMILIES[family], **options)


_whole: list[str] = []  # whether the papers' networks are built for a while


@contextlib.contextmanager
def whole_names() -> Iterator[None]:
    """Within `tiny_names`: the papers' networks again."""
    _whole.append("")
    try:
        yield
    finally:
        _whole.pop()


@contextlib.contextmanager
def tiny_names() -> Iterator[None]:
    """Each registered name builds the tiny network of its family, unless it is asked for with published weights."""
    from vertebra.models import registry

    def build(network: Any, weights_enum: Any, weights: Any, *arguments: Any, **options: Any) -> Any:
        name = registry._name_of(weights_enum)
        if not _whole and not isinstance(registry.resolve(weights_enum, weights), weights_enum):
            network = _constructor(name, registry.get_family(name))
        return registry.build(network, weights_enum, weights, *arguments, **options)

    with contextlib.ExitStack() as stack:
        for family, function in FAMILIES.items():
            module = importlib.import_module(f"vertebra.models.{family}")
            stack.enter_context(mock.patch.object(module, "build", build))
            cls = next(c for c in vars(module).values() if isinstance(c, type) and c.__name__.lower() == family)
            function.__annotations__["return"] = cls  # what reading a file asks for
        yield


if __name__ == "__main__":
    from vertebra.cli import run

    with tiny_names():
        run()
