"""A network is left as it was, also after an exception."""

import pytest
import torch
from torch import nn

from vertebra.introspect import batch_statistics, preserved, usable_statistics


def small():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2))
    net[0].eval()
    net[0].weight.requires_grad_(False)
    net[4].weight.grad = torch.ones(2, 64)
    return net


def snapshot(net):
    return (
        [module.training for module in net.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in net.parameters()],
        {name: value.clone() for name, value in net.state_dict().items()},
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()],
        torch.random.get_rng_state(),
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("raises", [False, True])
def test_modes_gradients_buffers_hooks_and_random_state_are_restored(raises):
    net = small()
    gradient, before = net[4].weight.grad, snapshot(net)
    with pytest.raises(KeyError) if raises else torch.enable_grad(), preserved(net) as handles:
        handles.append(net[0].register_forward_hook(lambda *_: None))
        net.train().requires_grad_()
        net(torch.randn(4, 3, 6, 6)).sum().backward()
        net[1].running_mean = torch.zeros(4)
        assert not same(before, snapshot(net))
        if raises:
            raise KeyError
    assert same(before, snapshot(net))
    assert net[4].weight.grad is gradient


def test_batch_statistics_leaves_dropout_off_and_the_running_statistics_alone():
    net = small()
    before = snapshot(net)
    with batch_statistics(net):
        images = torch.randn(8, 3, 6, 6) + 3
        first = net(images)
        assert torch.equal(first, net(images))  # no dropout
        assert net[1](net[0](images)).mean().abs() < 1e-5
    after = snapshot(net)
    assert same(before[:4], after[:4])


def test_usable_statistics_are_those_of_the_images_only_where_nothing_was_learned():
    fresh, trained = small(), small()
    trained[1].running_mean.fill_(0.5)
    images = torch.randn(8, 3, 6, 6) + 3
    for net in (fresh, trained):
        before = snapshot(net)
        with usable_statistics(net, images):
            assert not any(module.training for module in net.modules())
            maps = net[0](images)
            learned = net is trained
            assert torch.allclose(net[1].running_mean, maps.mean((0, 2, 3)), atol=1e-5) is not learned
        assert same(before, snapshot(net)) and net[1].momentum == 0.1
    with pytest.raises(RuntimeError), usable_statistics(fresh, images[:, :1]):
        pass
    assert fresh[1].momentum == 0.1
