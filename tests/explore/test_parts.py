"""The parts of a network: the tree, what each reads, its costs; structures as the papers draw them."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from vertebra.anatomy import Anatomy, inspect
from vertebra.errors import UsageError
from vertebra.explore.page import texts
from vertebra.explore.parts import INPUT, Part, Parts, add_times, build_parts, find_part, leaves, sum_of_times
from vertebra.graph import trace as tracer
from vertebra.graph.cost import Kind
from vertebra.models import list_models

# One of each family, and those whose blocks differ within it.
NETWORKS = (
    "vgg16",
    "googlenet",
    "resnet18",
    "resnext50_32x4d",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_lite0",
    "efficientnet_b0",
    "efficientnet_v2_s",
)


def parts_of(model: nn.Module | str, side: int | None = None) -> tuple[Anatomy, Parts]:
    anatomy = inspect(model, side)
    subject = anatomy.subject
    graph = tracer.trace_network(subject.network, subject.args, subject.kwargs)
    return anatomy, build_parts(anatomy.rows, graph.modules)


@cache
def named(model: str) -> tuple[Anatomy, Parts]:
    return parts_of(model)


def figure(parts: Parts, part: str) -> list[tuple[str, str, str, list[str]]]:
    """Of each child the name within its parent, role, type, and what it reads."""

    def short(identity: str) -> str:
        return identity.partition("/")[2].removeprefix(f"{parts[part].name}.")

    children = [parts[child] for child in parts[part].children]
    return [(short(each.id), each.role, each.type, [short(read) for read in each.reads]) for each in children]


def test_a_bottleneck_has_its_shortcut_beside_the_branch() -> None:
    _, parts = named("resnext50_32x4d")
    assert figure(parts, "block/layer1.0") == [
        ("conv1", "reduce", "1×1 conv", ["stem"]),
        ("conv2", "conv", "3×3 conv, 32 groups", ["conv1"]),
        ("conv3", "expand", "1×1 conv", ["conv2"]),
        ("downsample.0", "shortcut", "1×1 conv", ["stem"]),
        ("add", "addition", "addition", ["conv3", "downsample.0"]),
    ]
    places = [(parts[child].rank, parts[child].lane) for child in parts["block/layer1.0"].children]
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (3, 0)]
    identity = parts["layer/layer1.1.add"]
    assert identity.reads == ["layer/layer1.1.conv3", "block/layer1.0"]
    assert identity.read_lanes == [0, 1]  # the skip passes beside the three convolutions
    assert identity.read_shapes == [(256, 56, 56), (256, 56, 56)]
    assert [parts[child].name for child in identity.children] == ["layer1.1.add", "layer1.1.relu"]
    assert [parts[f"stage/layer{i}"].type for i in (1, 2, 3, 4)] == [f"{n} × Bottleneck" for n in (3, 4, 6, 3)]


def test_the_branches_of_inception_are_side_by_side() -> None:
    _, parts = named("googlenet")
    assert figure(parts, "block/inception3a") == [
        ("branch1.conv", "conv", "1×1 conv", ["maxpool2"]),
        ("branch2.0.conv", "reduce", "1×1 conv", ["maxpool2"]),
        ("branch2.1.conv", "conv", "3×3 conv", ["branch2.0.conv"]),
        ("branch3.0.conv", "reduce", "1×1 conv", ["maxpool2"]),
        ("branch3.1.conv", "conv", "3×3 conv", ["branch3.0.conv"]),
        ("branch4.0", "pool", "3×3 max pooling", ["maxpool2"]),
        ("branch4.1.conv", "project", "1×1 conv", ["branch4.0"]),
        (
            "concat",
            "concatenation",
            "concatenation",
            ["branch1.conv", "branch2.1.conv", "branch3.1.conv", "branch4.1.conv"],
        ),
    ]
    children = [parts[child] for child in parts["block/inception3a"].children]
    assert [(each.rank, each.lane) for each in children[:-1]] == [
        (0, 0),
        (0, 1),
        (1, 1),
        (0, 2),
        (1, 2),
        (0, 3),
        (1, 3),
    ]
    assert children[-1].rank == 2
    assert children[-1].read_lanes == [0, 1, 2, 3]
    assert [(each.role, each.level) for each in parts.values() if each.parent == "stage/input"] == [("input", "layer")]


def test_a_dense_layer_reads_all_earlier_ones_by_one_lane() -> None:
    _, parts = named("densenet121")
    block = "features.denseblock1.denselayer"
    assert figure(parts, f"block/{block}2") == [
        ("concat", "concatenation", "concatenation", ["stem", f"{block}1"]),
        ("conv1", "reduce", "1×1 conv", ["concat"]),
        ("conv2", "conv", "3×3 conv", ["conv1"]),
    ]
    # As in the paper, norm and activation come before their convolution.
    assert [parts[child].role for child in parts[f"layer/{block}2.conv1"].children] == ["norm", "activation", "conv"]
    sixth = parts[f"block/{block}6"]
    assert sixth.reads == ["stage/stem", *(f"block/{block}{i}" for i in range(1, 6))]
    assert sixth.read_lanes == [1, 1, 1, 1, 1, 0]
    assert parts["stage/denseblock2"].type == "Transition, 12 × DenseLayer"
    assert figure(parts, "block/features.transition1") == [
        ("conv", "reduce", "1×1 conv", ["denseblock1"]),
        ("pool", "pool", "2×2 average pooling, stride 2", ["conv"]),
    ]


def test_an_mbconv_has_its_gate_as_one_part() -> None:
    _, parts = named("efficientnet_b0")
    assert figure(parts, "block/features.2.1") == [
        ("block.0.0", "expand", "1×1 conv", ["features.2.0"]),
        ("block.1.0", "depthwise", "3×3 depthwise conv", ["block.0.0"]),
        ("block.2", "gate", "squeeze-excitation", ["block.1.0"]),
        ("block.3.0", "project", "1×1 conv", ["block.2"]),
        ("add", "addition", "addition", ["block.3.0", "features.2.0"]),
    ]
    assert figure(parts, "layer/features.2.1.block.2") == [
        ("avgpool", "pool", "global average pooling", ["features.2.1.block.1.0"]),
        ("fc1", "conv", "1×1 conv", ["avgpool"]),
        ("activation", "activation", "SiLU", ["fc1"]),
        ("fc2", "conv", "1×1 conv", ["activation"]),
        ("scale_activation", "activation", "sigmoid", ["fc2"]),
        ("mul", "product", "product", ["scale_activation", "features.2.1.block.1.0"]),
    ]
    assert parts["operation/features.2.1.block.2.mul"].read_lanes == [0, 1]  # what is multiplied passes the gate


def test_a_fused_mbconv_says_so() -> None:
    _, parts = named("efficientnet_v2_s")
    assert parts["block/features.2.1"].type == "FusedMBConv"
    assert figure(parts, "block/features.2.1") == [
        ("block.0.0", "fused", "3×3 conv", ["features.2.0"]),
        ("block.1.0", "project", "1×1 conv", ["block.0.0"]),
        ("add", "addition", "addition", ["block.1.0", "features.2.0"]),
    ]
    assert figure(parts, "block/features.1.0") == [
        ("block.0.0", "conv", "3×3 conv", ["stem"]),
        ("add", "addition", "addition", ["block.0.0", "stem"]),
    ]


def test_an_inverted_residual_and_a_basic_block() -> None:
    _, parts = named("mobilenet_v2")
    assert [role for _, role, _, _ in figure(parts, "block/features.3")] == [
        "expand",
        "depthwise",
        "project",
        "addition",
    ]
    _, parts = named("resnet18")
    assert figure(parts, "block/layer2.0") == [
        ("conv1", "conv", "3×3 conv, stride 2", ["layer1"]),
        ("conv2", "conv", "3×3 conv", ["conv1"]),
        ("downsample.0", "shortcut", "1×1 conv, stride 2", ["layer1"]),
        ("add", "addition", "addition", ["conv2", "downsample.0"]),
    ]


def test_what_moves_nothing_is_no_layer() -> None:
    _, parts = named("vgg16")
    assert [parts[f"stage/stage{i}"].type for i in (1, 5)] == ["2 × 3×3 conv", "3 × 3×3 conv"]
    assert figure(parts, "stage/classifier") == [
        ("0", "linear", "linear", ["stage5"]),
        ("3", "linear", "linear", ["0"]),
        ("6", "classifier", "linear", ["3"]),
    ]
    # The pooling to the size that is there, and the flattening, can still be had.
    assert [parts[child].name for child in parts["layer/classifier.0"].children[:2]] == ["avgpool", "view"]
    _, parts = named("resnet18")
    assert parts["layer/avgpool"].shape == (512,)


def test_a_padding_goes_with_its_convolution() -> None:
    _, parts = named("efficientnet_lite0")
    assert [role for _, role, _, _ in figure(parts, "block/features.2.0")] == ["expand", "depthwise", "project"]
    depthwise = parts["layer/features.2.0.block.1.0"]
    assert (depthwise.type, depthwise.shape) == ("3×3 depthwise conv, stride 2", (96, 56, 56))
    assert [parts[child].type for child in depthwise.children[:2]] == ["pad", "3×3 depthwise conv, stride 2"]


def assert_sound(anatomy: Anatomy, parts: Parts) -> None:
    running = [row for row in anatomy.rows if row.kind is not Kind.UNUSED]
    assert sorted(leaves(parts)) == [row.index for row in running]
    for part in parts.values():
        if part.level == "layer":  # only its last operation is read from outside
            inner = set(part.rows) - {part.row}
            assert not [row for row in running if row.index not in part.rows and inner & set(row.inputs)], part.id
    order = {identity: index for index, identity in enumerate(parts)}
    stages = [part for part in parts.values() if part.parent is None]
    for attribute in ("parameters", "macs", "bytes"):
        for level, groups in (("stage", anatomy.stages), ("block", anatomy.blocks)):
            for group in groups:
                mine = [part for part in parts.values() if part.level == level and part.name == group.name]
                if mine and group.name not in ("", Kind.UNUSED.value):
                    assert sum(getattr(part, attribute) for part in mine) == getattr(group, attribute), group.name
        assert sum(getattr(part, attribute) for part in stages) == sum(getattr(row, attribute) for row in running)
    groups = [stages, *([parts[child] for child in part.children] for part in parts.values() if part.children)]
    for group in groups:
        assert_drawable(group, order)
        above = parts[group[0].parent] if group[0].parent else None
        if above is not None:
            assert sorted(row for part in group for row in part.rows) == list(above.rows)
            assert above.parameters == sum(part.parameters for part in group)
            assert group[-1].row == above.row


def assert_drawable(group: list[Part], order: dict[str, int]) -> None:
    """No two parts at one place, arrows go down, and none crosses a part or runs on another's lane."""
    places = {(part.rank, part.lane): part.id for part in group}
    assert len(places) == len(group)
    ranks = {part.id: part.rank for part in group}
    assert min(ranks.values()) == 0
    for part in group:
        assert len(part.reads) == len(set(part.reads)) == len(part.read_shapes) == len(part.read_lanes)
        for read, lane in zip(part.reads, part.read_lanes, strict=True):
            assert read == INPUT or order[read] < order[part.id]
            above = ranks.get(read, -1)
            assert above < part.rank
            assert not [place for place in places if above < place[0] < part.rank and place[1] == lane]


