"""A network as one ONNX file: what it holds, that it is equal to torch, and that nothing is left of a failure."""

import copy
import errno
import shutil
import warnings
from collections import namedtuple
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
import torch
from safetensors.torch import save
from torch import nn

from vertebra.card import Card, CardError, Preprocessing, WeightSource, read_card
from vertebra.errors import UsageError, VertebraWarning, WeightsError
from vertebra.export import ExportError, ExportReport, Prepared, deployed_network, export, metadata, prepare
from vertebra.export.deployed_network import trace
from vertebra.export.torch_check import verify_against_torch
from vertebra.model_checksum import verify
from vertebra.models import create_model, list_models
from vertebra.synthetic_photos import synthetic_photos

SMALL = [*tiny.one_of_each(), "efficientnet_b0", "efficientnet_v2_s"]
OUTPUTS = ["probabilities", "embedding", "features"]

pytestmark = pytest.mark.usefixtures("tiny_module")


def run(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(OUTPUTS, {"image": images})


def own(name: str = "resnet18", size: int = 64, **options: Any) -> dict[str, Any]:
    """A small network of one's own and what its card needs."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=7, **options)
    return {"model": network, "preprocessing": Preprocessing(crop_size=size, resize_size=size), "architecture": name}


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export("efficientnet_lite0", tmp_path_factory.mktemp("lite0") / "lite0.onnx")


@pytest.mark.parametrize(
    "images",
    [
        "photos",
        Path("photos"),
        ["photos/1.jpg"],
        [np.zeros((64, 64, 3), np.float32)],
        np.zeros((2, 3, 64, 64), np.uint8),
    ],
    ids=["folder", "path", "files", "float", "channels first"],
)
def test_images_that_are_not_pixels_at_the_crop_size(tmp_path: Path, images: Any) -> None:
    with pytest.raises(UsageError, match=r"images\[0\] is .*; images takes pixels, arrays \(64, 64, 3\) of uint8"):
        export(out=tmp_path / "own.onnx", images=images, **own())
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_short(lite0: ExportReport) -> None:
    assert len(lite0.card.classes) == 1000
    assert len(repr(lite0)) < 1000


# --- the file ---------------------------------------------------------------------------------------------------------


def test_one_whole_file(lite0: ExportReport) -> None:
    onnx.checker.check_model(lite0.path, full_check=True)
    assert [path.name for path in lite0.path.parent.iterdir()] == ["lite0.onnx"]
    assert lite0.size == lite0.path.stat().st_size
    assert lite0.max_difference <= 1e-4
    graph = onnx.load(lite0.path).graph
    left_over = ("Identity", "Shape", "BatchNormalization", "Dropout", "Pad")
    assert not [node for node in graph.node if node.op_type in left_over]
    image = graph.input[0].type.tensor_type
    assert image.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in image.shape.dim][1:] == [224, 224, 3]
    assert image.shape.dim[0].dim_param  # N is free
    assert [output.name for output in graph.output] == OUTPUTS


def test_card_is_in_the_file(lite0: ExportReport) -> None:
    card = read_card(lite0.path)
    assert card == lite0.card
    assert card.architecture == "efficientnet_lite0" and card.licence == "Apache-2.0"
    assert card.classes is not None and card.classes[0] == "tench" and len(card.classes) == 1000
    assert card.weights is not None and card.weights.sha256.startswith("57934424")
    assert card.metrics["ImageNet-1K"]["acc@1"] == 75.1
    assert card.preprocessing.interpolation == "bicubic"
    metadata = ort.InferenceSession(str(lite0.path), providers=["CPUExecutionProvider"]).get_modelmeta()
    assert Card.from_json(metadata.custom_metadata_map["vertebra.card"]) == card
    assert verify(lite0.path).content_sha256 is not None


@pytest.mark.parametrize("changed", [{"crop_size": 192}, {"resize_size": 300}, {"interpolation": "nearest"}])
def test_published_metrics_hold_for_the_published_preprocessing_alone(changed: dict[str, Any]) -> None:
    assert prepare("efficientnet_lite0", preprocessing=changed).card.metrics == {}
    measured = {"insects": {"top1": 0.9}}
    assert prepare("efficientnet_lite0", preprocessing=changed, metrics=measured).card.metrics == measured


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_equal_to_torch_on_photos(lite0: ExportReport, shared_photos: list[Path], batch: int) -> None:
    from PIL import Image

    from vertebra.models import get_model_weights

    transform = get_model_weights("efficientnet_lite0").DEFAULT.transforms()
    pictures = [Image.open(path).convert("RGB") for path in shared_photos[:batch]]
    x = torch.stack([transform(picture) for picture in pictures])
    std, mean = (torch.tensor(v).view(1, 3, 1, 1) for v in (transform.std, transform.mean))
    pixels = ((x * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    model = create_model("efficientnet_lite0", weights="DEFAULT").eval()
    with torch.inference_mode():
        features = model.forward_features(x)
        expected = [model(x).softmax(1), model.forward_embedding(features), features]
    found = run(lite0.path, pixels)
    assert np.abs(found[0] - expected[0].numpy()).max() <= 1e-4
    for got, wanted in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-3, atol=1e-3)
    order = [np.argsort(-values, axis=1)[:, :5].tolist() for values in (found[0], expected[0].numpy())]
    assert order[0] == order[1]


def test_openvino_runs_it_unchanged(lite0: ExportReport) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is the second runtime")
    compiled = openvino.compile_model(str(lite0.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = synthetic_photos(3, 224, seed=5)
    found = compiled(images)
    for index, wanted in enumerate(run(lite0.path, images)):
        np.testing.assert_allclose(found[index], wanted, rtol=1e-2, atol=1e-4)


EVERY = [(name, "tiny") for name in [*SMALL, "vgg11_bn", "resnext50_32x4d", "efficientnet_lite0"]]
EVERY += [pytest.param(name, "whole", marks=pytest.mark.slow) for name in list_models()]


@pytest.mark.parametrize(("name", "width"), EVERY)
def test_every_network_exports(name: str, width: str, whole_names: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with whole_names() if width == "whole" else nullcontext():
        network = create_model(name, num_classes=10)
    report = export(
        network, tmp_path / "m.onnx", architecture=name, preprocessing=Preprocessing(crop_size=64, resize_size=64)
    )
    assert report.max_difference <= 1e-4
    probabilities, embedding, features = run(report.path, synthetic_photos(3, 64))
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert embedding.shape == (3, network.get_classifier().in_features)
    assert features.shape == (3, network.stages[-1].channels, 2, 2)


def test_googlenets_second_normalisation_is_in_the_graph(tmp_path: Path) -> None:
    report = export(out=tmp_path / "m.onnx", **own("googlenet", transform_input=True))
    assert report.max_difference <= 1e-4


class Odd(nn.Module):
    """What heads of one's own may do: views, constants in the code, a parameter used as it is, operations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 7))
        self.register_buffer("shift", torch.randn(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(x.shape[0], 2, 48).transpose(1, 2)
        x = (x[:, :, 0] - 0.5 * x[:, :, 1]) / 1.5
        x += torch.add(x, x, alpha=0.25)
        x = (-x).exp().unsqueeze(1).sqrt()[:, 0]
        return x.clamp(min=-1.0) @ self.weight + self.get_buffer("shift")


HEADS = {
    "layers": nn.Sequential(
        *(nn.LayerNorm(96), nn.Linear(96, 64), nn.GELU(), nn.Dropout(), nn.BatchNorm1d(64), nn.Tanh()),
        *(
            nn.Linear(64, 64, bias=False),
            nn.LeakyReLU(0.1),
            nn.Hardswish(),
            nn.ELU(),
            nn.Hardsigmoid(),
            nn.Linear(64, 7),
        ),
    ),
    "code": nn.Sequential(Odd(), nn.Linear(7, 7)),
    "shared": nn.Sequential(*[nn.Sequential(nn.Linear(96, 96), nn.ReLU(inplace=True))] * 2, nn.Linear(96, 7)),
    "probabilities": nn.Sequential(nn.Linear(96, 7), nn.LogSoftmax(1), nn.Linear(7, 7)),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_one_s_own(name: str, tmp_path: Path) -> None:
    options = own()
    options["model"].set_classifier(HEADS[name])
    assert export(out=tmp_path / "m.onnx", **options).max_difference <= 1e-4


def test_norms_are_folded_where_layers_share_weights(tiny_network: Any, tmp_path: Path) -> None:
    network = tiny_network("resnet", num_classes=7, depth=2)
    first, second = network.layer1
    second.conv1.weight = first.conv1.weight  # one weight, two norms
    second.bn1.weight.data.mul_(2)
    report = export(
        network, tmp_path / "m.onnx", architecture="resnet18", preprocessing=Preprocessing(crop_size=64, resize_size=64)
    )
    assert report.max_difference <= 1e-4
    assert not [node for node in onnx.load(report.path).graph.node if node.op_type == "BatchNormalization"]


def _transposed(network: nn.Module) -> None:
    classifier = network.get_classifier()
    classifier.weight = nn.Parameter(classifier.weight.detach().t().contiguous().t())


def _views_of_one(network: nn.Module) -> None:
    parameters = list(network.parameters())
    flat, end = torch.cat([p.detach().reshape(-1) for p in parameters]), 0
    for parameter in parameters:
        parameter.data = flat[end : end + parameter.numel()].view(parameter.shape)
        end += parameter.numel()


def _strided(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            twice = module.weight.detach().repeat_interleave(2, 0)
            twice[::2] = 9
            module.weight = nn.Parameter(twice[1::2])


def _expanded(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.tensor(0.1).expand(module.num_features)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.to(memory_format=torch.channels_last),
        lambda network: network.double(),
        _transposed,
        _views_of_one,
        _strided,
        _expanded,
    ],
    ids=["channels-last", "double", "transposed", "views of one", "strided", "expanded"],
)
def test_weights_may_lie_in_memory_as_they_like(name: str, change: Any, tmp_path: Path) -> None:
    options = own(name, size=32)
    change(options["model"])
    assert export(out=tmp_path / "m.onnx", **options).max_difference <= 1e-4


class InView(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = x[:, :10]
        part.mul_(5)
        return x


class Rounding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.div(x, 0.1, rounding_mode="floor")


class Narrow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :50]


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.arange(96.0)


class Mixing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 7)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            nn.Sequential(nn.Linear(96, 7), nn.Softshrink(), nn.Linear(7, 7)),
            r"fc\.1 uses the operation aten::softshrink",
        ),
        (
            nn.Sequential(nn.BatchNorm1d(96, track_running_stats=False), nn.Linear(96, 7)),
            r"fc\.0 computes its statistics",
        ),
        (nn.Sequential(nn.GELU("tanh"), nn.Linear(96, 7)), r"fc\.0 is an approximate GELU"),
        (nn.Sequential(Constant(), nn.Linear(96, 7)), r"fc\.0 uses"),
        (nn.Sequential(InView(), nn.Linear(96, 7)), r"fc\.1 reads a tensor that was changed in place"),
        (nn.Sequential(Rounding(), nn.Linear(96, 7)), r"fc\.0 divides and rounds"),
        (nn.Sequential(Narrow(), nn.Linear(96, 7)), r"fails on images of 64 × 64 pixels \(RuntimeError"),
        (nn.Linear(96, 7, device="meta"), r"cannot be copied to the CPU"),
        (
            nn.Sequential(nn.Linear(96, 14), Mixing(), nn.Linear(7, 7)),
            r"2 rows of logits for 1 images; .* mixes the images",
        ),
    ],
)
def test_a_layer_that_cannot_be_written_is_named(
    head: nn.Module, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed_network, "find_spec", lambda name: None)  # as where onnxscript is not installed
    options = own()
    options["model"].set_classifier(head)
    with pytest.raises((UsageError, ExportError), match=message):
        export(out=tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint(tmp_path: Path) -> None:
    model = create_model("resnet18", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    report = export(tmp_path / "mine.pth", tmp_path / "m.onnx", architecture="resnet18", classes=["a", "b", "c"])
    card = read_card(report.path)
    assert card.classes == ("a", "b", "c") and card.weights is not None and card.weights.name == "mine.pth"
    assert card.licence is None and card.metrics == {}


@pytest.fixture
def carried(tmp_path: Path) -> Prepared:
    """What a run ends with, and its weights in `run.safetensors`."""
    torch.manual_seed(0)
    network = create_model("googlenet", num_classes=3, aux_logits=False, transform_input=True)
    prepared = prepare(
        network,
        architecture="googlenet",
        classes=["ant", "bee", "cat"],
        preprocessing=Preprocessing(64, 72, "bicubic", (0.5,) * 3, (0.25,) * 3),
        provenance=WeightSource("GoogLeNet_Weights.IMAGENET1K_V1, fine-tuned on insects", "0" * 64),
        metrics={"insects": {"top1": 0.9}},
        licence="BSD-3-Clause",
        temperature=1.5,
        threshold=0.4,
    )
    (tmp_path / "run.safetensors").write_bytes(save(network.state_dict(), metadata(prepared)))
    return prepared


def test_a_run_s_weights_that_are_damaged(carried: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-100_001] ^= 0x80
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"run\.safetensors' is damaged, or was changed"):
        prepare(path)


def told(record: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in record if warning.category is VertebraWarning]


def test_a_run_s_weights_bring_all_that_is_known_of_them(carried: Prepared, tmp_path: Path) -> None:
    images = synthetic_photos(3, 64)
    direct = export(carried, tmp_path / "a.onnx")
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        again = export(tmp_path / "run.safetensors", tmp_path / "b.onnx")
    assert told(record) == []
    assert replace(again.card, created=None) == replace(direct.card, created=None)
    for one, other in zip(run(direct.path, images), run(again.path, images), strict=True):
        assert np.array_equal(one, other)
    named = prepare("googlenet", weights=tmp_path / "run.safetensors")
    assert named.card.preprocessing == carried.card.preprocessing
    assert named.network.transform_input  # type: ignore[attr-defined]


def test_what_is_asked_for_beats_what_a_file_says_and_is_told(carried: Prepared, tmp_path: Path) -> None:
    with pytest.warns(VertebraWarning) as record:
        card = prepare(
            tmp_path / "run.safetensors",
            classes=["a", "b", "c"],
            preprocessing={"crop_size": 96},
            temperature=1.0,
            threshold=0,
            network_options={"transform_input": False},
        ).card
    assert card.classes == ("a", "b", "c") and card.temperature == 1 and card.threshold is None
    assert card.preprocessing == replace(carried.card.preprocessing, crop_size=96, resize_size=108)
    assert card.metrics == {}  # measured with another view
    first, second = told(list(record))
    assert "saved with transform_input=True; the given transform_input=False is used instead" in first
    for part in (
        "crop_size 64, and 96 was asked for",
        "resize_size 72, and 108 was asked for",
        "temperature 1.5, and 1.0 was asked for",
        "threshold 0.4, and 0 was asked for",
        "other class names",
    ):
        assert part in second
    with warnings.catch_warnings(record=True) as same:
        warnings.simplefilter("always")
        card = prepare(tmp_path / "run.safetensors", temperature=1.5, threshold=0.4, classes=["ant", "bee", "cat"]).card
    assert told(same) == [] and card.metrics == carried.card.metrics


def test_weights_of_another_network_are_refused(carried: Prepared, tmp_path: Path) -> None:
    for call in (
        lambda path: prepare(path, architecture="resnet18"),
        lambda path: prepare("resnet18", weights=path),
        lambda path: create_model("resnet18", weights=path),
    ):
        with pytest.raises(WeightsError, match=r"holds weights of googlenet, not of resnet18"):
            call(tmp_path / "run.safetensors")


def test_what_a_bare_file_does_not_say_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth.tar"
    torch.save({"state_dict": create_model("mobilenet_v2", num_classes=3).state_dict()}, path)
    with pytest.warns(VertebraWarning) as record:
        prepare(path, architecture="mobilenet_v2")
    (line,) = told(list(record))
    assert "mine.pth.tar' does not say how its network is used; assumed: size 224, resize 232, " in line
    assert "interpolation bilinear, mean 0.485/0.456/0.406, std 0.229/0.224/0.225, classes 0 to 2, " in line
    assert "temperature 1, threshold 0. Each is an option" in line
    given = {"crop_size": 64, "resize_size": 64, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.warns(VertebraWarning) as record:
        prepare(path, architecture="mobilenet_v2", preprocessing=given, classes=["a", "b", "c"])
    assert "assumed: temperature 1, threshold 0. Each" in told(list(record))[0]
    with warnings.catch_warnings(record=True) as none:
        warnings.simplefilter("always")
        full = {"preprocessing": Preprocessing(64, 64), "classes": ["a", "b", "c"], "temperature": 1, "threshold": 0}
        prepare(path, architecture="mobilenet_v2", **full)
    assert told(none) == []
    torch.save(create_model("mobilenet_v2").state_dict(), path)
    with pytest.warns(VertebraWarning, match="classes tench, goldfish … as published"):
        assert prepare(path, architecture="mobilenet_v2").card.classes[0] == "tench"


def test_temperature_is_in_the_graph(tmp_path: Path) -> None:
    images = synthetic_photos(2, 64)
    cold = run(export(out=tmp_path / "a.onnx", **own()).path, images)[0]
    warm = run(export(out=tmp_path / "b.onnx", temperature=3.0, **own()).path, images)[0]
    expected = np.exp(np.log(cold) / 3)
    np.testing.assert_allclose(warm, expected / expected.sum(1, keepdims=True), rtol=1e-3)


def test_the_users_network_is_left_as_it_was(tmp_path: Path) -> None:
    options = own()
    network = options["model"].train()
    before = copy.deepcopy(network.state_dict())
    export(out=tmp_path / "m.onnx", **options)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


# --- proof ------------------------------------------------------------------------------------------------------------


def test_a_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of the traced copy is moved: the proof sees it, says by how much, and there is no file."""

    def other(network: nn.Module, *arguments: Any) -> onnx.ModelProto:
        changed = copy.deepcopy(network)
        with torch.no_grad():
            changed.fc.bias[0] += 0.1
        return trace(changed, *arguments)

    monkeypatch.setattr("vertebra.export.export_network.trace", other)
    with pytest.raises(ExportError, match=r"probabilities differs from torch by \d\.\d+e-\d+ at batch size 1"):
        export(out=tmp_path / "m.onnx", **own())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", [1, 2])
def test_the_other_outputs_are_proven_too(output: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = own()
    network = options["model"].eval()
    model = trace(network, options["preprocessing"], 1.0).SerializeToString()
    images = list(synthetic_photos(3, 64))
    card = Card("resnet18", options["preprocessing"])
    assert verify_against_torch(model, network, card, images) <= 1e-4
    from vertebra.export import torch_check

    reference = torch_check.reference

    def moved(*arguments: Any) -> Any:
        expected = [array.copy() for array in reference(*arguments)]
        expected[output][0] += 0.05 * np.abs(expected[output]).max()
        return tuple(expected)

    monkeypatch.setattr(torch_check, "reference", moved)
    with pytest.raises(ExportError, match=OUTPUTS[output]):
        verify_against_torch(model, network, card, images)


def test_another_order_of_classes_is_seen() -> None:
    from vertebra.export.torch_check import _compare

    wanted = np.full((1, 6), 0.1, np.float32) + np.arange(6, dtype=np.float32) * 4e-5
    got = wanted[:, ::-1] * 0 + np.sort(wanted)[:, ::-1]
    rest = [np.zeros((1, 1), np.float32)] * 2
    wide = wanted * 0.1  # the same order, differences within the tolerance
    with pytest.raises(ExportError, match=r"five best classes of image 1"):
        _compare([wide, *rest], [got * 0.1, *rest], 1)
    # Where a network is sure of another class, the order of the rest is noise.
    sure = np.array([[0.9999, 3e-5, 2e-5, 1e-5, 5e-6]], np.float32)
    assert _compare([sure, *rest], [sure[:, [0, 2, 1, 4, 3]], *rest], 1) < 2e-5
    likelier = np.array([[0.9, 3e-2, 2.999e-2]], np.float32)
    assert _compare([likelier, *rest], [likelier[:, [0, 2, 1]], *rest], 1) < 2e-5
    with pytest.raises(ExportError, match=r"\[0, 2, 1\]"):
        _compare([np.array([[0.9, 3e-4, 2.5e-4]]), *rest], [np.array([[0.9, 2.5e-4, 3e-4]]), *rest], 1)


def test_damaged_weights(tmp_path: Path) -> None:
    options = own()
    nn.init.constant_(options["model"].fc.weight, float("nan"))
    with pytest.raises(WeightsError, match="NaN or infinite"):
        export(out=tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, r"mean has the value 123\.7.*Of bytes it would be 0\.4851"),
        ({"mean": (-0.5, 0.5, 0.5)}, r"mean has the value -0\.5.*from 0 to 1"),
        ({"std": (58.4, 57.1, 57.4)}, r"std has the value 58\.4.*0\.229"),
        ({"std": (0.5, 0.0, 0.5)}, r"std is \(0\.5, 0\.0, 0\.5\); no channel can be divided by 0"),
        ({"interpolation": "bicubik"}, r"allowed are nearest, bilinear, bicubic\. Did you mean 'bicubic'"),
        ({"crop_size": 96, "resize_size": 64}, r"resize is 64 and size 96"),
        ({"crop": 96}, r"preprocessing has no 'crop'; it has crop_size"),
    ],
)
def test_a_preprocessing_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare("mobilenet_v2", weights=None, preprocessing=changes)


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_one_class_is_refused(name: str, tmp_path: Path) -> None:
    network = create_model(name, num_classes=1)
    torch.save(network.state_dict(), tmp_path / "one.pth")
    for model, options in ((network, {"preprocessing": Preprocessing(64)}), (tmp_path / "one.pth", {})):
        with pytest.raises(UsageError, match=r"one class.*1\.0 for every photo.*num_classes=2"):
            prepare(model, architecture=name, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet-18"}, "Did you mean 'resnet18'"),
        ({"model": "missing.pth"}, "no such file"),
        ({"model": Path(__file__).parent}, "export is no run: .* a weight file"),
        ({"model": "resnet18", "architecture": "resnet34", "weights": None}, "architecture"),
        ({"model": "resnet18", "weights": None, "classes": ["one"]}, "1 class name, .* 1,000 classes"),
        ({"model": "vgg16", "weights": "nope"}, "no weights 'nope'"),
    ],
)
def test_what_cannot_be_prepared(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, WeightsError), match=message):
        export(options.pop("model"), tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_needs_its_network(tmp_path: Path) -> None:
    torch.save(create_model("resnet18", num_classes=3).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UsageError, match="--model NAME"):
        prepare(tmp_path / "mine.pth")
    with pytest.raises(UsageError, match="already has weights"):
        prepare(tmp_path / "mine.pth", architecture="resnet18", weights="IMAGENET1K_V1")
    with pytest.raises(UsageError, match="preprocessing"):
        prepare(create_model("resnet18"))


def test_classes_in_another_order() -> None:
    from vertebra.models import get_model_weights

    names = list(get_model_weights("efficientnet_lite0").DEFAULT.meta["categories"])
    names[3], names[8] = names[8], names[3]
    with pytest.raises(UsageError, match="another order: class 3"):
        prepare("efficientnet_lite0", classes=names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 1}, "takes 1 channel "),
        ({"name": "vgg11", "size": 31}, "at least 32 pixels"),
    ],
)
def test_networks_that_photos_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export(out=tmp_path / "m.onnx", **own(**options))


def test_targets(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.onnx").write_text("a letter")
    for out, message in (
        (tmp_path / "m.pth", r"must end in \.onnx"),
        (tmp_path / "folder.onnx", "is a folder"),
        (tmp_path / "text.onnx", "not an ONNX file"),
    ):
        with pytest.raises(UsageError, match=message):
            export(out=out, **own())
    assert (tmp_path / "text.onnx").read_text() == "a letter"
    with pytest.raises(ExportError, match=r"cannot be written \(.*\)\. Give another place with --out\."):
        export(out=tmp_path / "text.onnx" / "m.onnx", **own())
    export(out=tmp_path / "made" / "of two" / "m.onnx", **own())
    assert read_card(tmp_path / "made" / "of two" / "m.onnx").architecture


def test_an_older_export_is_replaced(tmp_path: Path) -> None:
    export(out=tmp_path / "m.onnx", **own())
    export(out=tmp_path / "m.onnx", **own("mobilenet_v2"))
    assert read_card(tmp_path / "m.onnx").architecture == "mobilenet_v2"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(ExportError, match=r"the disk is full.*Make room"):
        export(out=tmp_path / "m.onnx", **own())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(export(out=tmp_path / "first.onnx", **own()).path.read_bytes())
    before = (tmp_path / "m.onnx").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ExportError, match="the disk is full"):
        export(out=tmp_path / "m.onnx", **own())
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.onnx", "m.onnx"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("vertebra.export.export_network.check_writable", refuse)
    with pytest.raises(ExportError, match=r"permission denied.*--out"):
        export(out=tmp_path / "m.onnx", **own())


def test_a_file_without_a_card(lite0: ExportReport, tmp_path: Path) -> None:
    model = onnx.load(lite0.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(CardError, match="card"):
        read_card(tmp_path / "bare.onnx")
