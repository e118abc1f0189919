"""The trace against torch itself: the same shapes, the same operations, and the network as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import vertebra
from vertebra import models
from vertebra.graph import trace as tracer
from vertebra.graph.shapes import RULES, num_positions
from vertebra.models.meta_copy import to_meta

META = torch.device("meta")


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device=META)


# --- shapes -----------------------------------------------------------------------------------------------------------

aten = torch.ops.aten
X = (2, 8, 13, 17)
CALLS = [
    (aten.convolution.default, (meta(*X), meta(6, 8, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    (aten.convolution.default, (meta(*X), meta(6, 8, 3, 2), meta(6), [2, 3], [1, 0], [2, 1], False, [0, 0], 1)),
    (aten.convolution.default, (meta(*X), meta(8, 2, 3, 3), None, [2], [1], [1], False, [0], 4)),
    (aten.convolution.default, (meta(2, 8, 13), meta(6, 8, 3), None, [1], [0], [1], False, [0], 1)),
    (aten.native_batch_norm.default, (meta(*X), meta(8), meta(8), meta(8), meta(8), False, 0.1, 1e-5)),
    (aten.native_batch_norm.default, (meta(*X), meta(8), meta(8), meta(8), meta(8), True, 0.1, 1e-5)),
    (aten.cat.default, ([meta(*X), meta(2, 3, 13, 17)], 1)),
    (aten.cat.default, ([meta(*X), meta(2, 8, 13, 5)], -1)),
    (aten.mean.dim, (meta(*X), [-1, -2], True)),
    (aten.mean.dim, (meta(*X), [1])),
    (aten.addmm.default, (meta(5), meta(2, 7), meta(7, 5))),
    (aten.constant_pad_nd.default, (meta(*X), [1, 2, 3, 4])),
    (aten.constant_pad_nd.default, (meta(*X), [1, 2], 0.5)),
    (aten.avg_pool2d.default, (meta(*X), [2, 2], [2, 2])),
    (aten.avg_pool2d.default, (meta(*X), [3], [], [1], True)),
    (aten._adaptive_avg_pool2d.default, (meta(*X), [7, 5])),
    (aten.add.Tensor, (meta(*X), meta(*X))),
    (aten.mul.Tensor, (meta(2, 8, 1, 1), meta(*X))),
    (aten.mul.Tensor, (meta(*X), meta(2, 8, 1, 1))),
    (aten.mul.Tensor, (meta(*X), 0.5)),
    (aten._softmax.default, (meta(2, 8), 1, False)),
    (aten.add_.Tensor, (meta(*X), meta(*X))),
    (aten.mul_.Tensor, (meta(*X), meta(*X))),
    *[
        (getattr(aten, name).default, (meta(*X),))
        for name in ("relu", "relu_", "silu", "silu_", "sigmoid", "sigmoid_", "hardtanh", "hardtanh_")
    ],
    *[
        (aten.max_pool2d_with_indices.default, (meta(*X), [kernel], [stride], [padding], [dilation], ceil))
        for kernel, stride, padding, dilation in ((3, 2, 1, 1), (2, 2, 0, 1), (3, 2, 0, 2), (3, 1, 1, 1))
        for ceil in (False, True)
    ],
]


@pytest.mark.parametrize(("func", "args"), CALLS, ids=lambda value: str(value) if callable(value) else "")
def test_shapes_worked_out_here_are_torchs(func, args):
    ours = tracer.apply_shape_rule(func, args, {})
    theirs = func(*args)
    assert ours is not None
    ours, theirs = (out if isinstance(out, tuple) else (out,) for out in (ours, theirs))
    for mine, his in zip(ours, theirs, strict=True):
        if mine is None or mine.numel() == 0:
            # Statistics of a norm in inference, which nobody reads.
            assert mine is not None or his is None or his.numel() == 0
            continue
        assert (mine.shape, mine.dtype, mine.stride()) == (his.shape, his.dtype, his.stride())


def test_every_rule_is_tested():
    assert {str(func).removeprefix("aten.") for func, _ in CALLS} == set(RULES)


@pytest.mark.parametrize(
    ("func", "args"),
    [
        # Not plain: transposed, channels last, broadcast, another dtype, a norm in training. torch knows.
        (aten.convolution.default, (meta(*X), meta(8, 6, 3, 3), None, [1], [0], [1], True, [0], 1)),
        (aten.relu.default, (meta(*X).contiguous(memory_format=torch.channels_last),)),
        (aten.relu.default, (meta(*X).transpose(2, 3),)),
        (aten._softmax.default, (meta(2, 8, dtype=torch.float16), 1, True)),
        (aten.native_batch_norm.default, (meta(*X).mT, meta(8), meta(8), meta(8), meta(8), True, 0.1, 1e-5)),
        (aten.add.Tensor, (meta(*X), meta(17))),
        (aten.add.Tensor, (meta(*X), meta(*X, dtype=torch.float64))),
        (aten.add.Tensor, (meta(*X, dtype=torch.int64), 0.5)),
        (aten.cat.default, ([meta(*X), meta(*X, dtype=torch.float64)], 1)),
        (aten.constant_pad_nd.default, (meta(*X), [-1, 0])),
        (aten.addmm.default, (meta(2, 5), meta(2, 7), meta(7, 5))),
    ],
)
def test_what_is_not_plain_is_left_to_torch(func, args):
    assert tracer.apply_shape_rule(func, args, {}) is None


@pytest.mark.parametrize("ceil", [False, True])
def test_windows(ceil):
    for size in (7, 8, 13):
        for kernel, stride, padding, dilation in ((2, 2, 0, 1), (3, 2, 1, 1), (3, 3, 1, 2), (1, 1, 0, 1), (2, 3, 1, 1)):
            expected = F.max_pool1d(torch.zeros(1, 1, size), kernel, stride, padding, dilation, ceil).shape[-1]
            assert num_positions(size, kernel, stride, padding, dilation, ceil) == expected


# --- operations -------------------------------------------------------------------------------------------------------


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_operations_are_those_of_a_real_run(of_family, taken):
    """On the processor, with real tensors, each with the shape that was foreseen."""
    network = models.get_model(of_family).eval()
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), Names() as real:
        network(x)
    args = (meta(1, 3, 64, 64),)
    foreseen = [op.name for op in tracer.trace_network(to_meta(network), args, {}).nodes]
    assert foreseen == real.names


@pytest.mark.slow
def test_the_operations_are_those_of_export(of_family):
    network = models.get_model(of_family).eval()
    graph = torch.export.export(network, (torch.zeros(1, 3, 64, 64),)).run_decompositions({}).graph
    exported = [str(node.target) for node in graph.nodes if node.op == "call_function" and "aten" in str(node.target)]
    convolutions = [name for name in exported if "conv" in name]
    rows = vertebra.anatomy(network, 64).rows
    assert len(convolutions) == sum(row.op == "conv2d" for row in rows)
    assert sum("linear" in name or "addmm" in name for name in exported) == sum(row.op == "linear" for row in rows)
    assert sum("aten.cat" in name for name in exported) == sum(row.op == "concat" for row in rows)


def test_modules_and_functions_are_told_apart():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

        def forward(self, x):
            y = F.relu(self.body(x))
            return (y + y).mean((2, 3))

    rows = vertebra.anatomy(Net(), 8).rows
    assert [(row.name, row.op, row.module) for row in rows] == [
        ("body.0", "conv2d", "body.0"),
        ("body.1", "relu", "body.1"),
        ("relu", "relu", ""),
        ("add", "add", ""),
        ("mean", "mean", "") if rows[-1].op == "mean" else ("global_avg_pool", "global_avg_pool", ""),
    ]


# --- the network is left alone ----------------------------------------------------------------------------------------


def test_the_network_is_not_touched():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2)
    ).train()
    network.note = torch.ones(3)
    before = copy.deepcopy(network)
    anatomy = vertebra.anatomy(network, 8)
    anatomy.training_memory(batch_size=2)
    assert network.training and all(module.training for module in network.modules())
    assert {**before.state_dict()}.keys() == {**network.state_dict()}.keys()
    for key, value in network.state_dict().items():
        assert value.device.type == "cpu" and torch.equal(value, before.state_dict()[key])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(network.note, before.note)


def test_training_mode_and_eval_mode_have_the_same_anatomy():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    assert vertebra.anatomy(network.train(), 8).rows == vertebra.anatomy(network.eval(), 8).rows


def test_no_memory_is_used_for_weights():
    with META:
        huge = nn.Sequential(nn.Flatten(), nn.Linear(1 << 20, 1 << 20), nn.Linear(1 << 20, 1 << 10))
    anatomy = vertebra.anatomy(huge, (1, 1024, 1024))
    assert anatomy.parameters == (1 << 40) + (1 << 20) + (1 << 30) + (1 << 10)


def test_hooks_of_the_network_run():
    """Weight normalisation of the older kind is a hook: without it the weight would be missing."""
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    assert vertebra.anatomy(nn.Sequential(layer), 8).macs == 4 * 36 * 27


# --- wrappers ---------------------------------------------------------------------------------------------------------


def test_wrappers_are_opened():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    plain = vertebra.anatomy(network, 8)
    assert vertebra.anatomy(nn.DataParallel(network), 8).rows == plain.rows
    assert vertebra.anatomy(torch.compile(network), 8).rows == plain.rows


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu():
    network = models.resnet18()
    plain = vertebra.anatomy(network).rows
    network.cuda()
    assert vertebra.anatomy(network).rows == plain
    assert all(parameter.is_cuda for parameter in network.parameters())


def test_constants_of_another_device_are_taken_for_their_shapes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scales = [torch.ones(4, 1, 1)]  # neither parameter nor buffer, so it does not move with the network

        def forward(self, x):
            return self.conv(x) * self.scales[0] + torch.arange(6.0) + torch.zeros(6, device="cpu")

    anatomy = vertebra.anatomy(Net(), 8)
    assert anatomy.macs == 4 * 36 * 27
    assert [row.op for row in anatomy.rows] == ["conv2d", "mul", "arange", "add", "fill", "add"]


def test_the_copy_that_is_traced_has_hooks_of_its_own():
    network = nn.Sequential(nn.ReLU())
    network[0].register_forward_hook(lambda *_: None)
    copies = to_meta(network), to_meta(network)
    copies[0].register_forward_hook(lambda *_: None)
    copies[0].register_forward_pre_hook(lambda *_: None)
    assert [len(copy._forward_hooks) + len(copy._forward_pre_hooks) for copy in (network, *copies)] == [0, 2, 0]
    assert [len(copy[0]._forward_hooks) for copy in (network, *copies)] == [1, 1, 1]
