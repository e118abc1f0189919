"""Gates of squeeze-excitation: found, recorded, described and replaced."""

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import (
    GateLayer,
    changed_gates,
    channel_mean_gates,
    gate_layers,
    gate_statistics,
    layer_mean_gates,
    other_image_gates,
    record_gates,
)


class Squeeze(nn.Module):
    """As in implementations with linear layers: gates (N, C) from a Sequential, here σ(mean of the channel)."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Sigmoid())
        nn.init.eye_(self.fc[0].weight)

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return x * torch.sigmoid(self.inner(x).mean((2, 3), keepdim=True))


# Two images of two channels with the means 0 and 1, 2 and 3.
IMAGES = torch.arange(4.0).view(2, 2, 1, 1).expand(2, 2, 2, 2).contiguous()
GATES = torch.arange(4.0).sigmoid().view(2, 2)


def test_gates_are_found_and_recorded():
    net = nn.Sequential(nn.Identity(), Squeeze(), nn.Dropout()).eval()
    assert gate_layers(net, IMAGES) == (GateLayer("1", "1.fc", 2),)
    assert torch.allclose(record_gates(net, IMAGES)["1"], GATES)
    recorded = record_gates(net, iter([IMAGES[:1], IMAGES[1:]]))
    assert torch.allclose(recorded["1"], GATES)


def test_gates_behind_a_norm_of_zeros_are_found():
    norm = nn.BatchNorm2d(2)
    nn.init.zeros_(norm.weight)
    assert gate_layers(nn.Sequential(norm, nn.Sequential(Squeeze())), IMAGES) == (GateLayer("1.0", "1.0.fc", 2),)


def test_statistics_are_those_of_the_formulas():
    gates = torch.tensor([[0.0, 1.0], [0.2, 0.6], [0.4, 0.8], [0.6, 0.4]])
    (found,) = gate_statistics({"se": gates}, [0, 0, 1, 1])
    assert found.path == "se"
    assert found.mean == pytest.approx(0.5)
    assert found.channel_spread == pytest.approx(0.2)  # means 0.3 and 0.7
    assert found.image_spread == pytest.approx(0.05**0.5)
    assert found.class_spread == pytest.approx((0.2 + 0.1) / 2)  # 0.1 and 0.5; 0.8 and 0.6
    assert gate_statistics({"se": gates})[0].class_spread is None
    with pytest.raises(UsageError, match=r"4 images in the gates of 'se', and labels of shape \(3,\)"):
        gate_statistics({"se": gates}, [0, 1, 1])


@pytest.mark.parametrize(
    ("change", "gates"),
    [
        (channel_mean_gates({"1": GATES}), GATES.mean(0).expand(2, 2)),
        (layer_mean_gates({"1": GATES}), GATES.mean().expand(2, 2)),
        (other_image_gates, GATES.flip(0)),
        (lambda path, gates: torch.ones_like(gates), torch.ones(2, 2)),
    ],
)
def test_gates_are_replaced_for_a_while(change, gates):
    net = nn.Sequential(nn.Identity(), Squeeze())
    before = net(IMAGES)
    with changed_gates(net, gate_layers(net, IMAGES), change):
        assert torch.allclose(net(IMAGES), IMAGES * gates[:, :, None, None])
    with pytest.raises(KeyError), changed_gates(net, gate_layers(net, IMAGES), change):
        raise KeyError
    assert torch.equal(net(IMAGES), before)


def test_another_image_is_needed():
    with pytest.raises(UsageError, match="at least two images"):
        other_image_gates("1", GATES[:1])


@pytest.mark.parametrize(
    ("family", "options", "count"),
    [("efficientnet", {}, 6), ("efficientnet", {"kind": "v2"}, 4), ("efficientnet", {"kind": "lite"}, 0),
     ("resnet", {}, 0), ("densenet", {}, 0), ("googlenet", {}, 0)],
)  # fmt: skip
def test_families(family, options, count, tiny_network):
    net = tiny_network(family, **options).train()
    images = torch.randn(3, 3, 64, 64)
    if not count:
        with pytest.raises(UsageError, match="no gates were found in this"):
            gate_layers(net, images)
        return
    state = {name: value.clone() for name, value in net.state_dict().items()}
    layers = gate_layers(net, images)
    assert [layer.gate_path for layer in layers] == [f"{layer.path}.scale_activation" for layer in layers]
    assert len(layers) == count
    recorded = record_gates(net, images)
    assert all(gates.shape == (3, layer.channels) for gates, layer in zip(recorded.values(), layers, strict=True))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_gates_without_a_module_are_refused():
    with pytest.raises(UsageError, match=r"nn\.Sigmoid"):
        gate_layers(Functional(), IMAGES)
