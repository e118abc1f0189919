"""The graph that is timed in ONNX Runtime: the shapes of the trace, the nodes of the exporter."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import vertebra
from vertebra.errors import UsageError
from vertebra.graph import trace as tracer

onnx = pytest.importorskip("onnx")

from vertebra.graph.onnx_writer import serialize_for_timing  # noqa: E402


def graph_of(network, size=None, **options):
    return graph_of_subject(vertebra.anatomy(network, size, **options).subject)


def graph_of_subject(subject):
    return onnx.load_from_string(
        serialize_for_timing(tracer.trace_network(subject.network, subject.args, subject.kwargs))
    )


def test_shapes_are_those_of_the_rows(to_be_written, of_family):
    anatomy = to_be_written(of_family, 64)
    graph = onnx.shape_inference.infer_shapes(graph_of_subject(anatomy.subject), strict_mode=True).graph
    shapes = {
        value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    last = {}  # of several nodes of a row the last one has its result
    for node in graph.node:
        last[int(node.name.removeprefix("row").partition("_")[0])] = shapes[node.output[0]]
    assert {row: anatomy.rows[row].output_shape for row in last} == last
    convolutions = [row.index for row in anatomy.rows if row.weight_shape]
    assert set(convolutions) <= last.keys()


class Mixed(nn.Module):
    """Something of everything that the six families do."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.SiLU())
        self.norm = nn.BatchNorm2d(16)
        self.max, self.avg = nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.one(x)
        x = torch.cat([x, self.two(x) + x], 1)
        x = torch.relu(self.norm(x))
        x = self.avg(self.max(x))
        x = self.gate(x) * x
        return self.head(x.mean([2, 3]))


@pytest.mark.filterwarnings("ignore")
def test_nodes_are_those_of_the_exporter(tmp_path):
    program = torch.onnx.export(Mixed().eval(), (torch.zeros(1, 3, 32, 32),), dynamo=True, verbose=False)
    theirs = Counter(node.op_type for node in program.model_proto.graph.node)
    ours = Counter(node.op_type for node in graph_of(Mixed(), 32).graph.node)
    # A global mean may be written in two ways, and takes the same time.
    for nodes in (theirs, ours):
        nodes["mean"] = nodes.pop("GlobalAveragePool", 0) + nodes.pop("ReduceMean", 0) + nodes.pop("AveragePool", 0)
    assert ours == theirs


def test_it_computes_what_torch_does():
    """With the same weights it is the same network: made-up ones are put into both."""
    onnxruntime = pytest.importorskip("onnxruntime")
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5))
    model = graph_of(network, 16)
    weights = [onnx.numpy_helper.to_array(value) for value in model.graph.initializer]
    with torch.no_grad():
        for parameter, values in zip(network.parameters(), (w for w in weights if w.dtype == np.float32), strict=True):
            parameter.copy_(torch.from_numpy(values.copy()))
    x = torch.randn(1, 3, 16, 16)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], network(x).detach(), atol=1e-5)


class Two(nn.Module):
    def forward(self, x):
        return x, x + 1


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softshrink()), {}),
        (nn.ConvTranspose2d(3, 4, 3), {}),
        (Two(), {}),
        (nn.Conv2d(3, 4, 3), {"dtype": "float16"}),
    ],
)
def test_what_it_does_not_write_is_said(network, options):
    with pytest.raises(UsageError, match="Choose the executor torch"):
        graph_of(network, **options)
