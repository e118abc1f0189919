"""Fused networks of all families beside the networks themselves."""

import copy
from collections import Counter

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels import KernelError, fuse
from vertebra.cpu_kernels.batch_norm import BatchNormActivation, ConcatBatchNormActivation
from vertebra.cpu_kernels.conv1x1 import Conv1x1

NETWORKS = [
    ("vgg", {"batch_norm": True}),
    ("vgg", {}),
    ("googlenet", {}),
    ("resnet", {}),
    ("resnet", {"block": "Bottleneck", "widths": (16, 32, 64, 96)}),
    ("densenet", {}),
    ("densenet", {"memory_efficient": True}),
    ("mobilenetv2", {}),
    ("efficientnet", {}),
    ("efficientnet", {"kind": "v2"}),
    ("efficientnet", {"kind": "lite"}),
]


def trained(network, module, x, labels):
    """Outputs, gradients and buffers of one step."""
    torch.manual_seed(1)  # for dropout and stochastic depth
    outputs = module(x)
    outputs = outputs if isinstance(outputs, torch.Tensor) else torch.cat([o for o in outputs if o is not None])
    loss = nn.functional.cross_entropy(outputs, labels.repeat(len(outputs) // len(labels)))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    return outputs, gradients, dict(network.named_buffers())


@pytest.mark.parametrize(("family", "options"), NETWORKS, ids=str)
def test_a_step_is_that_of_the_network(tiny_network, family, options):
    network = tiny_network(family, **options).to(memory_format=torch.channels_last).train()
    exact = copy.deepcopy(network).double()
    fused = copy.deepcopy(network)
    module = fuse(fused)
    x, labels = torch.randn(6, 3, 64, 64).to(memory_format=torch.channels_last), torch.arange(6) % 5
    layers = trained(network, network, x, labels)
    found = trained(fused, module, x, labels)
    expected = trained(exact, exact, x.double(), labels)
    # As near to the values in float64 as torch's layers are: rounding is amplified by a network as deep as these.
    for one, other, truth in zip(found[1:], layers[1:], expected[1:], strict=True):
        assert one.keys() == other.keys()
        for name, value in truth.items():
            scale = max(value.double().norm(), 1e-3)
            error, usual = ((part[name] - value).double().norm() / scale for part in (one, other))
            assert error < 10 * usual + 1e-4, name
    torch.testing.assert_close(found[0], layers[0], rtol=1e-3, atol=1e-4)


# Of the papers' networks: (activation, what else is fused) -> batch norms; other kernels.
COUNTS = {
    "vgg16_bn": ({("ReLU", None): 13}, {"Conv3x3": 12}),
    "googlenet": ({("ReLU", None): 59}, {"Conv3x3": 15, "Conv1x1WithStatistics": 37}),
    "resnet50": (
        {("ReLU", None): 33, ("ReLU", "shortcut"): 16, ("Identity", None): 4},
        {"Conv3x3": 16, "Conv1x1WithStatistics": 36},
    ),
    "densenet121": (
        {("ReLU", None): 59, ("ReLU", "concatenation"): 62},
        {"Conv3x3": 58, "Conv1x1WithStatistics": 58, "Conv1x1": 3},
    ),
    "mobilenet_v2": (
        {("ReLU6", None): 35, ("Identity", None): 7, ("Identity", "shortcut"): 10},
        {"DepthwiseConv": 17, "Conv1x1WithStatistics": 32},
    ),
    "efficientnet_b0": (
        {("SiLU", None): 33, ("Identity", None): 16},
        {"DepthwiseConv": 16, "FusedSqueezeExcitation": 16, "Conv1x1WithStatistics": 30},
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_fused(name):
    from vertebra.models import create_model

    network = create_model(name).train()
    module = fuse(network)
    norms, kernels = Counter(), Counter()
    for node in module.graph.nodes:
        if node.op == "call_module":
            layer = module.get_submodule(node.target)
            assert not isinstance(layer, nn.BatchNorm2d)
            if isinstance(layer, BatchNormActivation):
                concatenates = type(layer) is ConcatBatchNormActivation
                also = "concatenation" if concatenates else "shortcut" if node.args[1] is not None else None
                norms[type(layer.activation).__name__, also] += 1
            elif type(layer).__module__.startswith("vertebra.cpu_kernels"):
                kernels[type(layer).__name__] += 1
    assert (norms, kernels) == COUNTS[name]
    assert not any(node.target is torch.cat for node in module.graph.nodes) or name == "googlenet"
    assert {id(p) for p in module.parameters()} == {id(p) for p in network.parameters()}


def test_frozen_stages_keep_their_statistics(tiny_network):
    network = tiny_network("resnet").train()
    frozen = [network.get_submodule(path) for stage in network.stages[:2] for path in stage.modules]
    for part in frozen:
        part.eval().requires_grad_(False)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    module = fuse(network)
    module(torch.randn(4, 3, 64, 64)).sum().backward()
    still = {id(buffer) for part in frozen for buffer in part.buffers()}
    changed = {name: not torch.equal(buffer, before[name]) for name, buffer in network.named_buffers()}
    assert still
    assert changed == {name: id(buffer) not in still for name, buffer in network.named_buffers()}


def test_any_size_of_image(tiny_network):
    network = tiny_network("mobilenetv2").train()
    module = fuse(network)
    for size in (64, 96):
        x = torch.randn(4, 3, size, size)
        torch.manual_seed(0)
        found = module(x)
        torch.manual_seed(0)
        torch.testing.assert_close(found, network(x), rtol=1e-3, atol=1e-4)


def test_without_kernels_there_is_nothing_to_fuse(tiny_network, monkeypatch):
    def library():
        raise KernelError("no C compiler (gcc) is installed")

    monkeypatch.setattr("vertebra.cpu_kernels.fused_graph.library", library)
    with pytest.raises(KernelError, match="no C compiler"):
        fuse(tiny_network("resnet"))


def test_transitions_pool_first():
    from vertebra.models import create_model

    module = fuse(create_model("densenet121").train())
    pools = [node for node in module.graph.nodes if str(node.target).endswith("pool") and "transition" in node.target]
    assert len(pools) == 3
    for pool in pools:
        (user,) = pool.users
        assert isinstance(module.get_submodule(user.target), Conv1x1)
        assert isinstance(module.get_submodule(pool.args[0].target), BatchNormActivation)
