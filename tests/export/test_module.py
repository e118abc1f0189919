"""Any module as a file: whose preprocessing and class names it gets, what is told, what is refused, that it is left."""

import copy
import pickle
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import vertebra
from vertebra import imagenet
from vertebra.card import Preprocessing, read_card
from vertebra.errors import UsageError, VertebraWarning
from vertebra.export import ExportError, deployed_network, export, prepare
from vertebra.models import create_model
from vertebra.synthetic_photos import synthetic_photos

SIZE = 24
PREPROCESSING = Preprocessing(size=SIZE, resize=28, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2))


class Small(nn.Module):
    """A network of no library."""

    def __init__(self, count: int = 5, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3))
        self.head = nn.Linear(12, count)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x).mean((2, 3)))


class Then(nn.Module):
    """A network and what is done with its logits."""

    def __init__(self, function: Callable[[Tensor], Any], count: int = 5) -> None:
        super().__init__()
        self.inner = Small(count)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.inner(x))


def told(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, and what it tells."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        found = call()
    return found, " ".join(str(entry.message) for entry in record if entry.category is VertebraWarning)


def outputs(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["probabilities", "embedding", "features"], {"image": images})


def expected(network: nn.Module, images: np.ndarray, preprocessing: Preprocessing = PREPROCESSING) -> np.ndarray:
    """Probabilities by torch, the network in eval mode."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        logits = copy.deepcopy(network).float().eval()(x)
    return (logits if isinstance(logits, Tensor) else logits["logits"]).softmax(1).numpy()


# --- what a file holds -----------------------------------------------------------------------------------------------


def test_vertebra_export_is_the_function_and_the_package(tmp_path: Path) -> None:
    report = vertebra.export(Small(), tmp_path / "m.onnx", preprocessing=PREPROCESSING, classes=list("abcde"))
    assert vertebra.export.export is export and isinstance(vertebra.export, types.ModuleType)
    assert read_card(tmp_path / "m.onnx") == report.card
    assert report.card.architecture == "small" and report.card.classes == tuple("abcde")
    assert report.card.weights is not None and report.card.weights.name == "not recorded"
    images = synthetic_photos(3, SIZE)
    probabilities, embedding, features = outputs(report.path, images)
    np.testing.assert_allclose(probabilities, expected(Small(), images), atol=1e-6)
    assert embedding.shape == (3, 12) and features.shape == (3, 12, 10, 10)
    np.testing.assert_allclose(features.mean((2, 3)), embedding, atol=1e-5)
    (result,) = vertebra.load(report.path).probabilities(images[:1])
    np.testing.assert_allclose(result, probabilities[0], atol=1e-6)


def plain_hook(network: nn.Module) -> nn.Module:
    network.register_forward_hook(lambda module, args, output: output * 3)
    return network


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(lambda: nn.DataParallel(Small()), id="DataParallel"),
        pytest.param(lambda: torch.compile(Small()), id="compile", marks=pytest.mark.slow),  # 5 s to import it
        pytest.param(lambda: torch.optim.swa_utils.AveragedModel(Small()), id="AveragedModel"),
        pytest.param(lambda: Small().half(), id="half"),
        pytest.param(lambda: Small().to(torch.bfloat16), id="bfloat16"),
        pytest.param(lambda: Then(lambda y: {"logits": y, "aux": y * 2}), id="dict"),
        pytest.param(lambda: Then(lambda y: y.log_softmax(1)), id="log-softmax"),
        pytest.param(lambda: Then(lambda y: y.squeeze(-1)), id="squeeze of a side that is not 1"),
        pytest.param(lambda: Then(lambda y: y[:, None, :, None].squeeze((1, 3)).squeeze(1)), id="squeeze of several"),
        pytest.param(lambda: plain_hook(Small()), id="hook"),
        pytest.param(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5)), id="linear"),
        pytest.param(lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), id="conv head"),
    ],
)
def test_whatever_it_is_wrapped_in_it_predicts_the_same_and_is_left_as_it_was(
    network: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    given = network().train()
    values = copy.deepcopy(given.state_dict())
    report = export(given, tmp_path / "m.onnx", preprocessing=PREPROCESSING)
    assert report.max_difference <= 1e-4
    images = synthetic_photos(3, SIZE, seed=1)
    inner = given.module if isinstance(given, nn.DataParallel) else getattr(given, "_orig_mod", given)
    probabilities, embedding, features = outputs(report.path, images)
    np.testing.assert_allclose(probabilities, expected(inner, images), atol=1e-5)
    assert embedding.ndim == 2 and features.ndim == 4 and embedding.shape[0] == features.shape[0] == 3
    assert all(module.training for module in given.modules())
    assert all(torch.equal(a, b) for a, b in zip(values.values(), given.state_dict().values(), strict=True))
    hooks = [hook for module in given.modules() for hook in module._forward_hooks.values()]
    assert len(hooks) == (1 if isinstance(given, Small) and given._forward_hooks else 0)


class Attention(nn.Module):
    """What vision transformers and shuffled channels are made of: a class token, both kinds of attention, chunks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 10, 16))
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.qkv = nn.Linear(16, 48)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.patches(x).chunk(2, 1)
        x = torch.stack([one, other], 2).flatten(1, 2).flatten(2).transpose(1, 2)  # (N, 9, 16)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        q, k, v = self.qkv(x).reshape(len(x), 10, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 10, 16)
        return self.head(x[:, 0])


