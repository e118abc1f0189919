"""Channels and sources that are zeroed for a while, and the weights with which a DenseNet reads its sources."""

import pytest
import torch
import torchvision
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import (
    changed_values,
    contribution_score,
    dense_sources,
    gate_layers,
    weights_by_source,
    zeroed_channels,
    zeroed_range,
    zeroed_source,
)

VALUES = torch.ones(2, 4, 2, 2)
SCORES = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 1.0, 2.0, 3.0]])


def kept(net):
    """Which channels of each image the last layer passes."""
    return (net(VALUES).amax((2, 3)) > 0).int().tolist()


@pytest.mark.parametrize("place", ["input", "output"])
@pytest.mark.parametrize(
    ("order", "share", "expected"),
    [
        ("lowest", 0.25, [[0, 1, 1, 1], [1, 0, 1, 1]]),
        ("lowest", 0.5, [[0, 1, 0, 1], [1, 0, 0, 1]]),
        ("highest", 0.25, [[1, 0, 1, 1], [0, 1, 1, 1]]),
        ("highest", 0, [[1] * 4] * 2),
        ("lowest", 1, [[0] * 4] * 2),
    ],
)
def test_the_lowest_and_the_highest(place, order, share, expected):
    net = nn.Sequential(nn.Identity(), nn.Identity())
    with zeroed_channels(net, "1", share, order, SCORES, place):
        assert kept(net) == expected
    assert kept(net) == [[1] * 4] * 2


def test_random_channels_follow_from_the_seed():
    net, masks = nn.Sequential(nn.Identity()), []
    for seed in (0, 0, 1):
        with zeroed_channels(net, "0", 0.5, "random", seed=seed):
            masks.append([kept(net) for _ in range(4)])
    assert masks[0] == masks[1] != masks[2]
    assert masks[0][0] != masks[0][1]  # another choice in each batch
    assert all(sum(image) == 2 for mask in masks[0] for image in mask)


def test_scores_may_be_what_a_module_returned(tiny_network):
    net, images = tiny_network("efficientnet"), torch.randn(2, 3, 32, 32)
    layer = gate_layers(net, images)[1]
    project = f"{layer.path.rpartition('.')[0]}.3.0"
    seen, gates = [], []
    handles = [
        net.get_submodule(project).register_forward_hook(lambda _, args, out: seen.append(args[0])),
        net.get_submodule(layer.gate_path).register_forward_hook(lambda _, args, out: gates.append(out.flatten(1))),
    ]
    with torch.no_grad(), zeroed_channels(net, layer.path, 0.25, "lowest", layer.gate_path, "output"):
        net(images)
    for handle in handles:
        handle.remove()
    zeroed = seen[0].abs().amax((2, 3)) == 0
    assert zeroed.sum(1).tolist() == [12, 12]  # of 48
    assert gates[0][zeroed].max() <= gates[0][~zeroed].max()
    assert all(gates[0][i][zeroed[i]].max() <= gates[0][i][~zeroed[i]].min() for i in range(2))


def test_contribution_is_value_times_weight():
    conv = nn.Conv2d(2, 3, 1, bias=False)
    conv.weight.data = torch.tensor([[3.0, 1.0], [4.0, 0.0], [0.0, 0.0]]).view(3, 2, 1, 1)
    values = torch.tensor([[1.0, -3.0], [2.0, 20.0]]).view(2, 2, 1, 1).expand(2, 2, 4, 4)
    assert contribution_score(conv)(values).tolist() == [[5, 3], [10, 20]]
    linear = nn.Linear(2, 3, bias=False)
    linear.weight.data = conv.weight.data[:, :, 0, 0]
    assert contribution_score(linear)(values[:, :, 0, 0]).tolist() == [[5, 3], [10, 20]]
    transposed = nn.ConvTranspose2d(2, 3, 1, bias=False)
    transposed.weight.data = conv.weight.data.transpose(0, 1).contiguous()
    assert contribution_score(transposed)(values).tolist() == [[5, 3], [10, 20]]
    for layer in (nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)):
        with pytest.raises(UsageError, match="a contribution is to a convolution without groups"):
            contribution_score(layer)


