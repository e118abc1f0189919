"""The values of all operations: equal to the network's, and contributions that add up to the score."""

import pytest
import torch
from torch import nn

from vertebra.anatomy import inspect
from vertebra.errors import VertebraError
from vertebra.graph import trace
from vertebra.introspect import operation_values, preserved


def traced(network, side):
    anatomy = inspect(network, side)
    subject = anatomy.subject
    return anatomy, trace.trace_network(subject.network, subject.args, subject.kwargs)


def seen(network, image):
    anatomy, graph = traced(network, image.shape[2])
    return anatomy.rows, operation_values(network, graph, image)


def photo(side=33, seed=0):
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_values_are_the_networks_own(tiny_family, tiny_network):
    network, x = tiny_network(tiny_family), photo(64)
    own = {path: [] for path, _ in network.named_modules()}
    with preserved(network) as handles, torch.no_grad():
        for path, module in network.named_modules():
            # A copy, since a ReLU may write into the output of what is before it.
            hook = lambda module, args, output, path=path: own[path].append(output.clone())  # noqa: E731
            handles.append(module.register_forward_hook(hook))
        expected = network(x)
    rows, values = seen(network, x)
    assert torch.equal(values.result, expected)
    compared = 0
    for row, output in zip(rows, values.outputs, strict=False):  # rows of what does not run come last
        assert tuple(output.shape) == row.output_shape
        if own.get(row.name):  # of a ReLU that runs several times each in turn
            assert torch.equal(output, own[row.name].pop(0)), row.name
            compared += 1
    assert compared > 15


def test_the_network_is_left_as_it_was(tiny_network):
    network = tiny_network("resnet").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _, values = seen(network, photo())
    assert network.training and values.image.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_contributions_at_the_classifier_add_up_to_the_logit(tiny_network):
    network = tiny_network("resnet")
    rows, values = seen(network, photo())
    contributions = values.contributions(values.result[0, 3])
    pooled = next(index for index, row in enumerate(rows) if row.op == "global_avg_pool")
    expected = network.fc.weight[3] * values.outputs[pooled].flatten()
    torch.testing.assert_close(contributions[pooled].flatten(), expected.detach())
    torch.testing.assert_close(contributions[pooled].sum() + network.fc.bias[3], values.result[0, 3])


def test_what_an_addition_and_a_gate_read(tiny_network):
    for family, op in (("resnet", "add"), ("efficientnet", "mul")):
        rows, values = seen(tiny_network(family), photo())
        found = [index for index, row in enumerate(rows) if row.op == op and len(row.inputs) == 2]
        assert found
        for index in found:
            one, other = values.operands[index]
            assert torch.equal(one + other if op == "add" else one * other, values.outputs[index])
            assert not values.weights[index]


def test_in_place_operations_leave_what_they_read():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    _, values = seen(network, photo())
    assert (values.outputs[0] < 0).any() and (values.outputs[1] >= 0).all()


class Slices(nn.Module):
    """Writes into a view of what it returns."""

    def forward(self, x):
        y = x.mean((2, 3))
        y[:, 0].zero_()
        return y


class Branches(nn.Module):
    """Another number of operations on the meta device than elsewhere."""

    def forward(self, x):
        return (x if x.is_meta else x + 1).mean((2, 3)) * 2


class Pairs(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


@pytest.mark.parametrize(
    ("network", "words"),
    [(Slices(), "into a part of a tensor"), (Branches(), "3 operations on images and 2"), (Pairs(), "a tuple")],
)
def test_what_cannot_be_run_one_by_one_is_told(network, words):
    with pytest.raises(VertebraError, match=words):
        seen(network, photo())


class Attention(nn.Module):
    """A layer of torch's own, which without gradients is one fused operation."""

    def __init__(self):
        super().__init__()
        self.body = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.patches = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x):
        return self.body(self.patches(x).flatten(2).transpose(1, 2)).mean(1)


def test_fused_attention_is_run_by_its_operations():
    network, image = Attention().eval(), photo(32)
    _, values = seen(network, image)
    with torch.no_grad():
        assert torch.allclose(values.result, network(image), atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()
