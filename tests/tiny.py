"""Tiny networks of the six families' own classes, which stand for the papers' in tests; conftest.py gives them out.

As a script it is `vertebra` with these networks under the registered names: `python tests/tiny.py train …`.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock


def _tiny_vgg(
    num_classes: int = 1000, in_channels: int = 3, batch_norm: bool = False, init_weights: bool = True, **options: Any
) -> Any:
    from torch import nn

    from vertebra.models.vgg import VGG, make_layers

    column: list[int | str] = [8, "M", 8, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"]
    with mock.patch.object(VGG, "pooled_size", 16 * 7 * 7), mock.patch.object(VGG, "hidden_size", 32):
        network = VGG(nn.Sequential(), num_classes, init_weights=False, **options)
    network.features = make_layers(column, batch_norm, in_channels)
    if init_weights:
        network._initialise()
    return network


def _tiny_googlenet(num_classes: int = 1000, **options: Any) -> Any:
    from torch import nn

    from vertebra.models.googlenet import BasicConv2d, GoogLeNet, Inception, InceptionAux

    def conv(inputs: int, outputs: int, **more: Any) -> nn.Module:
        return BasicConv2d(inputs if inputs < 8 else inputs // 8, outputs // 8, **more)

    def inception(*widths: int) -> nn.Module:
        block = Inception(*widths, conv_block=conv)
        block.out_channels //= 8
        return block

    def aux(inputs: int, classes: int, **more: Any) -> nn.Module:
        head = InceptionAux(inputs, classes, conv_block=conv, **more)
        head.fc1, head.fc2 = nn.Linear(256, 32), nn.Linear(32, classes)
        return head

    network = GoogLeNet(num_classes, blocks=(conv, inception, aux), **options)
    network.fc = nn.Linear(128, num_classes)
    network._initialise()
    return network


def _tiny_resnet(
    block: str = "BasicBlock", num_classes: int = 1000, widths: tuple[int, ...] = (16, 32, 64, 96), depth: int = 1,
    **options: Any,
) -> Any:  # fmt: skip
    from vertebra.models import resnet

    with mock.patch.object(resnet.ResNet, "widths", widths):
        return resnet.ResNet(getattr(resnet, block), [depth] * 4, num_classes, **options)


def _tiny_densenet(num_classes: int = 1000, **options: Any) -> Any:
    from vertebra.models.densenet import DenseNet

    return DenseNet(8, (2, 2, 2, 2), 16, num_classes=num_classes, **options)


def _tiny_mobilenet(num_classes: int = 1000, **options: Any) -> Any:
    from vertebra.models import mobilenetv2

    rows = [(1, 8, 1, 1), (6, 8, 1, 2), (6, 16, 2, 2), (6, 24, 1, 2), (6, 32, 1, 2)]
    with mock.patch.object(mobilenetv2, "_LAST_CHANNELS", 64):
        return mobilenetv2.MobileNetV2(num_classes, inverted_residual_setting=rows, **options)


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


def one_of_each(torchvision: bool = False) -> list[str]:
    """The name of each family's smallest network; with `torchvision` of those that torchvision has, the oracle."""
    from vertebra.model_table import FAMILIES, networks

    names = []
    for family in FAMILIES:
        rows = [row for row in networks().values() if row.family == family]
        rows = [row for row in rows if not (torchvision and row.default.url.startswith("package:"))]
        names += [row.name for row in sorted(rows, key=lambda row: row.default.parameters)[:1]]
    return names


# Builders by family; torch is imported when one is called.
TINY_BUILDERS: dict[str, Callable[..., Any]] = {
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
    return partial(TINY_BUILDERS[family], **options)


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
    from vertebra.models import build, get_family, get_model_builder, list_models, published_weights, registry

    def build_tiny(network: Any, weights_enum: Any, weights: Any, *arguments: Any, **options: Any) -> Any:
        name = registry.name_of(weights_enum)
        if not _whole and not isinstance(published_weights.resolve(weights_enum, weights), weights_enum):
            network = _constructor(name, get_family(name))
        return build.build(network, weights_enum, weights, *arguments, **options)

    with contextlib.ExitStack() as stack:
        for family, function in TINY_BUILDERS.items():
            module = importlib.import_module(f"vertebra.models.{family}")
            stack.enter_context(mock.patch.object(module, "build", build_tiny))
            builder = get_model_builder(list_models(family=family)[0])
            function.__annotations__["return"] = registry.network_class(builder)  # reading a file needs the class
        yield


if __name__ == "__main__":
    from vertebra.cli import run

    with tiny_names():
        run()
