"""What an ONNX file costs: our own exports as their networks, files of other exporters, files that are none."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from vertebra.card import CardError, Preprocessing  # noqa: E402
from vertebra.errors import UsageError  # noqa: E402
from vertebra.graph.cost import Kind  # noqa: E402
from vertebra.graph.file_profile import profile_file  # noqa: E402

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def weight(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def write(path, nodes, inputs, outputs, weights=(), **model):
    def described(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node(op, names, outs, **attributes) for op, names, outs, attributes in nodes],
        "g",
        [described(*value) for value in inputs],
        [described(*value) for value in outputs],
        list(weights),
    )
    model.setdefault("opset_imports", [helper.make_opsetid("", 18)])
    onnx.save(helper.make_model(graph, **model), path)
    return path


@pytest.fixture
def small(tmp_path):
    """A convolution over what may be of any size."""

    def make(*sides, name="small.onnx"):
        nodes = [
            ("Conv", ["x", "w", "b"], ["c"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
            ("Relu", ["c"], ["r"], {}),
            ("GlobalAveragePool", ["r"], ["p"], {}),
            ("Flatten", ["p"], ["f"], {}),
            ("Gemm", ["f", "v"], ["y"], {}),
        ]
        x, y = ("x", TensorProto.FLOAT, sides), ("y", TensorProto.FLOAT, ["N", 5])
        return write(tmp_path / name, nodes, [x], [y], [weight("w", 8, 3, 3, 3), weight("b", 8), weight("v", 8, 5)])

    return make


# --- our own ---------------------------------------------------------------------------------------------------------


def test_an_export_is_its_network_but_for_the_norms(tiny_family, tiny_network, tmp_path):
    import vertebra
    from vertebra.export import export, prepare

    network = tiny_network(tiny_family).eval()
    for value in network.parameters():
        if value.ndim == 1:  # the export leaves out biases that are all 0
            value.data.uniform_(0.5, 1)
    export(prepare(network, preprocessing=Preprocessing(64, 64)), tmp_path / "x.onnx")
    ours, file = vertebra.inspect(network, 64), profile_file(tmp_path / "x.onnx")
    assert file.macs == ours.macs
    counted, found = ([row for row in rows if row.macs] for rows in (ours.rows, file.rows))
    for row, other in zip(counted, found, strict=True):
        for name in ("op", "kind", "detail", "macs", "output_shape", "receptive_field", "stride", "groups"):
            assert getattr(other, name) == getattr(row, name), (row.name, name)
    norms = [row for row in file.rows if row.kind is Kind.NORM]
    of_norms = sum(row.parameters for row in ours.rows if row.kind is Kind.NORM) - sum(row.parameters for row in norms)
    unused = sum(row.parameters for row in ours.rows if row.kind is Kind.UNUSED)
    with_bias = sum(row.parameters for row in file.rows if row.kind is not Kind.NORM)
    without = sum(row.parameters for row in ours.rows if row.kind not in (Kind.NORM, Kind.UNUSED))
    assert with_bias - without == of_norms // 2
    assert file.parameters == ours.parameters - unused - of_norms // 2
    assert any("Batch norms" in note for note in file.notes)


def test_eight_bits(tmp_path):
    scale, zero = weight("s"), weight("z", dtype=np.uint8)
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["xq"], {}),
        ("DequantizeLinear", ["xq", "s", "z"], ["xd"], {}),
        ("DequantizeLinear", ["wq", "s", "wz"], ["wd"], {}),
        ("Conv", ["xd", "wd"], ["c"], {}),
        ("QuantizeLinear", ["c", "s", "z"], ["cq"], {}),
        ("DequantizeLinear", ["cq", "s", "z"], ["y"], {}),
    ]
    weights = [scale, zero, weight("wz", dtype=np.int8), weight("wq", 8, 3, 3, 3, dtype=np.int8)]
    io = ("x", TensorProto.FLOAT, [1, 3, 10, 10]), ("y", TensorProto.FLOAT, [1, 8, 8, 8])
    found = profile_file(write(tmp_path / "q.onnx", nodes, io[:1], io[1:], weights))
    (row,) = [row for row in found.rows if row.macs]
    assert (row.macs, row.weight_bytes, row.read_bytes, row.write_bytes) == (8 * 64 * 27, 216, 300, 512)
    assert found.parameters == 216
    assert any("8 bits" in note for note in found.notes)


def test_the_shape_of_a_weight_is_not_that_of_a_scale(tmp_path):
    scales = [weight("s"), weight("z", dtype=np.uint8), weight("ws", 8), weight("wz", 8, dtype=np.int8)]
    weights = [*scales, weight("w", 8, 3, 3, 3, dtype=np.int8)]
    nodes = [("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "s", "z"], ["y"], {})]
    io = ("x", TensorProto.UINT8, [1, 3, 10, 10]), ("y", TensorProto.UINT8, [1, 8, 8, 8])
    (row,) = profile_file(write(tmp_path / "q.onnx", nodes, io[:1], io[1:], weights)).rows
    assert row.weight_shape == (8, 3, 3, 3)


# --- of others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        # As published: https://github.com/onnx/models; MACs worked out from the layers' shapes.
        ("bvlc_alexnet", 60_965_224, 654_560_384),
        ("squeezenet", 1_235_496, 349_151_936),
        ("resnet50", 25_557_032, 4_089_184_256),
    ],
)
def test_models_of_onnx(name, parameters, macs):
    path = LIGHT / f"light_{name}.onnx"
    if not path.exists():
        pytest.skip("this onnx has no light models")
    found = profile_file(path)
    assert (found.parameters, found.macs, found.unknown) == (parameters, macs, ())


@pytest.mark.parametrize("script", [False, True], ids=["dynamo", "TorchScript"])
def test_torchs_own_export(tmp_path, script):
    import torch
    from torch import nn

    import vertebra

    if not script:
        pytest.importorskip("onnxscript")
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.Hardswish(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()
    path = tmp_path / "x.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 30, 30),), str(path), dynamo=not script, opset_version=18)
    file, ours = profile_file(path), vertebra.inspect(network, 30)
    counted, found = ([row for row in rows if row.macs] for rows in (ours.rows, file.rows))
    assert [(r.kind, r.macs, r.parameters) for r in found] == [(r.kind, r.macs, r.parameters) for r in counted]
    assert (file.parameters, file.unknown) == (ours.parameters, ())
    assert [row.receptive_field for row in found] == [row.receptive_field for row in counted]


def test_an_operator_that_is_not_known_is_named(tmp_path):
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("Fold", ["c"], ["y"], {"domain": "my.own"})]
    io = ("x", TensorProto.FLOAT, [1, 3, 10, 10]), ("y", TensorProto.FLOAT, ["N", 7])
    found = profile_file(write(tmp_path / "u.onnx", nodes, io[:1], io[1:], [weight("w", 8, 3, 3, 3)]))
    (row,) = found.unknown
    assert (row.op, row.macs, row.read_bytes, row.output_shape) == ("my.own::Fold", 0, 8 * 64 * 4, (1, 7))
    assert found.notes == ("Unknown operators, counted by memory traffic alone: my.own::Fold (1).",)


def test_shapes_that_are_computed_in_the_graph(tmp_path):
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("Gather", ["s", "zero"], ["n"], {"axis": 0}),
        ("Unsqueeze", ["n", "axis"], ["n1"], {}),
        ("Concat", ["n1", "rest"], ["wanted"], {"axis": 0}),
        ("Reshape", ["x", "wanted"], ["flat"], {}),
        ("MatMul", ["flat", "w"], ["y"], {}),
    ]
    weights = [
        numpy_helper.from_array(np.array(0), "zero"),
        numpy_helper.from_array(np.array([0]), "axis"),
        numpy_helper.from_array(np.array([-1]), "rest"),
        weight("w", 300, 4),
    ]
    io = ("x", TensorProto.FLOAT, ["N", 3, 10, 10]), ("y", TensorProto.FLOAT, None)
    found = profile_file(write(tmp_path / "s.onnx", nodes, io[:1], io[1:], weights), batch_size=2)
    assert [(row.op, row.macs, row.output_shape) for row in found.layers] == [("matmul", 2400, (2, 4))]
    assert found.notes == ()


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "size", "batch", "shape"),
    [
        (["N", 3, "H", "W"], (20, 30), 2, (2, 3, 20, 30)),
        ([None, None, None, None], 20, 1, (1, 3, 20, 20)),
        (["N", 3, 20, "W"], 30, 1, (1, 3, 20, 30)),
        ([1, 3, 20, 30], None, 1, (1, 3, 20, 30)),
        ([1, 3, 20, 30], (20, 30), 1, (1, 3, 20, 30)),
        (["N", 3, 20, 30], None, 4, (4, 3, 20, 30)),
    ],
)
def test_sizes_that_are_left_open(small, sides, size, batch, shape):
    found = profile_file(small(*sides), size, batch)
    assert found.input_shapes == (shape,)
    assert found.rows[0].macs == shape[0] * 8 * 27 * (shape[2] // 2) * (shape[3] // 2)


@pytest.mark.parametrize(
    ("sides", "size", "batch", "words"),
    [
        (["N", 3, "H", "W"], None, 1, r"leaves the size of its input 'x' open \(N × 3 × H × W\).*--size 224"),
        ([1, 3, 20, 30], 224, 1, r"--size is 224x224, and .* fixes the size of its input: 'x' 1 × 3 × 20 × 30"),
        ([1, 3, 20, 30], None, 8, "--batch is 8, and .* fixes it at 1"),
    ],
)
def test_sizes_that_are_refused(small, sides, size, batch, words):
    with pytest.raises(UsageError, match=words):
        profile_file(small(*sides), size, batch)


# --- files that are none ---------------------------------------------------------------------------------------------


def test_files_that_are_cut_short_or_none(small, tmp_path):
    content = small(1, 3, 20, 30).read_bytes()
    path = tmp_path / "bad.onnx"
    for bad in (b"", b"\xff" * 100, b"not a model, only text", content[: len(content) // 2], content[:-40]):
        path.write_bytes(bad)
        with pytest.raises(CardError, match=r"bad\.onnx"):
            profile_file(path)


def test_weights_in_another_file_that_is_missing(small, tmp_path):
    model = onnx.load(small(1, 3, 20, 30))
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    whole = profile_file(tmp_path / "e.onnx")
    (tmp_path / "e.data").unlink()
    found = profile_file(tmp_path / "e.onnx")
    assert (found.macs, found.parameters) == (whole.macs, whole.parameters) != (0, 0)
    assert any("e.data, which is missing" in note for note in found.notes)


def test_what_is_inside_of_a_branch_is_not_counted(tmp_path):
    def branch(name):
        node = helper.make_node("Identity", ["x"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [("If", ["c"], ["y"], {"then_branch": branch("t"), "else_branch": branch("e")})]
    inputs = [("x", TensorProto.FLOAT, [1, 4]), ("c", TensorProto.BOOL, [])]
    found = profile_file(write(tmp_path / "if.onnx", nodes, inputs, [("y", TensorProto.FLOAT, [1, 4])]))
    assert found.notes == (
        "Unknown operators, counted by memory traffic alone: If (1).",
        "Operations inside If are not counted.",
    )