def test_attention_is_written_for_any_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed_network, "find_spec", lambda name: None)  # not by torch's exporter
    report = export(Attention(), tmp_path / "m.onnx", preprocessing=PREPROCESSING)
    for count in (1, 3, 8):
        images = synthetic_photos(count, SIZE, seed=count)
        probabilities, embedding, features = outputs(report.path, images)
        np.testing.assert_allclose(probabilities, expected(Attention(), images), atol=1e-5)
        assert embedding.shape == (count, 16)
        assert np.array_equal(features[:, :, 0, 0], embedding)  # which has no map


def test_averages_whose_strides_torch_sets_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed_network, "find_spec", lambda name: None)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    network = layers.to(memory_format=torch.channels_last)
    report = export(network, tmp_path / "m.onnx", preprocessing=PREPROCESSING)
    images = synthetic_photos(3, SIZE)
    np.testing.assert_allclose(outputs(report.path, images)[0], expected(network, images), atol=1e-5)


def test_an_operation_that_is_not_known_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(Small(), nn.Softshrink(), nn.Linear(5, 3))
    monkeypatch.setattr(deployed_network, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"layer 1 uses the operation aten::softshrink.*pip install onnxscript"):
        export(network, tmp_path / "m.onnx", preprocessing=PREPROCESSING)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torch_s_exporter_writes_what_the_tracer_does_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="torch's exporter needs it")
    network = nn.Sequential(Small(), nn.Softshrink(), nn.Linear(5, 3))
    with pytest.warns(VertebraWarning, match=r"^the layer 1 uses the operation aten::softshrink, .* torch\.onnx"):
        report = export(network, tmp_path / "m.onnx", preprocessing=PREPROCESSING)
    assert onnx.load(report.path).producer_name == "pytorch"
    images = synthetic_photos(5, SIZE)
    np.testing.assert_allclose(outputs(report.path, images)[0], expected(network, images), atol=1e-5)
    assert capfd.readouterr() == ("", "")


# --- what is refused or told -----------------------------------------------------------------------------------------


def pruned(network: Small) -> nn.Module:
    prune.random_unstructured(network.head, "weight", 0.5)
    return network


