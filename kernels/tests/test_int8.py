"""Networks in int8: integers, sizes, threads, damaged blocks, and what is refused."""

import numpy as np
import pytest
from int8_networks import FAMILIES, evaluate, lite, mobilenet
from test_kernels import images_for
from test_network import refusals
from vertebra_kernels import Network, UnsupportedGraph, pack, supports_int8

pytestmark = pytest.mark.skipif(not supports_int8(), reason="this processor has no AVX-512 with VNNI")
INTEGERS = ("features", "embedding")


def require_same(graph, images, threads, expected=None):
    network = Network(pack(graph), threads)
    names = list(network.outputs)
    expected = expected or evaluate(graph, images)
    for name, found in zip(names, network.run(images, names), strict=True):
        if name in INTEGERS:
            np.testing.assert_array_equal(found, expected[name], err_msg=name)
        else:
            np.testing.assert_allclose(found, expected[name], rtol=2e-6, atol=2e-6, err_msg=name)
    network.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_integers_for_any_batch_and_threads(family):
    graph = FAMILIES[family]()
    images = images_for(graph, 5)
    expected = evaluate(graph, images)
    levels = np.unique(expected["features"])
    assert len(levels) > 100  # the test tells something
    for count in (1, 2, 5):
        for threads in (1, 2, 3, 7):
            require_same(graph, images[:count], threads, {name: values[:count] for name, values in expected.items()})


@pytest.mark.parametrize("size", [(24, 25), (32, 32), (33, 64), (64, 33), (97, 71), (128, 100)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_integers_for_any_size(family, size):
    graph = FAMILIES[family](size, seed=sum(size))
    require_same(graph, images_for(graph, 2), 2)


def test_black_and_white_images_and_none():
    graph = mobilenet()
    for value in (0, 255):
        require_same(graph, np.full((2, *graph.image_size, 3), value, np.uint8), 2)
    network = Network(pack(graph))
    assert network.run(images_for(graph, 0), ["logits"])[0].shape == (0, 37)


@pytest.mark.parametrize("value", [-1, 0, 1, 7, 2**31 - 1, -(2**31), 1 << 20])
def test_no_number_in_header_or_steps_can_make_it_read_elsewhere(value):
    small = lite((24, 24))
    assert refusals(pack(small), images_for(small, 1), value) > 100


def replaced(graph, op, number, attributes):
    """`graph` with attributes of the `number`th node of an operator changed."""
    nodes = list(graph.nodes)
    index = [i for i, node in enumerate(nodes) if node.op == op][number]
    nodes[index] = nodes[index]._replace(attributes={**nodes[index].attributes, **attributes})
    return graph._replace(nodes=nodes)


def with_constant(graph, number, op, position, change):
    """`graph` with the constant that the `number`th node of an operator reads changed."""
    node = [node for node in graph.nodes if node.op == op][number]
    name = node.inputs[position]
    return graph._replace(constants={**graph.constants, name: change(graph.constants[name])})


def without_pair(graph, number):
    """`graph` with one pair of an activation left out."""
    first = [node for node in graph.nodes if node.op == "QuantizeLinear"][number]
    second = next(node for node in graph.nodes if first.outputs[0] in node.inputs)
    rename = {second.outputs[0]: first.inputs[0]}
    nodes = [
        node._replace(inputs=tuple(rename.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if node not in (first, second)
    ]
    return graph._replace(nodes=nodes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: without_pair(g, 3), "is in float32 beside others in int8"),
        (
            lambda g: with_constant(g, 1, "DequantizeLinear", 0, lambda w: w.astype(np.uint8)),
            "its weights are not int8",
        ),
        (lambda g: replaced(g, "Conv", 1, {"pads": [0, 0, 2, 2]}), "kernel 3, stride 1, padding 0"),
        (lambda g: with_constant(g, 4, "QuantizeLinear", 1, lambda s: s * np.nan), "one positive scale"),
        (lambda g: with_constant(g, 4, "QuantizeLinear", 1, lambda s: s * 2), "quantised in two ways"),
        (lambda g: with_constant(g, 2, "QuantizeLinear", 2, lambda z: z.astype(np.int8)), "not to uint8"),
        (lambda g: with_constant(g, 1, "DequantizeLinear", 2, lambda z: z + 1), "zero points are not 0"),
        (
            lambda g: with_constant(g, 0, "Mul", 1, lambda v: v[::-1] * np.arange(len(v))),
            "its constant is not one value for each channel",
        ),
        (lambda g: with_constant(g, 1, "Reshape", 1, lambda v: v[[0, 2, 1, 3]]), "neither rows nor pixels"),
    ],
)
def test_what_no_step_covers_is_refused(change, message):
    with pytest.raises(UnsupportedGraph, match=message):
        pack(change(mobilenet()))


def test_levels_beyond_32_bits_are_refused():
    graph = mobilenet()
    scale = [node for node in graph.nodes if node.op == "DequantizeLinear" and "axis" in node.attributes]
    names = [node.inputs[1] for node in scale[:2]]
    constants = {**graph.constants, **{name: graph.constants[name] * np.float32(1e6) for name in names}}
    with pytest.raises(UnsupportedGraph, match="beyond 32 bits"):
        pack(graph._replace(constants=constants))


def test_without_vnni_it_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr("vertebra_kernels.int8_packing.supports_int8", lambda: False)
    with pytest.raises(UnsupportedGraph, match="int8 needs AVX-512 with VNNI"):
        pack(mobilenet())
    monkeypatch.undo()
    with pytest.raises(UnsupportedGraph, match="int8 needs AVX-512 with VNNI"):
        pack(mobilenet(), "avx2")
