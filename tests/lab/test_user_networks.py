"""The user's own networks: which are refused, and at which size one is measured."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.user_networks import SIZES, image_shape, inspect_own, load_networks, random_images


def pooled(channels=3):
    return nn.Sequential(nn.Conv2d(channels, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def flattened(side, channels=3, stated=None):
    network = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.Flatten(), nn.Linear(2 * side**2, 2))
    if stated is not None:
        network.input_size = stated
    return network


class Viewed(nn.Module):
    """At a larger size it makes several rows of one image."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 2)

    def forward(self, x):
        return self.fc(x.reshape(-1, 3 * 32 * 32))


class Functional(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, channels, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (pooled(), (3, 224, 224)),
        (pooled(1), (1, 224, 224)),
        (flattened(48), (3, 48, 48)),
        (flattened(16, 1), (1, 16, 16)),
        (Viewed(), (3, 32, 32)),
        (Functional(1), (1, 224, 224)),
        (flattened(40, stated=40), (3, 40, 40)),
        (flattened(40, 5, stated=(5, 40, 40)), (5, 40, 40)),
        (flattened(32, stated=(7, 7)), (3, 32, 32)),
        (flattened(32, stated="no size"), (3, 32, 32)),
    ],
)
def test_a_network_is_measured_at_its_own_size(network, shape):
    load_networks([network])
    assert image_shape(network) == random_images(network, 1).shape[1:] == shape
    assert inspect_own(network).input_shapes == ((1, *shape),)


def test_a_size_that_nothing_tells_is_asked_for():
    with pytest.raises(UsageError) as caught:
        load_networks([flattened(40)])
    assert str(caught.value).startswith("Sequential does not run on images of 3 × 224 × 224: ")
    assert ", ".join(map(str, SIZES)) in str(caught.value) and "network.input_size = 40" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (pooled().half(), r"is in float16: return it as float32 \(.float\(\)\)"),
        (pooled().bfloat16(), "is in bfloat16"),
        (pooled().double(), "is in float64"),
        (pooled().to("meta"), "is on the meta device: it has no values. Return it built on the CPU"),
        (nn.Sequential(nn.LazyConv2d(2, 1), nn.Flatten()), "has lazy layers, whose sizes are not known yet"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "has no parameters, so there is nothing to measure"),
        (nn.Sequential(nn.Conv2d(3, 2, 1)), "does not return logits .* so it is no classifier.$"),
    ],
)
def test_a_network_without_values_in_float32_is_refused(network, message):
    with pytest.raises(UsageError, match=f"^Sequential {message}"):
        load_networks([network])


def test_a_quantised_network_is_refused():
    quantised = pooled()
    quantised[0].__class__ = type("Conv2d", (nn.Conv2d,), {"__module__": "torch.ao.nn.quantized.modules.conv"})
    with pytest.raises(UsageError, match=r"^Sequential is quantised"):
        load_networks([quantised])