def pairs_only(logits: Tensor) -> Tensor:
    """Fails as what `torch.export.export` made does on another number of images than it was made with."""
    assert len(logits) in (2, 1009), "two images at a time"
    return logits


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 5)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (Small, {"preprocessing": None}, r"nothing says how the photos of this Small.*weights=.*preprocessing=vert"),
        (
            Small,
            {"preprocessing": {"crop_size": 24}},
            r"this Small is incomplete: give mean and std too, or weights=",
        ),
        (Small, {"preprocessing": {"side": 24}}, r"preprocessing has no 'side'"),
        (Small, {"classes": list("abc")}, r"3 class names, and the network has 5"),
        (Small, {"classes": "none.txt"}, r"classes 'none\.txt' cannot be read"),
        (Small, {"weights": "mine.pth"}, r"the file 'mine\.pth' cannot be used.*load_state_dict"),
        (Small, {"weights": 5}, r"weights is 5; for a module it is a member"),
        (Small, {"weights": "IMAGENET1K_V1"}, r"many networks have.*'ResNet50_Weights\.IMAGENET1K_V1'"),
        (Small, {"weights": "ResNet18_Weights.IMAGNET1K_V1"}, r"Did you mean 'IMAGENET1K_V1'"),
        (Small, {"network_options": {"transform_input": True}}, r"is built already, so transform_input"),
        (lambda: Small(channels=1), {}, r"takes 1 channel .*RGB"),
        (lambda: Small(1), {}, r"one class.*num_classes=2"),
        (lambda: Then(lambda y: y.softmax(1)), {}, r"ends in a softmax of its own.*Return what is before it"),
        (lambda: Then(lambda y: y.squeeze()), {}, r"torch itself cannot run the network at batch size 1 "),
        (lambda: Then(pairs_only), {}, r"torch itself cannot run the network at batch size 1 \(two images at a time"),
        (lambda: nn.Sequential(Small(), nn.Sigmoid()), {}, r"ends in a sigmoid.*several classes"),
        (lambda: Then(lambda y: (y.softmax(1) + y.flip(1).softmax(1)) / 2), {}, r"gives probabilities.*mean"),
        (lambda: Then(lambda y: y.exp() / y.exp().sum(1, keepdim=True)), {}, r"gives probabilities"),
        (lambda: pruned(Small()), {}, r"cannot be copied.*torch\.nn\.utils\.prune\.remove\(layer, 'weight'\)"),
        (Small, {"classes": {"ant", "bee", "cat", "elk", "fox"}}, r"classes is a set, which has no order"),
        (Small, {"classes": 5}, r"classes is 5; give a list of names"),
        (Small, {"classes": ["ant", "bee", "cat", None, "fox"]}, r"classes\[3\] is None; the name of a class is text"),
        (Small, {"classes": ["ant", "bee", " ", "elk", "fox"]}, r"classes\[2\] is ' '"),
        (Small, {"classes": dict(zip("abcde", (1, 2, 3, 4, 5), strict=True))}, r"indices are not 0 to 4, each once"),
        (Small, {"classes": dict(zip("abcde", "vwxyz", strict=True))}, r"indices are not 0 to 4"),
        (lambda: Then(lambda y: (y, y)), {}, r"gives a tuple of 2; it must give a tensor of logits"),
        (lambda: Then(lambda y: {"out": y}), {}, r"gives a dict of 'out'"),
        (lambda: Then(lambda y: y[:, :, None]), {}, r"a tensor \(2, 5, 1\)"),
        (lambda: Then(lambda y: y.argmax(1)), {}, r"a tensor \(2,\)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 5)), {}, r"fails on images of 24 × 24 pixels \(RuntimeError"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), {}, r"1\.weight has no shape yet"),
        (lambda: Small, {}, r"the model is a type; give a network's name.*Call it"),
        (lambda: 5, {}, r"the model is a int"),
    ],
)
def test_what_cannot_be_exported(network: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ExportError), match=message):
        export(network(), tmp_path / "m.onnx", **({"preprocessing": PREPROCESSING} | options))
    assert not list(tmp_path.iterdir())


def test_a_network_that_mixes_the_images_of_a_batch(tmp_path: Path) -> None:
    with pytest.raises((UsageError, ExportError), match=r"gives a tensor \(4, 5\) of torch.float32 for 2 images"):
        export(nn.Sequential(Small(10), Mixing()), tmp_path / "m.onnx", preprocessing=PREPROCESSING)


def test_a_network_whose_result_is_of_all_images_of_a_batch(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"for an image alone than .* mixes the images of a batch"):
        export(Then(lambda y: y - y.mean(0)), tmp_path / "m.onnx", preprocessing=PREPROCESSING)
    assert not list(tmp_path.iterdir())