def test_a_range_is_zero_for_images_and_vectors():
    net = nn.Sequential(nn.Identity())
    with zeroed_range(net, "0", 1, 3):
        assert kept(net) == [[1, 0, 0, 1]] * 2
        assert net(torch.ones(1, 4)).tolist() == [[1, 0, 0, 1]]
    with pytest.raises(KeyError), zeroed_range(net, "0", 1, 3):
        raise KeyError
    assert not net[0]._forward_pre_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share is 1.5"),
        ({"order": "lowets"}, "order is 'lowets'.*Did you mean 'lowest'"),
        ({"order": "random"}, "'random' is without one"),
        ({"score": None}, "score is missing"),
        ({"path": "frist"}, "no module 'frist'. Did you mean 'first'"),
        ({"place": "middle"}, "place is 'middle'"),
        ({"score": torch.ones(2, 3)}, r"the scores have shape \(2, 3\), and the values \(2, 4, 2, 2\)"),
        ({"score": "second"}, "has not run before"),
        ({"score": "third"}, "no module 'third'"),
    ],
)
def test_bad_arguments(options, message):
    net = nn.Sequential()
    net.add_module("first", nn.Identity())
    net.add_module("second", nn.Identity())
    arguments = {"path": "first", "share": 0.5, "order": "lowest", "score": SCORES} | options
    with pytest.raises(UsageError, match=message), zeroed_channels(net, **arguments):
        net(VALUES)


def test_a_module_without_a_tensor_is_refused():
    class Several(nn.Module):
        def forward(self, tensors):
            return tuple(tensors)

    net = nn.Sequential(Several())
    for place, message in (("input", "is not given a tensor"), ("output", "returns tuple, no tensor")):
        with pytest.raises(UsageError, match=message), changed_values(net, "0", lambda values: values, place):
            net([VALUES])
    with pytest.raises(UsageError, match="no range of the 4"), zeroed_range(net, "", 2, 5):
        net(VALUES)


def test_sources_of_a_densenet(tiny_network):
    net = tiny_network("densenet")
    pairs = dense_sources(net)
    block, first = "features.denseblock2", "features.denseblock2.denselayer1"
    mine = [(p.reader, p.source, p.start, p.stop) for p in pairs if p.source.startswith(block)]
    assert mine == [
        (f"{first}.conv1", block, 0, 16),
        (f"{block}.denselayer2.conv1", block, 0, 16),
        (f"{block}.denselayer2.conv1", first, 16, 24),
        ("features.transition2.conv", block, 0, 16),
        ("features.transition2.conv", first, 16, 24),
        ("features.transition2.conv", f"{block}.denselayer2", 24, 32),
    ]
    assert [p.reader for p in pairs][-1] == "classifier"
    for number, weight in enumerate(weights_by_source(net)):
        layer = net.get_submodule(weight.source.reader)
        assert weight.source == pairs[number]
        expected = layer.weight[:, weight.source.start : weight.source.stop].abs().mean().item()
        assert weight.mean == pytest.approx(expected)


def test_sources_by_the_papers_counts():
    with torch.device("meta"):
        theirs = torchvision.models.densenet121()
    pairs = dense_sources(theirs)
    # Layer i of a block reads i sources, and what is behind the block reads one more than its layers.
    assert len(pairs) == sum(n * (n + 1) // 2 + n + 1 for n in (6, 12, 24, 16))
    assert sum(p.reader == "features.transition3.conv" for p in pairs) == 25


def test_a_source_that_is_zero_is_a_weight_of_zero(tiny_network):
    net, images = tiny_network("densenet"), torch.randn(1, 3, 32, 32)
    source = "features.denseblock4.denselayer1"
    with torch.no_grad():
        before = net(images)
        with zeroed_source(net, source):
            without = net(images)
        with zeroed_source(net, source, ["classifier"]):
            partly = net(images)
        assert not torch.allclose(before, without)
        assert not torch.allclose(partly, without)
        net.features.denseblock4.denselayer2.conv1.weight[:, 16:24] = 0
        net.classifier.weight[:, 16:24] = 0
        assert torch.allclose(net(images), without, atol=1e-6)


def test_bad_sources(tiny_network):
    with pytest.raises(UsageError, match="this ResNet has no dense block"):
        dense_sources(tiny_network("resnet"))
    net = tiny_network("densenet")
    with pytest.raises(UsageError, match=r"'features\.denseblock9', which no layer reads\. Did you mean"):
        zeroed_source(net, "features.denseblock9").__enter__()
    with pytest.raises(UsageError, match=r"'features\.conv0' does not read"):
        zeroed_source(net, "features.denseblock4", ["features.conv0"]).__enter__()
