"""ONNX files are read as the `onnx` package reads them, and damaged ones are refused."""

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from vertebra.runtime.onnx_graph import read_graph


def save(path, nodes=(), constants=(), inputs=("x",), outputs=("y",)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (*inputs, *outputs)]
    graph = helper.make_graph(list(nodes), "g", values[: len(inputs)], values[len(inputs) :], list(constants))
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def require_same(path):
    found, right = read_graph(path), onnx.load(path).graph
    assert [(n.op, n.inputs, n.outputs) for n in found.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in right.node
    ]
    for one, other in zip(found.nodes, right.node, strict=True):
        expected = {a.name: helper.get_attribute_value(a) for a in other.attribute}
        assert one.attributes == {k: v.decode() if isinstance(v, bytes) else v for k, v in expected.items()}
    assert list(found.constants) == [value.name for value in right.initializer]
    for value in right.initializer:
        expected = numpy_helper.to_array(value)
        assert found.constants[value.name].dtype == expected.dtype
        np.testing.assert_array_equal(found.constants[value.name], expected)


def test_an_exported_network(tiny_model):
    require_same(tiny_model)
    found = read_graph(tiny_model)
    assert found.inputs == ("image",) and set(found.outputs) >= {"probabilities", "embedding", "features"}


def test_attributes_and_left_out_inputs(tmp_path):
    nodes = [
        helper.make_node("A", ["x", "", "c"], ["a"], f=1.5, i=-3, s="text", floats=[1.0, -2.5], ints=[-1, 2**40]),
        helper.make_node("B", ["a"], ["y"], domain="com.microsoft"),
    ]
    path = save(tmp_path / "m.onnx", nodes, [numpy_helper.from_array(np.arange(6.0).reshape(2, 3), "c")])
    found = read_graph(path)
    assert found.nodes[0].inputs == ("x", "", "c")
    assert found.nodes[0].attributes == {"f": 1.5, "i": -3, "s": "text", "floats": [1, -2.5], "ints": [-1, 2**40]}
    assert found.nodes[1].op == "com.microsoft.B"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.FLOAT, [1.5, -2.0]),
        (TensorProto.DOUBLE, [1e300, 0.0]),
        (TensorProto.INT64, [-(2**62), 7]),
        (TensorProto.INT32, [-5, 7]),
        (TensorProto.UINT8, [0, 255]),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_constants_however_they_are_written(tmp_path, kind, values, raw):
    constants = []
    for name, shape, some in (("c", [2], values), ("s", [], values[:1])):
        content = np.array(some, helper.tensor_dtype_to_np_dtype(kind)).tobytes() if raw else some
        constants.append(helper.make_tensor(name, kind, shape, content, raw))
    require_same(save(tmp_path / "m.onnx", constants=constants))


def test_a_constant_node_is_a_constant(tmp_path):
    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([1, 2])))
    found = read_graph(save(tmp_path / "m.onnx", [node]))
    assert found.nodes == () and found.constants["c"].tolist() == [1, 2]


def damaged(**change):
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [2], [1.0, 2.0])
    for name, value in change.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (damaged(dims=[3]), r"2 values in a constant of shape \(3,\)"),
        (damaged(dims=[2**40, 2**40]), "a constant of shape"),
        (damaged(dims=[-2]), "a constant of shape"),
        (damaged(dims=[1] * 9), "a constant of shape"),
        (damaged(data_type=TensorProto.STRING), "data type 8"),
        (damaged(data_type=0), "data type 0"),
        (damaged(data_location=TensorProto.EXTERNAL), "weights in a file of their own"),
    ],
)
def test_constants_that_are_refused(tmp_path, tensor, reason):
    with pytest.raises(ValueError, match=reason):
        read_graph(save(tmp_path / "m.onnx", constants=[tensor]))


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x3a\x00\x3a\x00", bytes(100)])
def test_what_is_no_onnx_file(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    if content.startswith(b"\x3a"):
        with pytest.raises(ValueError, match="2 graphs"):
            read_graph(tmp_path / "m.onnx")
        return
    with pytest.raises(ValueError):
        read_graph(tmp_path / "m.onnx")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_file_that_is_cut_or_changed_gives_a_graph_or_a_value_error(tiny_model, tmp_path_factory, data):
    content = bytearray(tiny_model.read_bytes()[:4000])
    content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("cut") / "m.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        read_graph(path)


@pytest.mark.parametrize("attribute", [b"\x10\x01", b"\x1a\x01x", b"\x11" + bytes(8)])
def test_an_attribute_of_another_type(tmp_path, attribute):
    def message(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    path = tmp_path / "m.onnx"
    path.write_bytes(message(7, message(1, message(5, attribute))))
    with pytest.raises(ValueError, match=r"another type than ONNX's|a number where"):
        read_graph(path)
