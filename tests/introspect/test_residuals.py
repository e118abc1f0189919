"""Residual blocks: which additions are any, what they add up, and paths whose gradients are known."""

import math
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vertebra.errors import UsageError
from vertebra.introspect import ablated_blocks, contributions, path_length_gradients, residual_blocks


class Times(nn.Module):
    """x + w · x, in one of the ways in which an addition can be written."""

    def __init__(self, weight, form="+"):
        super().__init__()
        self.branch = nn.Conv2d(1, 1, 1, bias=False)
        self.branch.weight.data.fill_(weight)
        self.form, self.adder = form, Adder()

    def forward(self, x):
        out = self.branch(x)
        if self.form == "+=":
            out += x
            return out
        if self.form == "add_":
            out.add_(x)
            return out
        return {
            "+": lambda: x + out,
            "torch.add": lambda: torch.add(out, x),
            "module": lambda: self.adder(out, x),
        }[self.form]()


class Adder(nn.Module):
    def forward(self, one, other):
        return one + other


WEIGHTS = (0.5, 2.0, 3.0, 0.25)


def chain(form="+"):
    return nn.Sequential(*(Times(weight, form) for weight in WEIGHTS))


ONE = torch.ones(1, 1, 1, 1)
FORMS = ("+", "+=", "add_", "torch.add", "module")


def total(output):
    return output.sum()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_addition(form):
    net = chain(form)
    blocks = residual_blocks(net, ONE)
    assert [(b.index, b.path, b.is_identity, b.shape) for b in blocks] == [
        (i, str(i), True, (1, 1, 1)) for i in range(4)
    ]
    # The block n takes Π (1 + w) of those before it, and adds w times that.
    for i, found in enumerate(contributions(net, ONE)):
        skip = math.prod(1 + weight for weight in WEIGHTS[:i])
        assert (found.skip, found.branch) == pytest.approx((skip, skip * WEIGHTS[i]))
        assert found.sum == pytest.approx(skip * (1 + WEIGHTS[i]))
    with ablated_blocks(net, branches=[blocks[0], blocks[2]]):
        assert net(ONE).item() == pytest.approx(3 * 1.25)
    with ablated_blocks(net, branches=[blocks[0]], skips=[blocks[1]]):
        assert net(ONE).item() == pytest.approx(2 * 4 * 1.25)
        (gradient,) = torch.autograd.grad(net(ONE).sum(), net[1].branch.weight)
        assert float(gradient) == pytest.approx(4 * 1.25)
    assert net(ONE).item() == pytest.approx(1.5 * 3 * 4 * 1.25)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradients_of_all_paths_are_the_whole_gradient(form):
    net = chain(form)
    found = path_length_gradients(net, ONE, loss=total)
    for k, row in enumerate(found):
        products = [math.prod(subset) for subset in combinations(WEIGHTS, k)]
        assert (row.length, row.paths, len(row.norms)) == (k, len(products), len(products))
        assert row.norms == pytest.approx(products)
        assert (row.norm, row.total) == pytest.approx((sum(products) / len(products), sum(products)))
    assert sum(row.total for row in found) == pytest.approx(math.prod(1 + weight for weight in WEIGHTS))
    # A few of the six paths of length 2: different ones, and the same for the same seed.
    (few,) = path_length_gradients(net, ONE, [2], samples=3, seed=1, loss=total)
    assert len(set(few.norms)) == 3 == len(few.norms)
    assert few.paths == 6
    assert few == path_length_gradients(net, ONE, [2], samples=3, seed=1, loss=total)[0]


class Block(nn.Module):
    """Of a pre-activated residual network, with one of three kinds of shortcuts."""

    def __init__(self, kind, channels=4):
        super().__init__()
        stride, self.kind = (1 if kind == "identity" else 2), kind
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride)

    def forward(self, x):
        out = F.relu(self.norm(x))
        if self.kind == "identity":
            skip = x
        elif self.kind == "padded":
            skip = F.pad(x[:, :2, ::2, ::2], (0, 0, 0, 0, 1, 1))
        else:
            skip = self.shortcut(out)
        return self.conv2(F.relu(self.conv(out))) + skip


