"""Receptive fields by gradient: stacked kernels, the analytic ones of the families, cut-off and broken fields."""

import pytest
import torch
from torch import nn

from vertebra import inspect
from vertebra.errors import UsageError
from vertebra.introspect import receptive_field_by_gradient


def conv(kernel=3, channels=2, **options):
    return nn.Conv2d(channels, channels, kernel, **({"padding": kernel // 2} | options))


@pytest.mark.parametrize(
    ("layers", "side"),
    [([conv()], 3), ([conv(), nn.ReLU(), conv()], 5), ([conv(), conv(), conv()], 7), ([conv(5)], 5), ([conv(1)], 1)],
)
def test_stacked_kernels(layers, side):
    field = receptive_field_by_gradient(nn.Sequential(*layers), 15, str(len(layers) - 1))
    assert (field.height, field.width, field.pixels) == (side, side, side**2)
    assert (field.top, field.left) == (7 - side // 2,) * 2
    assert (field.cell, field.output_size, field.is_cut_off) == ((7, 7), (15, 15), False)


@pytest.mark.parametrize(
    ("family", "layer", "options"),
    [
        ("vgg", "features.11", {}),
        ("googlenet", "inception3b", {"aux_logits": False}),
        ("resnet", "layer2", {"block": "Bottleneck"}),
        ("densenet", "features.transition2", {}),
        ("mobilenetv2", "features.4", {}),  # ReLU6 saturates, and a maximum has one pixel: neither may hide any
        ("efficientnet", "features.3", {"kind": "lite"}),
    ],
)
def test_the_analytic_field(family, layer, options, tiny_network):
    network = tiny_network(family, **options)
    rows = [row for row in inspect(network, 160).rows if row.module == layer or row.module.startswith(f"{layer}.")]
    field = receptive_field_by_gradient(network, 160, layer)
    assert not field.is_cut_off
    assert (field.height, field.width) == rows[-1].receptive_field
    assert field.pixels == field.height * field.width


def test_a_gate_depends_on_the_whole_image(tiny_network):
    network = tiny_network("efficientnet")
    assert receptive_field_by_gradient(network, 96, "features.1.0.block.1").pixels == 96 * 96


def test_the_border_cuts_a_field_off():
    field = receptive_field_by_gradient(nn.Sequential(conv(), conv()), (9, 20), "1", cell=(0, 19))
    assert (field.top, field.left, field.height, field.width, field.pixels) == (0, 17, 3, 3, 9)
    assert field.is_cut_off


def test_holes():
    field = receptive_field_by_gradient(conv(3, dilation=2, padding=2), 15, "")
    assert (field.height, field.pixels) == (5, 9)
    skipped = receptive_field_by_gradient(nn.Sequential(conv(1, stride=2), conv()), 15, "1")
    assert (skipped.height, skipped.pixels) == (5, 9)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.AdaptiveMaxPool2d(5)]
)
def test_a_maximum_depends_on_its_window(pool):
    network = nn.Sequential(pool, nn.Hardtanh(0, 0.1))
    assert receptive_field_by_gradient(network, 15, "1", cell=(2, 2), channels=1).pixels == 9


def test_a_layer_that_depends_on_nothing():
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x

    field = receptive_field_by_gradient(Constant(), 8, "")
    assert (field.height, field.width, field.pixels) == (0, 0, 0)


def test_the_network_stays_and_may_be_on_meta(tiny_network):
    network = tiny_network("resnet").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    field = receptive_field_by_gradient(network, 96, "layer1")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert receptive_field_by_gradient(network.to("meta"), 96, "layer1") == field


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "layr2"}, r"no layer 'layr2'. Did you mean 'layer2'"),
        ({"layer": "layer1", "cell": (0, 99)}, r"cell is \(0, 99\), .* has 8 × 8 cells"),
        ({"layer": "layer1", "cell": (-1, 0)}, "cell is"),
        ({"layer": "fc"}, r"returns \(1, 5\); choose one"),
        ({"layer": "unused"}, "does not run in eval mode"),
    ],
)
def test_wrong_arguments(options, message, tiny_network):
    network = tiny_network("resnet")
    network.unused = nn.Identity()
    with pytest.raises(UsageError, match=message):
        receptive_field_by_gradient(network, 32, **options)


def test_a_dilated_maximum_is_refused():
    with pytest.raises(UsageError, match="dilated"):
        receptive_field_by_gradient(nn.MaxPool2d(3, dilation=2), 15, "", channels=1)
