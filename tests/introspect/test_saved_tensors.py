"""Bytes kept for the backward pass: known networks, layers whose formulas are known, and what must not count."""

import pytest
import torch
from torch import nn

from vertebra import models
from vertebra.introspect import SavedBytes, count_saved_bytes, saved_bytes_by_module
from vertebra.models.densenet import DenseBlock


@pytest.mark.parametrize(("memory_efficient", "known"), [(False, 128.9), (True, 61.3)])
def test_densenet_121(memory_efficient, known):
    """MB an image of a batch of two, without the positions of the max-pooling's maxima."""
    with torch.device("meta"):
        network, x = models.densenet121(memory_efficient=memory_efficient), torch.empty(2, 3, 224, 224)
    counted = count_saved_bytes(network, x)
    assert round((counted.activations + counted.input) / 2e6, 1) == known
    assert counted.indices == 2 * 64 * 56 * 56 * 8
    assert counted.input == x.nbytes


@pytest.mark.parametrize(
    ("layers", "known", "efficient"), [(6, 10.2, 5.5), (12, 27.7, 11.0), (24, 84.4, 21.8), (48, 284.6, 43.5)]
)
def test_a_dense_block_of_64_channels_grows_with_the_square_of_its_layers(layers, known, efficient):
    with torch.device("meta"):
        x = torch.empty(1, 64, 28, 28, requires_grad=True)
        blocks = [DenseBlock(layers, 64, 4, 32, 0.0, memory_efficient) for memory_efficient in (False, True)]
    assert [round(count_saved_bytes(block, x).total / 1e6, 1) for block in blocks] == [known, efficient]


def test_what_each_layer_keeps():
    x = torch.randn(2, 3, 8, 8)
    conv = nn.Conv2d(3, 4, 3)
    assert count_saved_bytes(conv, x) == SavedBytes(0, 0, x.nbytes, conv.weight.nbytes)
    assert count_saved_bytes(nn.ReLU(), x.clone().requires_grad_()) == SavedBytes(x.nbytes, 0, 0, 0)  # its output
    pooled = count_saved_bytes(nn.MaxPool2d(2), x.clone().requires_grad_())
    assert pooled == SavedBytes(0, 2 * 3 * 4 * 4 * 8, x.nbytes, 0)
    assert pooled.total == pooled.indices + x.nbytes
    assert count_saved_bytes(nn.ReLU(), x) == SavedBytes(0, 0, 0, 0)  # nothing needs a gradient


def test_a_storage_counts_once():
    class Twice(nn.Module):
        def forward(self, x):
            y = x.exp()  # kept as its own output
            return y * y.view(-1)[: y.numel()].view_as(y)  # and as both factors

    x = torch.randn(4, 5, requires_grad=True)
    assert count_saved_bytes(Twice(), x) == SavedBytes(x.nbytes, 0, 0, 0)


def test_meta_and_cpu_agree_and_nothing_changes(tiny_family, tiny_network):
    network = tiny_network(tiny_family).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # which is switched on
        counted = count_saved_bytes(network, x)
    assert counted.activations > x.nbytes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert count_saved_bytes(network.to("meta"), x.to("meta")) == counted


def test_checkpointing_keeps_less(tiny_network):
    network = tiny_network("resnet").train()
    x = torch.randn(2, 3, 64, 64)
    plain = count_saved_bytes(network, x)
    network.set_activation_checkpointing(True)
    assert 0 < count_saved_bytes(network, x).activations < 0.5 * plain.activations


def test_by_module_each_storage_counts_where_it_is_kept_first():
    x = torch.randn(2, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    kept = saved_bytes_by_module(network, x)
    assert kept == {
        "0": SavedBytes(0, 0, x.nbytes, network[0].weight.nbytes),
        "1": SavedBytes(2 * 4 * 64 * 4, 0, 0, 0),  # the linear layer keeps the same storage
        "3": SavedBytes(0, 0, 0, network[3].weight.nbytes),
    }


def test_what_a_network_checkpoints_is_kept_outside_of_its_blocks(tiny_network):
    network = tiny_network("resnet").train()
    network.set_activation_checkpointing(True)
    kept = saved_bytes_by_module(network, torch.randn(2, 3, 64, 64))
    assert kept[""].input and kept[""].activations
    assert not any(path.startswith("layer") for path in kept)
