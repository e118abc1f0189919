"""Costs by kind of layer."""

import pytest
from torch import nn

from vertebra.anatomy import inspect
from vertebra.lab.cost_shares import COSTS, KINDS, costs, costs_by, layer_kind, shares

NETWORK = nn.Sequential(
    nn.Conv2d(3, 8, 3, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.Conv2d(8, 8, 3, groups=8, bias=False),
    nn.Conv2d(8, 4, 1, bias=False),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(4, 2),
)


def test_each_kind_has_its_own_costs():
    kinds = costs_by(layer_kind, inspect(NETWORK, 8).layers)
    assert kinds["dense conv"] == {"parameters": 216, "MACs": 216 * 36, "activations": 8 * 36}
    assert kinds["depthwise conv"] == {"parameters": 72, "MACs": 72 * 16, "activations": 8 * 16}
    assert kinds["1×1 conv"] == {"parameters": 32, "MACs": 32 * 16, "activations": 4 * 16}
    assert kinds["fully connected"] == {"parameters": 10, "MACs": 8, "activations": 2}
    assert kinds["others"] == {"parameters": 16, "MACs": 0, "activations": 0}
    assert set(kinds) <= set(KINDS)


def test_the_parts_sum_to_the_whole():
    rows = inspect(NETWORK, 8).layers
    whole = costs(rows)
    assert (whole["parameters"], whole["MACs"]) == (inspect(NETWORK, 8).parameters, inspect(NETWORK, 8).macs)
    for cost in COSTS:
        assert sum(share[cost] for share in shares(costs_by(layer_kind, rows)).values()) == pytest.approx(100)


def test_a_network_without_parameters_has_shares_of_nothing():
    assert shares(costs_by(layer_kind, inspect(nn.Flatten(), 8).layers)) == {}
    pooled = shares(costs_by(layer_kind, inspect(nn.AvgPool2d(2), 8).layers))
    assert pooled == {"others": dict.fromkeys(COSTS, 0.0)}
