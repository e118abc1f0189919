"""Which operations run as one kernel, against the graph that ONNX Runtime makes of a network."""

from collections import Counter

import pytest
from torch import nn

import vertebra
from vertebra.anatomy import Kind
from vertebra.anatomy.kernels import COMPILED, EAGER, ONNXRUNTIME, build_kernels


def optimised(anatomy, path):
    """Operators that ONNX Runtime runs, without views and the changes of layout between them."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from vertebra.graph import trace as tracer
    from vertebra.graph.onnx_writer import serialize_for_timing

    subject = anatomy.subject
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        serialize_for_timing(tracer.trace_network(subject.network, subject.args, subject.kwargs)),
        options,
        ["CPUExecutionProvider"],
    )
    views = ("ReorderInput", "ReorderOutput", "Reshape", "Flatten", "Split")
    return Counter(node.op_type for node in onnx.load(path).graph.node if node.op_type not in views)


def test_kernels_are_those_of_onnxruntime(to_be_written, of_family, tmp_path):
    anatomy = to_be_written(of_family, 64)
    runs = optimised(anatomy, tmp_path / "optimised.onnx")
    kernels = build_kernels(anatomy.rows, ONNXRUNTIME)
    # It makes depthwise 1×1 convolutions of the norms that it cannot fold.
    convolutions = sum("conv" in kernel.main.kind or kernel.main.op == "batch_norm" for kernel in kernels)
    assert convolutions == runs["Conv"] + runs["FusedConv"]
    # SiLU is two nodes there, unless it fuses them, and one here; so is a pooling that no side divides.
    double = sum(kernel.main.op in ("silu", "adaptive_avg_pool2d") for kernel in kernels)
    assert len(kernels) <= runs.total() <= len(kernels) + double


def test_eager_runs_each_operation(taken):
    anatomy = taken("resnet18", 64)
    kernels = build_kernels(anatomy.rows, EAGER)
    assert [kernel.main for kernel in kernels] == [row for row in anatomy.layers if row.kind is not Kind.UNUSED]


def test_a_fused_kernel_reads_and_writes_once(taken):
    anatomy = taken("resnet18", 64)
    kernel = next(k for k in build_kernels(anatomy.rows, ONNXRUNTIME) if k.main.name == "layer1.0.conv2")
    assert [row.op for row in kernel.rows] == ["conv2d", "batch_norm", "add", "relu"]
    one_map = 64 * 16 * 16 * 4
    assert kernel.weight_bytes == 64 * 64 * 9 * 4, "the norm is folded into the weights"
    assert (kernel.read_bytes, kernel.write_bytes) == (2 * one_map, one_map), "its input and the shortcut"
    assert kernel.bytes == kernel.weight_bytes + 3 * one_map
    assert kernel.macs == 64 * 64 * 9 * 16 * 16
    assert kernel.operations > 2 * kernel.macs


def test_a_compiler_fuses_silu_and_onnxruntime_does_not():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())
    rows = vertebra.anatomy(net, 16).rows
    assert len(build_kernels(rows, COMPILED)) == 1
    assert len(build_kernels(rows, ONNXRUNTIME)) == 2


def test_padding_belongs_to_the_convolution_behind_it():
    net = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, stride=2), nn.ReLU6())
    (kernel,) = build_kernels(vertebra.anatomy(net, 16).rows, ONNXRUNTIME)
    assert kernel.main.op == "conv2d"
    assert [row.op for row in kernel.rows] == ["pad", "conv2d", "relu6"]


def test_a_result_that_others_read_is_not_fused_away():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            y = self.conv(x)
            return y.relu() + y

    rows = vertebra.anatomy(Twice(), 16).rows
    assert [kernel.main.op for kernel in build_kernels(rows, ONNXRUNTIME)] == ["conv2d", "relu", "add"]