class Parallel(nn.Module):
    """Two branches alike: neither is a skip. And a position embedding, which is no branch."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.position = nn.Parameter(torch.ones(1, 3, 8, 8))

    def forward(self, x):
        x = x + self.position
        return self.one(x) + self.other(x) + 1


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.mlp(x)


def test_shortcuts_of_each_kind():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), *map(Block, ("identity", "padded", "projection")))
    blocks = residual_blocks(net, torch.randn(2, 3, 8, 8))
    assert [(b.path, b.is_identity) for b in blocks] == [("1", True), ("2", False), ("3", False)]
    assert [b.shape for b in blocks] == [(4, 8, 8), (4, 4, 4), (4, 2, 2)]
    x = torch.randn(1, 4, 8, 8)
    padded = nn.Sequential(net[2])
    with ablated_blocks(padded, branches=residual_blocks(padded, x)):
        assert torch.equal(padded(x), F.pad(x[:, :2, ::2, ::2], (0, 0, 0, 0, 1, 1)))


def test_a_module_may_add_twice():
    blocks = residual_blocks(nn.Sequential(Transformer()), torch.ones(2, 5, 3))
    assert [(b.index, b.path, b.is_identity) for b in blocks] == [(0, "0", True), (1, "0", True)]


def test_what_is_no_residual_block():
    with pytest.raises(UsageError, match="no residual block was found in this Parallel"):
        residual_blocks(Parallel(), torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("family", "options", "paths"),
    [
        ("resnet", {}, {"layer1.0": True, "layer2.0": False, "layer3.0": False, "layer4.0": False}),
        ("resnet", {"block": "Bottleneck", "depth": 2}, {f"layer{i}.{j}": j == 1 for i in range(1, 5) for j in (0, 1)}),
        ("mobilenetv2", {}, {"features.4": True}),
        ("efficientnet", {}, {"features.3.1": True}),
        ("efficientnet", {"kind": "lite"}, {"features.3.1": True}),
        ("vgg", {}, None),
        ("googlenet", {}, None),
        ("densenet", {}, None),
    ],
)
def test_families(family, options, paths, tiny_network):
    net = tiny_network(family, **options)
    if paths is None:
        with pytest.raises(UsageError, match="no residual block"):
            residual_blocks(net, torch.randn(1, 3, 32, 32))
        return
    assert {b.path: b.is_identity for b in residual_blocks(net, torch.randn(1, 3, 32, 32))} == paths


def test_a_resnet_without_branches_and_without_skips(tiny_network):
    net, images = tiny_network("resnet"), torch.randn(2, 3, 32, 32)
    blocks = residual_blocks(net, images)
    layers = [net.get_submodule(block.path) for block in blocks]
    with torch.no_grad():
        with ablated_blocks(net, branches=blocks):
            without = net(images)
        with ablated_blocks(net, skips=blocks):
            plain = net(images)
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        for layer in layers:
            x = F.relu(layer.bn2(layer.conv2(F.relu(layer.bn1(layer.conv1(x))))))
        assert torch.allclose(plain, net.fc(x.mean((2, 3))), atol=1e-5)
        for layer in layers:  # a branch whose last norm gives 0
            layer.bn2.weight.zero_()
            layer.bn2.bias.zero_()
        assert torch.equal(without, net(images))


def test_paths_of_a_resnet_in_training_leave_it_as_it_was(tiny_network):
    net, images = tiny_network("resnet").train(), torch.randn(4, 3, 32, 32)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = path_length_gradients(net, images, [0, 4], samples=2)
    with pytest.raises(KeyError):
        path_length_gradients(net, images, loss={}.__getitem__)
    assert all(0 < row.norm < math.inf and row.paths == 1 for row in found)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    with pytest.raises(KeyError), ablated_blocks(net, branches=residual_blocks(net, images)):
        raise KeyError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_bad_arguments():
    net = chain()
    blocks = residual_blocks(net, ONE)
    with pytest.raises(UsageError, match="block 2 would lose"), ablated_blocks(net, branches=blocks, skips=blocks[2:]):
        pass
    with ablated_blocks(net), pytest.raises(UsageError, match="lacks blocks already"), ablated_blocks(net):
        pass
    for length in (5, -1, True, 1.0):
        with pytest.raises(UsageError, match="of 4 blocks, 0 to 4"):
            path_length_gradients(net, ONE, [length])
    with pytest.raises(UsageError, match="samples is 0"):
        path_length_gradients(net, ONE, samples=0)
    with pytest.raises(UsageError, match="there are no images"):
        contributions(net, [])
