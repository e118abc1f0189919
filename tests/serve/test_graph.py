"""A file's graph, read without onnx: the same as onnx reads, and the stages that follow from it."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from vertebra.card import CardError
from vertebra.serve.anatomy import anatomy
from vertebra.serve.graph import read_graph


def test_as_onnx_reads_it(tiny_model):
    graph, right = read_graph(tiny_model), onnx.load(tiny_model).graph
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
    found = read_graph(tmp_path / "g.onnx")
    for name, value in values.items():
        assert np.array_equal(found.read(name), value)
    assert found.read("c").tolist() == [3, -4] and found.read("listed").tolist() == [5, -6]
    with pytest.raises(CardError, match="no weight 'x'"):
        found.read("x")


def test_files_that_are_none(tmp_path, tiny_model):
    with pytest.raises(CardError, match="cannot be read"):
        read_graph(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(CardError, match="graph that cannot be read"):
        read_graph(tmp_path / "bad.onnx")
    content = tiny_model.read_bytes()
    for end in range(100, len(content) - 1, 97):
        (tmp_path / "cut.onnx").write_bytes(content[:end])
        with pytest.raises(CardError):
            read_graph(tmp_path / "cut.onnx")


def test_stages(tiny_model, client):
    found = anatomy(read_graph(tiny_model), 32)
    kernel = 8 * 3 * 3 * 3
    assert found["input"] == [32, 32, 3]
    assert [(s["kind"], s["channels"], s["height"], s["width"]) for s in found["stages"]] == [
        ("Conv", 8, 16, 16),
        ("Linear", 3, 1, 1),
    ]
    assert [s["parameters"] for s in found["stages"]] == [kernel, 24]
    assert [s["macs"] for s in found["stages"]] == [kernel * 256, 24]
    assert found["parameters"] == kernel + 24
    assert client.get("/v1/models/tiny/anatomy").json == found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Networks of each kind, drawn at random, as `vertebra export` writes them: name → file."""
    export = pytest.importorskip("vertebra.export")
    from vertebra import create_model
    from vertebra.card import Preprocessing

    folder = tmp_path_factory.mktemp("exported")

    def write(name):
        path = folder / f"{name}.onnx"
        if not path.exists():
            network = create_model(name, weights=None, num_classes=7)
            for value in network.parameters():
                if value.ndim == 1:  # the export leaves out biases that are all 0
                    value.data.uniform_(0.5, 1)
            export.export(export.prepare(network, preprocessing=Preprocessing(64, 64)), path)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "kinds", "last"),
    [
        ("resnet18", {"Conv", "residual", "Linear"}, (512, 2, 2)),
        ("efficientnet_lite0", {"Conv", "MBConv", "Linear"}, (1280, 2, 2)),
        ("googlenet", {"Conv", "Inception", "Linear"}, (1024, 2, 2)),
        ("densenet121", {"Conv", "dense block", "Linear"}, (1024, 2, 2)),
    ],
)
def test_stages_of_real_networks(exported, name, kinds, last):
    import torch

    from vertebra import create_model
    from vertebra.serve.saliency import find_classifier

    graph = read_graph(exported(name))
    found = anatomy(graph, 64)
    assert {stage["kind"] for stage in found["stages"]} == kinds
    assert tuple(found["stages"][-2][key] for key in ("channels", "height", "width")) == last
    assert find_classifier(graph).weight.shape == (7, last[0])
    if name in ("googlenet", "densenet121"):  # the first has heads that are not exported, the second norms that stay
        return
    network = create_model(name, weights=None, num_classes=7)
    # Batch norms are part of their convolutions in the file: for two numbers a channel there is one.
    norms = sum(m.num_features for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert found["parameters"] == sum(p.numel() for p in network.parameters()) - norms