@pytest.mark.parametrize("model", NETWORKS)
def test_every_operation_is_in_one_leaf_and_the_sums_are_those_of_inspect(model: str) -> None:
    anatomy, parts = named(model)
    assert_sound(anatomy, parts)
    assert anatomy.unknown == ()
    for part in parts.values():
        assert part.label
        assert part.reads
        assert part.level == "stage" or f"role.{part.role}" in texts()["en"]
        assert {each["key"] for each in part.label} <= texts()["ja"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(set(list_models()) - set(NETWORKS)))
def test_all_other_networks(model: str) -> None:
    assert_sound(*parts_of(model))


class Towers(nn.Module):
    """Two parallel towers, a module that runs twice, functions between modules."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.right = nn.Conv2d(3, 4, 1)
        self.shared = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.left(x) + torch.relu(self.right(x))
        y = torch.relu(self.shared(y))
        y = torch.relu(self.shared(y))
        out: Tensor = self.head(y.mean((2, 3)))
        return out


def test_another_kind_of_network() -> None:
    anatomy, parts = parts_of(Towers(), 8)
    assert_sound(anatomy, parts)
    # A module that runs twice is two parts, and its parameters count once.
    first, second = parts["layer/shared"], parts["layer/shared#2"]
    assert (first.parameters, second.parameters) == (20, 0)
    assert first.macs == second.macs == 4 * 4 * 64
    assert (first.name, second.name) == ("shared", "shared")


class Reread(nn.Module):
    """What a norm and an activation read is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.norm(y)
        return self.last(torch.relu(z) + z + y).mean((2, 3))


