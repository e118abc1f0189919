"""Parameter groups, frozen stages and dropout rates."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch

from vertebra.errors import UsageError
from vertebra.models import create_model
from vertebra.train import Settings
from vertebra.train import optimizer as optimizers


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_groups_hold_every_parameter_once(name):
    network = create_model("resnet18", weights=None, num_classes=3)
    chosen = settings(optimizer=name, layer_decay=0.5, norm_weight_decay=0.0, weight_decay=0.1)
    optimizer = optimizers.build_optimizer(network, chosen)
    of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(of) == len(list(network.parameters()))
    stages = len(network.stages)
    assert of[network.fc.weight]["scale"] == 1
    assert of[network.layer4[0].conv1.weight]["scale"] == 0.5
    assert of[network.conv1.weight]["scale"] == 0.5**stages
    assert of[network.conv1.weight]["weight_decay"] == 0.1
    assert of[network.bn1.weight]["weight_decay"] == of[network.fc.bias]["weight_decay"] == 0
    optimizers.set_learning_rate(optimizer, 2.0)
    assert of[network.layer4[0].conv1.weight]["lr"] == 1.0


def test_what_is_frozen_stays():
    network = create_model("resnet18", weights=None)
    frozen = settings(freeze=2)
    optimizers.freeze(network, 2)
    optimizers.set_training(network, frozen)
    assert not network.conv1.weight.requires_grad
    assert not network.bn1.training
    assert not network.layer1[0].conv1.weight.requires_grad
    assert network.layer2.training
    with pytest.raises(UsageError, match=r"freeze is 9, and the network has \d stages"):
        optimizers.freeze(network, 9)


def test_dropout_grows_from_a_share_of_its_own():
    network = create_model("efficientnet_b0", weights=None)
    shares = optimizers.dropout_rates(network, settings())
    optimizers.set_dropout(network, shares, 0.5)
    assert network.classifier[0].p == pytest.approx(0.1)
    assert set(optimizers.dropout_rates(network, settings(dropout=0.7)).values()) == {0.7}


def test_out_of_place_is_the_same_to_the_bit():
    torch.manual_seed(0)
    network = create_model("mobilenet_v2", weights=None, num_classes=3).train()
    images = torch.randn(4, 3, 32, 32)

    def gradient():
        torch.manual_seed(1)
        network.zero_grad()
        network(images).square().sum().backward()
        return network.features[0][0].weight.grad.clone()

    in_place = gradient()
    optimizers.disable_inplace(network)
    assert not network.features[0][2].inplace
    assert torch.equal(gradient(), in_place)
