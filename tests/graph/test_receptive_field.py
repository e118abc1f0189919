"""Receptive fields: the boxes of any cell against those by gradient, in every family and for every kind of padding."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vertebra import inspect
from vertebra.graph.receptive_field import ReceptiveFields
from vertebra.graph.rows import nodes_with_costs
from vertebra.graph.trace import trace_network
from vertebra.introspect import receptive_field_by_gradient


def fields_of(network, side):
    """Module that has run last → the field of its output and the output's sides."""
    shape = copy.deepcopy(network).eval().to("meta")
    graph = trace_network(shape, (torch.empty(1, 3, side, side, device="meta"),), {})
    fields, found = ReceptiveFields(graph), {}
    for node, cost in nodes_with_costs(graph):
        field = fields.update(node, cost)
        for path in (
            node.module[:end] for end in range(len(node.module) + 1) if node.module[end : end + 1] in ("", ".")
        ):
            found[path] = field, node.outputs[0].shape[2:]
        found[""] = field, node.outputs[0].shape[2:]
    return found


def box(field, cell, side):
    """(top, left, bottom, right) of a cell's field within the image."""
    first = [s + i * j for s, i, j in zip(field.start, cell, field.jump, strict=True)]
    last = [f + n for f, n in zip(first, field.size, strict=True)]
    return tuple(min(max(value, 0), side) for value in (*first, *last))


def box_by_gradient(network, side, layer, cell):
    found = receptive_field_by_gradient(network, side, layer, cell)
    return found.top, found.left, found.top + found.height, found.left + found.width


@pytest.mark.parametrize(
    ("family", "layer", "options", "side"),
    [
        ("vgg", "features.11", {}, 48),
        ("googlenet", "inception3b", {"aux_logits": False}, 75),  # behind poolings with ceil_mode
        ("resnet", "layer2", {"block": "Bottleneck"}, 75),
        ("densenet", "features.transition2", {}, 75),
        ("mobilenetv2", "features.4", {}, 75),
        ("efficientnet", "features.3", {"kind": "lite"}, 96),  # pads below and on the right
        ("efficientnet", "features.3", {"kind": "lite"}, 75),  # pads on all sides alike
        ("efficientnet", "features.0", {}, 75),
    ],
)
def test_boxes_are_those_of_the_gradient(family, layer, options, side, tiny_network):
    network = tiny_network(family, **options)
    field, (height, width) = fields_of(network, side)[layer]
    for cell in ((height // 2, width // 2), (0, 0), (height - 1, width // 3), (0, width - 1)):
        assert box(field, cell, side) == box_by_gradient(network, side, layer, cell), cell


class Net(nn.Module):
    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def conv(kernel, **options):
    return nn.Conv2d(3, 3, kernel, **options)


@pytest.mark.parametrize(
    "network",
    [
        Net(lambda m, x: m.a(F.pad(x, (2, 0, 0, 1))), a=conv(3)),  # columns and rows are padded differently
        Net(lambda m, x: m.a(F.pad(x, (0, 1), mode="constant")), a=conv((1, 5), padding=(0, 2))),
        Net(lambda m, x: m.a(x[:, :, :]) + m.b(F.pad(x, (1, 3, 1, 3))), a=conv(3, padding=1), b=conv(5)),
        Net(lambda m, x: m.a(F.pad(x, (0, 2, 0, 2))) + m.b(F.pad(x, (2, 0, 2, 0))), a=conv(3), b=conv(3)),
        Net(lambda m, x: m.b(m.a(F.pad(x, (-2, -1, -1, 0)))), a=conv(3, stride=2, dilation=2), b=conv(2)),
        Net(lambda m, x: F.max_pool2d(m.a(x), 3, 2, ceil_mode=True), a=conv(4, stride=3, padding=2)),
        Net(lambda m, x: F.avg_pool2d(m.a(x), (2, 3), padding=(1, 0)), a=conv(3, padding="same")),
        Net(lambda m, x: m.a(x).mean((2, 3), keepdim=True), a=conv(3, padding=1)),
    ],
    ids=[
        "unequal-pad",
        "one-side",
        "longer-branch",
        "shifted-branches",
        "crop",
        "ceil-mode",
        "avg-pool",
        "global-pool",
    ],
)
def test_paddings(network):
    field, (height, width) = fields_of(network, 20)[""]
    for cell in ((height // 2, width // 2), (0, 0), (height - 1, width - 1)):
        assert box(field, cell, 20) == box_by_gradient(network, 20, "", cell), cell


def test_where_two_shifted_paths_meet_both_count():
    network = Net(lambda m, x: m.a(F.pad(x, (0, 2, 0, 2))) + m.b(F.pad(x, (2, 0, 2, 0))), a=conv(3), b=conv(3))
    field, _ = fields_of(network, 20)[""]
    assert (field.start, field.size, field.jump) == ((-2, -2), (5, 5), (1, 1))
    assert inspect(network, 20).rows[-1].receptive_field == (5, 5)


def test_a_gate_adds_the_whole_input_and_keeps_the_box(tiny_network):
    fields = fields_of(tiny_network("efficientnet"), 64)
    inner, gated = fields["features.1.0.block.0"][0], fields["features.1.0.block.1"][0]
    assert (gated.size, gated.start, gated.sees_all) == (inner.size, inner.start, True)
    assert not inner.sees_all