def test_a_value_that_is_read_twice_ends_its_layer() -> None:
    # Beside enough others for it to be one stage.
    before = [nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.Conv2d(3, 3, 1), nn.Sigmoid()]
    anatomy, parts = parts_of(nn.Sequential(*before, Reread()), 8)
    assert_sound(anatomy, parts)
    inner = [parts[child] for child in parts["stage/4"].children]
    assert [part.type for part in inner] == [
        "1×1 conv",
        "batch normalisation",
        "ReLU",
        "addition",
        "addition",
        "1×1 conv",
        "global average pooling",
    ]


class Standardised(nn.Conv2d):
    """A convolution whose weight is computed first, from parameters alone."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, (self.weight - self.weight.mean()).exp())


def test_a_sequence_of_layers() -> None:
    anatomy, parts = parts_of(nn.Sequential(Standardised(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)), 8)
    assert_sound(anatomy, parts)
    # The flattening, which is a stage of its own in `inspect`, costs nothing and goes with the linear layer.
    assert [part.name for part in parts.values() if part.parent is None] == ["0", "2"]
    assert [parts[child].type for child in parts["layer/2"].children] == ["view", "linear"]
    # What is computed from parameters alone reads nothing.
    assert [parts[child].type for child in parts["stage/0"].children] == ["mean", "sub", "exp", "3×3 conv"]
    assert parts["layer/0"].reads == []
    assert parts["stage/0"].type == "3×3 conv"


def test_networks_of_next_to_nothing() -> None:
    anatomy, parts = parts_of(nn.Flatten(), 8)
    assert_sound(anatomy, parts)
    assert parts_of(nn.Identity(), 8)[1] == {}


def test_what_depends_on_values_is_refused() -> None:
    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match=r"depends on|values"):
        parts_of(Fickle(), 8)


def test_ids_do_not_depend_on_weights_or_input_size() -> None:
    def ids(side: int) -> list[str]:
        return list(parts_of("resnet18", side)[1])

    assert ids(64) == ids(96)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("block/layer1.0", "block/layer1.0"),
        ("layer1.0", "block/layer1.0"),
        ("layer1", "stage/layer1"),
        ("conv1", "layer/conv1"),
        ("layer2.0.downsample", "layer/layer2.0.downsample.0"),
        ("layer1.0.bn1", "operation/layer1.0.bn1"),
    ],
)
def test_a_part_is_found_by_its_module(name: str, found: str) -> None:
    assert find_part(named("resnet18")[1], name).id == found


@pytest.mark.parametrize("name", ["", "layer1.0.conv9", "nothing at all", "layer/", "."])
def test_a_part_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match="has no part") as failure:
        find_part(named("resnet18")[1], name)
    if name == "layer1.0.conv9":
        assert "Did you mean 'layer1.0.conv" in str(failure.value)


def test_times_are_those_of_the_rows() -> None:
    parts = parts_of(Towers(), 8)[1]
    measured = dict.fromkeys(range(5), 2.0)
    add_times(parts, measured)
    stages = [part for part in parts.values() if part.parent is None]
    assert sum_of_times(stages) == 10.0
    assert parts["stage/head"].ms is None  # none of its rows was timed
    left = parts["stage/left"]
    assert left.ms == sum_of_times(parts[child] for child in left.children) == 2.0 * len(left.rows)
    assert sum_of_times([parts["stage/head"]]) is None
    add_times(parts, {})
    assert sum_of_times(parts.values()) is None
