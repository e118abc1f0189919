"""The stages that follow from a file's graph, as the page draws them."""

import pytest

from vertebra.graph.onnx_reader import read_onnx
from vertebra.serve.network_stages import network_stages


def test_stages(tiny_model, client):
    found = network_stages(read_onnx(tiny_model), 32)
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

    graph = read_onnx(exported(name))
    found = network_stages(graph, 64)
    assert {stage["kind"] for stage in found["stages"]} == kinds
    assert tuple(found["stages"][-2][key] for key in ("channels", "height", "width")) == last
    assert find_classifier(graph).shape == (7, last[0])
    if name in ("googlenet", "densenet121"):  # the first has heads that are not exported, the second norms that stay
        return
    network = create_model(name, weights=None, num_classes=7)
    # Batch norms are part of their convolutions in the file: for two numbers a channel there is one.
    norms = sum(m.num_features for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert found["parameters"] == sum(p.numel() for p in network.parameters()) - norms
