"""What the planner takes, and what it says of the rest."""

import numpy as np
import pytest
from networks import Builder, efficientnet, efficientnet_v2, mobilenet
from vertebra_kernels import UnsupportedGraph, pack
from vertebra_kernels.plan import FusedBlock, InvertedResidual
from vertebra_kernels.planner import make_plan


def test_the_steps_of_an_efficientnet():
    plan = make_plan(efficientnet())
    assert [(b.source if hasattr(b, "source") else b.from_image, b.squeeze is not None) for b in plan.blocks] == [
        (True, True), (False, True), (False, True), (False, True), (False, True),
    ]  # fmt: skip
    assert [b.residual for b in plan.blocks] == [False, False, False, True, False]
    assert plan.outputs == {name: name for name in ("features", "embedding", "logits", "probabilities")}


def test_the_steps_of_an_efficientnet_v2():
    plan = make_plan(efficientnet_v2())
    fused = [block for block in plan.blocks if isinstance(block, FusedBlock)]
    assert [(b.from_image, b.project is not None, b.residual, b.out_size) for b in fused] == [
        (True, False, False, (38, 25)), (False, False, True, (38, 25)), (False, False, False, (38, 25)),
        (False, True, False, (19, 13)), (False, True, True, (19, 13)), (False, False, False, (10, 7)),
        (False, False, False, (10, 7)),
    ]  # fmt: skip
    assert [type(block) for block in plan.blocks[7:]] == 2 * [InvertedResidual]


@pytest.mark.parametrize(
    ("kernel", "groups", "kind", "reason"),
    [
        (7, 1, "relu", "it is a dense convolution, but not of 3 × 3"),
        (3, 4, "relu", "it is not a depthwise convolution"),
        (3, 1, None, "no activation follows this convolution"),
    ],
)
def test_a_convolution_of_another_kind_is_refused_by_name(kernel, groups, kind, reason):
    b = Builder((32, 32))
    b.conv(16, 3, 2)
    b.activation("relu")
    b.conv(16, kernel, groups=groups)
    b.activation(kind)
    b.conv(16, 3)
    b.activation("relu")
    with pytest.raises(UnsupportedGraph, match=rf"'Conv_6' \(Conv\): {reason}"):
        pack(b.head("relu", 32, 10))


def test_a_sum_of_maps_with_other_channels_is_refused():
    b = Builder((32, 32))
    b.conv(1, 3, 2)
    b.activation("relu")
    start = b.tensor
    b.fused("relu", 5)
    b.add("Add", start)  # ONNX repeats the one channel
    with pytest.raises(UnsupportedGraph, match=r"\(Add\): the sum is of maps of two sizes"):
        pack(b.head("relu", 32, 10))


def test_an_output_inside_a_fused_step_is_refused():
    graph = mobilenet()
    inside = next(node.outputs[0] for node in graph.nodes[8:] if node.op == "Clip")
    with pytest.raises(UnsupportedGraph, match="output of the graph"):
        pack(graph._replace(outputs={**graph.outputs, "inside": inside}))


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("Transpose", {"perm": [0, 1, 2, 3]}, "the input is not"),
        ("Softmax", {"axis": 0}, "its axis"),
        ("Gemm", {"transB": 1, "transA": 1}, "not a dense layer"),
        ("Conv", {"dilations": [2, 2]}, "dilated"),
        ("Conv", {"strides": [3, 3]}, r"strides are \[3, 3\]"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, "auto_pad"),
    ],
)
def test_attributes_that_are_not_known(op, attributes, reason):
    graph = mobilenet()
    index = next(i for i, node in enumerate(graph.nodes) if node.op == op)
    node = graph.nodes[index]
    nodes = list(graph.nodes)
    nodes[index] = node._replace(attributes={**node.attributes, **attributes})
    with pytest.raises(UnsupportedGraph, match=reason):
        pack(graph._replace(nodes=nodes))


@pytest.mark.parametrize("position", range(4, 40))
def test_a_node_of_another_kind_is_never_passed_over(position):
    graph = efficientnet()
    nodes = list(graph.nodes)
    nodes[position] = nodes[position]._replace(op="HardSwish")
    with pytest.raises(UnsupportedGraph):
        pack(graph._replace(nodes=nodes))


def test_a_weight_that_is_no_constant():
    graph = mobilenet()
    name = graph.nodes[4].inputs[1]
    constants = {key: value for key, value in graph.constants.items() if key != name}
    with pytest.raises(UnsupportedGraph, match="input 1 is not a constant"):
        pack(graph._replace(constants=constants))


def test_an_unknown_instruction_set():
    with pytest.raises(ValueError, match="'sse9' is none of avx512, avx2, portable"):
        pack(mobilenet(), "sse9")


def test_packing_is_deterministic():
    assert pack(mobilenet(seed=3)) == pack(mobilenet(seed=3))
    assert np.frombuffer(pack(mobilenet(seed=3)), np.uint8).size > 1000
