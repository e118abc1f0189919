"""Costs, bytes, places and receptive fields of single operations, worked out by hand or by torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import vertebra
from vertebra import models
from vertebra.anatomy import Kind


class Function(nn.Module):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs, **named):
        return self.function(*inputs, **named)


def rows(function, *shapes, **options):
    inputs = tuple(torch.empty(shape, device="meta") for shape in shapes)
    return vertebra.anatomy(Function(function), inputs=inputs, **options).rows


def only(function, *shapes):
    (row,) = rows(function, *shapes)
    return row


# --- arithmetic -------------------------------------------------------------------------------------------------------

X = (2, 8, 10, 10)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (2, 6)),
        (nn.Linear(6, 4, bias=False), (2, 6)),
        (nn.Linear(1, 4), (2, 1)),  # as many values as its bias
        (nn.Linear(6, 4), (2, 3, 6)),
        (nn.Conv2d(8, 6, 3, groups=2), X),
        (nn.ConvTranspose2d(8, 6, 3), X),
    ],
)
def test_the_shape_of_a_weight_is_that_of_the_layer(layer, shape):
    (row,) = (row for row in vertebra.anatomy(layer, inputs=torch.empty(shape)).rows if row.macs)
    assert row.weight_shape == tuple(layer.weight.shape)


def test_the_shape_of_a_weight_without_a_layer():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.added = nn.Parameter(torch.empty(5, 3)), nn.Parameter(torch.empty(4, 3))

        def forward(self, x):
            return torch.addmm(self.added, x, self.weight) @ x[:3]

    first, second = (row for row in vertebra.anatomy(Product(), inputs=torch.empty(4, 5)).rows if row.macs)
    assert (first.weight_shape, second.weight_shape) == ((5, 3), ())


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, w: F.conv2d(x, w, padding=1), (X, (6, 8, 3, 3))),
        (lambda x, w: F.conv2d(x, w, stride=2, dilation=2), (X, (6, 8, 3, 3))),
        (lambda x, w: F.conv2d(x, w, groups=4), (X, (8, 2, 3, 3))),
        (lambda x, w: F.conv2d(x, w, groups=8), (X, (8, 1, 3, 3))),
        (lambda x, w: F.conv_transpose2d(x, w, stride=2), (X, (8, 6, 3, 3))),
        (lambda x, w: F.conv_transpose2d(x, w, groups=2), (X, (8, 3, 3, 3))),
        (lambda x, w: F.conv1d(x, w), ((2, 8, 10), (6, 8, 3))),
        (lambda x, w: F.conv3d(x, w), ((2, 4, 6, 6, 6), (6, 4, 3, 3, 3))),
        (lambda x, y: x @ y, ((4, 5), (5, 6))),
        (lambda x, y: x @ y, ((3, 4, 5), (3, 5, 6))),
        (lambda x, y, b: torch.addmm(b, x, y), ((4, 5), (5, 6), (6,))),
        (lambda x, y, b: torch.baddbmm(b, x, y), ((3, 4, 5), (3, 5, 6), (3, 4, 6))),
        (lambda x, w, b: F.linear(x, w, b), ((7, 3, 5), (6, 5), (6,))),
        (lambda x, w: F.linear(x, w), ((7, 3, 5), (6, 5))),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), ((2, 4, 16, 8), (2, 4, 16, 8), (2, 4, 16, 8))),
    ],
)
def test_macs_are_half_of_what_torch_counts(function, shapes):
    with FlopCounterMode(display=False) as counter:
        function(*(torch.empty(shape, device="meta") for shape in shapes))
    found = rows(function, *shapes)
    assert sum(row.macs for row in found) * 2 == counter.get_total_flops() > 0
    assert not [row for row in found if row.kind is Kind.UNKNOWN]


@pytest.mark.parametrize(
    ("groups", "kernel", "kind"),
    [(1, 3, Kind.DENSE), (1, 1, Kind.POINTWISE), (4, 3, Kind.GROUPED), (8, 3, Kind.DEPTHWISE), (8, 1, Kind.DEPTHWISE)],
)
def test_kinds_of_convolutions(groups, kernel, kind):
    assert only(lambda x, w: F.conv2d(x, w, groups=groups), X, (8, 8 // groups, kernel, kernel)).kind is kind


N = 2 * 8 * 10 * 10  # values of X


@pytest.mark.parametrize(
    ("function", "op", "kind", "other"),
    [
        (F.relu, "relu", Kind.ELEMENTWISE, N),
        (F.relu6, "relu6", Kind.ELEMENTWISE, 2 * N),
        (lambda x: F.hardtanh(x, -2, 2), "hardtanh", Kind.ELEMENTWISE, 2 * N),
        (F.silu, "silu", Kind.ELEMENTWISE, 2 * N),
        (torch.sigmoid, "sigmoid", Kind.ELEMENTWISE, N),
        (torch.exp, "exp", Kind.ELEMENTWISE, N),  # by its tag alone
        (lambda x: F.softmax(x, 1), "softmax", Kind.ELEMENTWISE, 5 * N),
        (lambda x: F.max_pool2d(x, 2), "max_pool2d", Kind.POOL, N),
        (lambda x: F.avg_pool2d(x, 2, 1), "avg_pool2d", Kind.POOL, 4 * 2 * 8 * 9 * 9),
        (lambda x: F.adaptive_avg_pool2d(x, 1), "global_avg_pool", Kind.POOL, N),
        (lambda x: F.adaptive_avg_pool2d(x, 5), "adaptive_avg_pool2d", Kind.POOL, N),
        (lambda x: x.sum(1), "sum", Kind.POOL, N),
        (lambda x: x.mean(), "mean", Kind.POOL, N),
        (lambda x: F.layer_norm(x, (10, 10)), "layer_norm", Kind.NORM, 7 * N),
        (lambda x: F.group_norm(x, 2), "group_norm", Kind.NORM, 7 * N),
        (lambda x: torch.cat([x, x], 1), "concat", Kind.COPY, 0),
        (lambda x: F.pad(x, (1, 1)), "pad", Kind.COPY, 0),
        (lambda x: x.double(), "cast", Kind.COPY, 0),
        (lambda x: torch.roll(x, 1), "roll", Kind.COPY, 0),
    ],
)
def test_other_arithmetic(function, op, kind, other):
    row = only(function, X)
    assert (row.op, row.kind, row.macs, row.other_ops) == (op, kind, 0, other)


def test_batch_norm_is_one_factor_and_one_shift():
    (row,) = vertebra.anatomy(nn.Sequential(nn.BatchNorm2d(3)), 10).rows
    assert (row.kind, row.macs, row.other_ops) == (Kind.NORM, 0, 2 * 300)
    assert row.weight_bytes == 4 * 3 * 4  # scale, shift, mean and variance


def test_what_is_unknown_is_listed():
    found = vertebra.anatomy(Function(lambda x: torch.linalg.svdvals(x)), inputs=torch.empty(4, 4, device="meta"))
    (row,) = found.unknown
    assert "svd" in row.op and row.kind is Kind.UNKNOWN
    assert (row.macs, row.read_bytes) == (0, 64)
    assert row.index in found.to_dict()["unknown"]


def test_operations_of_torch_library_are_listed():
    with torch.library._scoped_library("vertebra_test", "DEF") as library:
        library.define("strange(Tensor x) -> Tensor")
        library.impl("strange", lambda x: torch.empty_like(x), "Meta")
        (row,) = rows(lambda x: torch.ops.vertebra_test.strange(x), X)
        assert (row.op, row.kind, row.bytes) == ("strange", Kind.UNKNOWN, 2 * 4 * N)


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "read", "written"),
    [
        (lambda x: x + 1.0, N, N),
        (lambda x: x + x, N, N),  # read once
        (lambda x: x.add_(1.0), N, N),  # in place: read and written, nothing new
        (lambda x: x.relu_(), N, N),
        (lambda x: x.view(2, -1), 0, 0),
        (lambda x: x[:, 1:], 0, 0),
        (lambda x: x.transpose(2, 3), 0, 0),
        (lambda x: x.unsqueeze(0), 0, 0),
        (lambda x: x.transpose(2, 3).contiguous(), N, N),  # a copy behind a view
        (lambda x: torch.cat([x, x[:, :4]], 1), N + N // 2, N + N // 2),
        (lambda x: x[:, :, :1, :1].expand(X) + x, 16 + N, N),  # what is repeated is read once
        (lambda x: F.max_pool2d(x, 2), N, N // 4),  # the indices, which nobody reads, are torch's own
        (lambda x: torch.stack(F.max_pool2d(x, 2, return_indices=True)[1:]).float(), N + 8 * N // 8 + 8 * N // 8, None),
    ],
)
def test_bytes(function, read, written):
    found = rows(function, X)
    if written is None:
        # The indices are read now, so they count: 8 bytes each.
        assert found[0].write_bytes == N // 4 * (4 + 8)
        return
    assert (sum(row.read_bytes for row in found), sum(row.write_bytes for row in found)) == (4 * read, 4 * written)


def test_bytes_of_a_convolution():
    (row,) = vertebra.anatomy(nn.Sequential(nn.Conv2d(3, 8, 3)), 10, dtype="float16").rows
    assert (row.weight_bytes, row.read_bytes, row.write_bytes) == (2 * (8 * 27 + 8), 2 * 300, 2 * 8 * 64)
    assert row.bytes == row.weight_bytes + row.read_bytes + row.write_bytes
    assert row.intensity == (2 * 8 * 64 * 27 + 8 * 64) / row.bytes


def test_a_lookup_reads_what_it_returns():
    embedding = nn.Sequential(nn.Embedding(100_000, 16))
    (row,) = vertebra.anatomy(embedding, inputs=torch.zeros(5, dtype=torch.int64)).rows
    assert (row.op, row.weight_bytes, row.write_bytes) == ("embedding", 5 * 16 * 4, 5 * 16 * 4)
    assert row.parameters == 1_600_000


def test_shared_parameters_count_once_and_are_read_twice():
    layer = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    found = vertebra.anatomy(nn.Sequential(layer, nn.ReLU(), layer), (4, 8, 8))
    assert [row.parameters for row in found.rows] == [144, 0, 0]
    assert [row.weight_bytes for row in found.rows] == [576, 0, 576]
    assert found.parameters == 144


def test_batches_scale_activations_and_not_weights():
    one, eight = (vertebra.anatomy("resnet18", 64, batch_size=n) for n in (1, 8))
    assert (eight.macs, eight.read_bytes) == (8 * one.macs, 8 * one.read_bytes)
    assert (eight.parameters, eight.weight_bytes) == (one.parameters, one.weight_bytes)


def test_what_does_not_run_is_listed():
    network = models.googlenet()  # with its auxiliary heads, which run in training alone
    found = vertebra.anatomy(network)
    idle = [row for row in found.rows if row.kind is Kind.UNUSED]
    assert [row.name for row in idle] == ["aux1", "aux2"]
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert found.parameters - sum(row.parameters for row in idle) == vertebra.anatomy("googlenet").parameters


def test_a_parameter_that_is_not_used_is_listed():
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    network.register_parameter("spare", nn.Parameter(torch.zeros(7)))
    assert [(row.name, row.parameters) for row in vertebra.anatomy(network, 4).rows[1:]] == [("spare", 7)]


# --- places -----------------------------------------------------------------------------------------------------------


def test_stages_are_the_networks_own(of_family, taken):
    stages = [stage.name for stage in models.get_model(of_family).stages]
    before = ["input"] if of_family == "googlenet" else []
    assert [group.name for group in taken(of_family).stages] == [*before, *stages, "classifier"]


def test_every_row_is_in_one_stage_and_one_block(of_family, taken):
    anatomy = taken(of_family)
    for groups in (anatomy.stages, anatomy.blocks):
        assert sorted(row.index for group in groups for row in group.rows) == [row.index for row in anatomy.rows]
        for name in ("parameters", "macs", "other_ops", "bytes"):
            assert sum(getattr(group, name) for group in groups) == getattr(anatomy, name)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", ["layer1.0", "layer1.1", "layer2.0"]),
        ("googlenet", ["inception3a", "inception3b", "maxpool3"]),
        ("densenet121", ["features.denseblock1.denselayer1", "features.transition1", "features.denseblock1"]),
        ("efficientnet_b0", ["features.0", "features.1.0", "features.2.1"]),
        ("mobilenet_v2", ["features.1", "features.18"]),
        ("vgg11_bn", ["features.0", "features.1", "classifier.0"]),
    ],
)
def test_blocks(name, blocks, taken):
    found = {group.name for group in taken(name).blocks}
    assert set(blocks) <= found
    assert not found & {"layer1", "features", "features.denseblock1.denselayer1.conv1", "inception3a.branch1"}


def test_stages_of_other_networks():
    torchvision = pytest.importorskip("torchvision")
    resnet = vertebra.anatomy(torchvision.models.resnet18())
    children = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    assert [group.name for group in resnet.stages if group.name != "(top)"] == children
    mobile = vertebra.anatomy(torchvision.models.mobilenet_v2())
    # Nearly all of it is in `features`, which is opened.
    assert [group.name for group in mobile.stages][:3] == ["features.0", "features.1", "features.2"]


def test_the_same_rows_as_torchvisions_network(of_family, taken):
    torchvision = pytest.importorskip("torchvision")
    options = {"aux_logits": False, "init_weights": False} if of_family == "googlenet" else {}
    theirs = vertebra.anatomy(torchvision.models.get_model(of_family, **options))
    ours = [row for row in taken(of_family).rows if row.stage != "input"]
    costs = [(row.op, row.output_shape, row.parameters, row.macs, row.other_ops) for row in ours if row.op != "view"]
    # Padding to 224 pixels, DenseNet's first layer aside, they are the same operations; only their order may differ.
    found = [(r.op, r.output_shape, r.parameters, r.macs, r.other_ops) for r in theirs.rows if r.op != "view"]
    assert sorted(costs) == sorted(found)


# --- receptive fields -------------------------------------------------------------------------------------------------


def field_by_gradient(network, size):
    """Pixels, along one side, that the middle value of the output depends on."""
    network = network.double().eval()
    for parameter in network.parameters():
        parameter.data.fill_(0.1)
    x = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    out = network(x)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    low, high = seen.min(0).values, seen.max(0).values
    return tuple((high - low + 1).tolist())


class Paths(nn.Module):
    def __init__(self):
        super().__init__()
        self.short, self.long = (
            nn.Conv2d(3, 4, 1),
            nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(4, 4, 3, 1, 1)),
        )

    def forward(self, x):
        return torch.cat([self.short(x), self.long(x)], 1)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)),
        nn.Sequential(nn.Conv2d(3, 4, (3, 5), (2, 1)), nn.Conv2d(4, 4, 3, dilation=2)),
        nn.Sequential(Paths(), nn.Conv2d(8, 2, 3, 2, 1)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2)),
    ],
)
def test_receptive_fields_are_what_the_gradient_reaches(network):
    assert vertebra.anatomy(network, 63).rows[-1].receptive_field == field_by_gradient(network, 63)


# VGG-16: Araujo et al. 2019, table 1. The others are worked out from the networks' tables: ResNet-50 has its strides on
# the 3×3 convolutions at the beginning of a stage, where the paper's 483 is for strides at the end.
@pytest.mark.parametrize(("name", "pixels"), [("vgg16", 212), ("resnet50", 427), ("resnet18", 435)])
def test_receptive_fields_of_the_last_map(name, pixels, taken):
    stage = taken(name).stages[-2]
    assert stage.receptive_field == (pixels, pixels)
    assert not stage.rows[-1].sees_all


def test_a_gate_brings_the_whole_image(taken):
    anatomy = taken("efficientnet_b0")
    first = next(row for row in anatomy.rows if row.op == "mul")
    depthwise = next(row for row in anatomy.rows if row.kind is Kind.DEPTHWISE)
    assert not depthwise.sees_all and first.sees_all
    assert first.receptive_field == depthwise.receptive_field
    assert all(row.sees_all for row in anatomy.rows[first.index :] if row.op == "conv2d" and row.macs)


def test_flattened_layers_see_all(taken):
    anatomy = taken("vgg11_bn")
    assert [row.sees_all for row in anatomy.rows if row.op == "linear"] == [True] * 3
    tokens = rows(lambda x, w: F.linear(x.flatten(2).transpose(1, 2), w), (2, 8, 4, 4), (8, 8))
    assert not tokens[-1].sees_all, "a layer on each position by itself"


# --- what a row reads -------------------------------------------------------------------------------------------------


def test_a_view_is_read_as_such_and_what_it_is_a_view_of_is_not():
    def split(x):
        y = torch.exp(x)  # row 0
        left = y[:, :4]  # 1
        right = y[:, 4:]  # 2
        return torch.cat([right.sin(), left.cos(), y.tanh()[:, :1]], 1)

    found = rows(split, X)
    assert [(row.op, row.inputs) for row in found[:6]] == [
        ("exp", (-1,)),
        ("slice", (0,)),
        ("slice", (0,)),
        ("sin", (2,)),
        ("cos", (1,)),
        ("tanh", (0,)),
    ]


def test_views_of_the_input_do_not_read_each_other():
    found = rows(lambda x: x[:, :1] + x[:, 1:2], X)
    assert [row.inputs for row in found] == [(-1,), (-1,), (0, 1)]


def test_what_is_written_into_a_view_is_read_from_there():
    def write(x):
        y = torch.exp(x)  # row 0
        y[:, :4].mul_(2)  # rows 1 and 2
        return y + 1

    assert [row.inputs for row in rows(write, X)] == [(-1,), (0,), (1,), (2,)]