def test_a_quantised_network(tmp_path: Path) -> None:
    module = type("Linear", (nn.Linear,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.linear"})
    with pytest.raises(UsageError, match=r"the layer 1 is quantised \(Linear\)\. Export the float"):
        export(nn.Sequential(nn.Flatten(), module(12, 5)), tmp_path / "m.onnx", preprocessing=PREPROCESSING)


def test_normalising_twice_is_told(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="whose Normalize it is")
    network = nn.Sequential(transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), Small())
    report, text = told(lambda: export(network, tmp_path / "m.onnx", preprocessing=PREPROCESSING))
    assert "begins by changing the values of its input itself (aten::sub)" in text
    assert "mean 0.5/0.4/0.3" in text and "mean=(0, 0, 0) and std=(1, 1, 1)" in text
    images = synthetic_photos(2, SIZE)
    np.testing.assert_allclose(outputs(report.path, images)[0], expected(network, images), atol=1e-5)
    once = Preprocessing(size=SIZE, mean=0, std=1)
    assert told(lambda: export(network, tmp_path / "n.onnx", preprocessing=once))[1] == ""


def test_what_is_assumed_of_a_preprocessing_is_told() -> None:
    asked = {"crop_size": SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    prepared, text = told(lambda: prepare(Small(), preprocessing=asked))
    assert prepared.card.preprocessing == Preprocessing(SIZE, 27, mean=0.5, std=0.5)
    assert "assumed: resize 27, interpolation bilinear." in text


def test_a_network_without_its_classifier_is_told() -> None:
    network = Small()
    network.head = nn.Identity()
    assert "no linear layer gives its 12 outputs" in told(lambda: prepare(network, preprocessing=PREPROCESSING))[1]
    assert told(lambda: prepare(network, preprocessing=PREPROCESSING, classes=list("abcdefghijkl")))[1] == ""


def test_classes_from_a_file_and_by_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ant\nbee\n\ncat\nelk\nfox\n")
    for classes in (tmp_path / "classes.txt", str(tmp_path / "classes.txt")):
        card = prepare(Small(), preprocessing=PREPROCESSING, classes=classes).card
        assert card.classes == ("ant", "bee", "cat", "elk", "fox")
    names = ("fox", "ant", "elk", "bee", "cat")
    for given in (
        {"ant": 1, "bee": 3, "cat": 4, "elk": 2, "fox": 0},  # as ImageFolder.class_to_idx, not in order
        {index: names[index] for index in (4, 2, 0, 1, 3)},
        {str(index): names[index] for index in (4, 2, 0, 1, 3)},  # id2label in a JSON file
        iter(names),
        np.array(names),
    ):
        assert prepare(Small(), preprocessing=PREPROCESSING, classes=given).card.classes == names, given
    assert prepare(Small(), preprocessing=PREPROCESSING, classes=range(5)).card.classes == tuple("01234")
    thousand = prepare(Small(1000), preprocessing=PREPROCESSING, classes="imagenet").card.classes
    assert thousand is not None and thousand[0] == "tench"


def test_classes_of_one_name_are_told(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n b\nc\na\n")
    of_index = {0: "a", 1: "b", 2: "b", 3: "c", 4: "a"}
    for classes in (list("abbca"), tmp_path / "classes.txt", of_index):
        prepared, text = told(lambda given=classes: prepare(Small(), preprocessing=PREPROCESSING, classes=given))
        assert "the classes 0 and 4 are all named 'a' (and so with 1 other name), so results cannot tell" in text
        assert prepared.card.classes == tuple("abbca")
    former = imagenet.class_names().copy()
    for index, name in imagenet.FORMER_NAMES.items():
        former[index] = name
    assert former.count("crane") == former.count("maillot") == 2
    assert told(lambda: prepare(Small(1000), preprocessing=PREPROCESSING, classes=former))[1] == ""
    assert told(lambda: prepare(Small(), preprocessing=PREPROCESSING, classes=list("abcde")))[1] == ""


# --- ours: the weights that a network was created with ---------------------------------------------------------------


LITE0 = "EfficientNet_Lite0_Weights.IMAGENET1K_V1"


@pytest.fixture(scope="module")
def lite0() -> Any:
    return create_model("efficientnet_lite0", weights="DEFAULT")


@pytest.mark.parametrize(
    "copied", [lambda n: n, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n)), nn.DataParallel]
)
def test_a_network_remembers_its_weights(copied: Callable[[Any], Any], lite0: Any) -> None:
    prepared, text = told(lambda: prepare(copied(lite0)))
    named = prepare("efficientnet_lite0").card
    assert text == ""
    for name in ("architecture", "preprocessing", "classes", "weights", "metrics", "licence"):
        assert getattr(prepared.card, name) == getattr(named, name), name


@pytest.mark.parametrize(
    ("change", "outputs"),
    [
        (lambda n: n.reset_classifier(1000), 1000),
        (lambda n: n.reset_classifier(7), 7),
        (lambda n: n.set_classifier(nn.Linear(1280, 1000)), 1000),
        (lambda n: setattr(n, "classifier", nn.Sequential(nn.Dropout(), nn.Linear(1280, 1000))), 1000),
        (lambda n: n.get_classifier().weight.data.add_(1e-3), 1000),
        (lambda n: n.load_state_dict({k: v + 1e-3 for k, v in n.state_dict().items()}), 1000),
    ],
    ids=["reset", "reset to 7", "set", "by hand", "trained", "loaded"],
)
def test_another_head_never_has_the_names_of_the_weights(change: Any, outputs: int, lite0: Any) -> None:
    network = copy.deepcopy(lite0)
    change(network)
    prepared, text = told(lambda: prepare(network))
    card = prepared.card
    assert card.classes is None and card.metrics == {} and prepared.network.num_classes == outputs
    assert card.preprocessing == lite0.origin.weights.preprocessing
    assert card.weights is not None and card.weights.name == f"{LITE0}, changed since" and card.weights.sha256 is None
    assert f"no longer those of {LITE0}" in text and "size 224, resize 256, interpolation bicubic" in text
    assert f"the classes are numbers, 0 to {outputs - 1}, since" in text
    assert ("a list, a file, or imagenet" in text) == (outputs == 1000)
    given = {"classes": [str(i) for i in range(outputs)], "preprocessing": PREPROCESSING}
    assert told(lambda: prepare(network, **given))[1] == ""


def test_a_body_that_was_trained_further_keeps_the_names_and_not_the_figures(lite0: Any) -> None:
    network = copy.deepcopy(lite0)
    next(network.parameters()).data.mul_(1.01)
    prepared, text = told(lambda: prepare(network))
    assert prepared.card.classes is not None and prepared.card.metrics == {}
    assert "no longer those of" in text and "classes" not in text
    half = copy.deepcopy(lite0).half()  # the same values in less precision
    assert told(lambda: prepare(half))[1] == "" and prepare(half).card.classes is not None


def test_a_network_remembers_the_file_of_its_weights(tmp_path: Path, tiny_registry: None) -> None:
    torch.save(create_model("resnet18", num_classes=3).state_dict(), tmp_path / "mine.pth")
    network = create_model("resnet18", weights=tmp_path / "mine.pth")
    prepared, text = told(lambda: prepare(network))
    assert prepared.card.weights is not None and prepared.card.weights.name == "mine.pth"
    assert "mine.pth' does not say how its network is used; taken from" in text and "size 224, resize 256" in text
    assert told(lambda: prepare(network, preprocessing=PREPROCESSING, classes=list("abc")))[1] == ""
    (tmp_path / "mine.pth").unlink()
    assert "cannot be read any more" in told(lambda: prepare(network))[1]


def test_a_module_s_own_preprocessing() -> None:
    network = Small()
    network.preprocessing = PREPROCESSING
    assert told(lambda: prepare(network, classes=list("abcde")))[0].card.preprocessing == PREPROCESSING
    changed = prepare(network, preprocessing={"interpolation": "nearest"}, classes=list("abcde"))
    assert changed.card.preprocessing == replace(PREPROCESSING, interpolation="nearest")
    other = replace(PREPROCESSING, mean=(0.1, 0.2, 0.3))
    assert prepare(network, preprocessing=other, classes=list("abcde")).card.preprocessing == other
    network.preprocessing = "transforms"
    with pytest.raises(UsageError, match="nothing says how"):
        prepare(network)


def test_random_weights_are_of_nothing(tiny_network: Any, tiny_registry: None) -> None:
    for network in (tiny_network("resnet"), create_model("resnet18"), nn.Sequential(create_model("resnet18"))):
        with pytest.raises(UsageError, match=r"nothing says how the photos of this \w+ are prepared\. Give"):
            prepare(network)
    network = create_model("resnet18")
    network.reset_classifier(0)
    with pytest.raises(UsageError, match=r"no classifier \(num_classes=0\)"):
        prepare(network, preprocessing=PREPROCESSING)


# --- torchvision's ---------------------------------------------------------------------------------------------------


def test_torchvision_s_weights_name_the_classes_only_of_their_own_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = pytest.importorskip("torchvision.models", reason="whose network it is")
    torch.manual_seed(0)
    network = models.squeezenet1_1()
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    prepared, text = told(lambda: prepare(network, weights=weights))
    card = prepared.card
    assert card.preprocessing == Preprocessing(224, 256) and card.architecture == "squeezenet1_1"
    assert card.classes is None and "whose file is not in the cache; classes= (--classes) names" in text
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / weights.url.rsplit("/", 1)[-1])
    for named in (weights, "SqueezeNet1_1_Weights.IMAGENET1K_V1", "SqueezeNet1_1_Weights.DEFAULT"):
        prepared, text = told(lambda named=named: prepare(network, weights=named))
        assert prepared.card.classes == tuple(weights.meta["categories"]) and text == ""
        assert prepared.card.metrics["ImageNet-1K"]["acc@1"] == 58.178
    network.classifier[1] = nn.Conv2d(512, 1000, 1)
    prepared, text = told(lambda: prepare(network, weights=weights))
    assert prepared.card.classes is None and "its classifier is not that of SqueezeNet1_1_Weights" in text


