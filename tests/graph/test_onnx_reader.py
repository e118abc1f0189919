"""A file's graph, read without onnx: the same as onnx reads."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from vertebra.card import CardError
from vertebra.graph.onnx_reader import read_onnx


def test_as_onnx_reads_it(tiny_model):
    graph, right = read_onnx(tiny_model), onnx.load(tiny_model).graph
    assert [(node.kind, node.name, node.inputs, node.outputs) for node in graph.nodes] == [
        (node.op_type, node.name, tuple(node.input), tuple(node.output)) for node in right.node
    ]
    for node, other in zip(graph.nodes, right.node, strict=True):
        assert node.attributes == {item.name: helper.get_attribute_value(item) for item in other.attribute}
    for item in right.initializer:
        assert np.array_equal(graph.read(item.name), numpy_helper.to_array(item))
        assert graph.tensors[item.name].count == np.prod(item.dims)


def test_constants_and_kinds_of_numbers(tmp_path):
    values = {
        "half": np.array([1.5], np.float16),
        "long": np.array([-1, 2**40], np.int64),
        "byte": np.array([200], np.uint8),
    }
    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([3, -4], np.int64)))
    listed = helper.make_tensor("listed", onnx.TensorProto.INT64, [2], [5, -6])
    graph = helper.make_graph(
        [node], "g", [], [], [*(numpy_helper.from_array(value, name) for name, value in values.items()), listed]
    )
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    found = read_onnx(tmp_path / "g.onnx")
    for name, value in values.items():
        assert np.array_equal(found.read(name), value)
    assert found.read("c").tolist() == [3, -4] and found.read("listed").tolist() == [5, -6]
    with pytest.raises(CardError, match="no weight 'x'"):
        found.read("x")


def test_files_that_are_none(tmp_path, tiny_model):
    with pytest.raises(CardError, match="cannot be read"):
        read_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(CardError, match="graph that cannot be read"):
        read_onnx(tmp_path / "bad.onnx")
    content = tiny_model.read_bytes()
    for end in range(100, len(content) - 1, 97):
        (tmp_path / "cut.onnx").write_bytes(content[:end])
        with pytest.raises(CardError):
            read_onnx(tmp_path / "cut.onnx")
