"""The moving average of weights, alone."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from vertebra.train.weight_average import WeightAverage


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_it_is_the_average_of_each_tensor_to_the_bit():
    model = network()
    average = WeightAverage(model, 0.9)
    average.reset()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in (0, 5, 400):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(1)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name].lerp_(tensor, 1 - decay)
            else:  # the count of batches
                expected[name].copy_(tensor)
    assert all(torch.equal(average.tensors[name], tensor) for name, tensor in expected.items())


def test_inside_the_network_has_the_average_and_its_own_weights_afterwards():
    model = network()
    average = WeightAverage(model, 0.9)
    average.reset()
    before = {name: tensor.clone() for name, tensor in average.tensors.items()}
    with torch.no_grad():
        model[0].weight.fill_(7)
    with pytest.raises(ValueError), average.applied():
        assert torch.equal(model[0].weight, before["0.weight"])
        raise ValueError
    assert (model[0].weight == 7).all()


def test_a_decay_of_zero_is_no_average():
    model = network()
    average = WeightAverage(model, 0.0)
    average.reset()
    average.update(3)
    with average.applied():
        assert not average and not average.tensors