# --- timm's ----------------------------------------------------------------------------------------------------------


def test_timm_s_networks_say_how_their_photos_are_prepared(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="whose network it is")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=4)
    report, text = told(lambda: export(network, tmp_path / "m.onnx"))
    card = report.card
    assert card.preprocessing == Preprocessing.from_timm(network) and card.preprocessing.crop_size == 160
    assert card.architecture == "test_resnet" and card.classes is None and card.licence == "apache-2.0"
    assert "it has 4 outputs and the pretrained_cfg of test_resnet.r160_in1k says 1000" in text
    assert "size 160, resize 168" in text
    images = synthetic_photos(2, 160)
    probabilities, embedding, features = outputs(report.path, images)
    np.testing.assert_allclose(probabilities, expected(network, images, card.preprocessing), atol=1e-5)
    assert embedding.shape == (2, 96) and features.shape == (2, 96, 5, 5)
    wrapped = nn.Sequential(network)
    with pytest.raises(UsageError, match=r"Its part 0 is one of timm's.*from_timm\(model\.get_submodule\('0'\)\)"):
        prepare(wrapped)
    network.reset_classifier(0)
    with pytest.raises(UsageError, match=r"no classifier \(num_classes=0\)"):
        prepare(network)


def test_timm_s_label_names() -> None:
    config = {"input_size": (3, SIZE, SIZE), "num_classes": 3, "label_names": ["ant", "bee", "cat"], "tag": "mine"}
    network = Small(3)
    network.pretrained_cfg, network.num_classes = config, 3  # type: ignore[assignment]
    assert prepare(network).card.classes == ("ant", "bee", "cat")
    network.head, network.num_classes = nn.Linear(12, 4), 4  # type: ignore[assignment]
    prepared, text = told(lambda: prepare(network))
    assert prepared.card.classes is None and "0 to 3" in text
    network.num_classes = 3  # type: ignore[assignment] # only the head was set
    prepared, text = told(lambda: prepare(network))
    assert prepared.card.classes is None and "0 to 3, since its classifier was replaced" in text
    assert "it has 4 outputs and the pretrained_cfg of small.mine says 3" in text
