"""Weight entries, what `weights=` takes, and networks built from files."""

import copy
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import vertebra.models as ours
from vertebra.errors import UsageError, VertebraWarning, WeightsError
from vertebra.models import ConvNet, create_model, get_model_weights, get_weight, list_models

theirs = pytest.importorskip("torchvision.models", reason="torchvision is the oracle")
SHARED = [name for name in list_models() if "lite" not in name]
SMALL = [*tiny.one_of_each(), "efficientnet_b0"]


# --- entries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_entries_are_torchvisions(name: str) -> None:
    expected, got = theirs.get_model_weights(name), get_model_weights(name)
    assert got.__name__ == expected.__name__ and getattr(ours, got.__name__) is got
    assert list(got.__members__) == list(expected.__members__)
    assert got.DEFAULT.name == expected.DEFAULT.name
    for ours_, theirs_ in zip(got, expected, strict=True):
        assert ours_.url == theirs_.url
        meta = {key: value for key, value in theirs_.meta.items() if key != "_docs"}
        # NaN, the accuracy of weights without a classifier, differs from itself
        assert repr({key: ours_.meta[key] for key in meta}) == repr(meta)
        assert ours_.meta.keys() == theirs_.meta.keys()


def test_there_are_45_and_three() -> None:
    assert sum(len(get_model_weights(name)) for name in SHARED) == 45
    assert sum(len(get_model_weights(name)) for name in list_models()) == 48


@pytest.mark.parametrize("name", SHARED)
def test_transforms_are_torchvisions(name: str) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (231, 317, 3), dtype=np.uint8))
    tensor = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    for member, other in zip(get_model_weights(name), theirs.get_model_weights(name), strict=True):
        assert torch.equal(member.transforms()(picture), other.transforms()(picture))
        assert torch.equal(member.transforms()(tensor), other.transforms()(tensor))
        changed = {"resize_size": 100, "crop_size": 90, "interpolation": other.transforms().interpolation}
        assert torch.equal(member.transforms(**changed)(picture), other.transforms(**changed)(picture))


def test_lite_transforms_are_as_published() -> None:
    for name, size in (("efficientnet_lite0", 224), ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)):
        preprocessing = get_model_weights(name).DEFAULT.preprocessing
        assert (preprocessing.crop_size, preprocessing.resize_size) == (size, int(size / 0.875))
        assert preprocessing.interpolation == "bicubic"
        grey = Image.new("RGB", (300, 300), (255, 127, 0))
        channels = get_model_weights(name).DEFAULT.transforms()(grey).mean((1, 2))
        torch.testing.assert_close(channels, torch.tensor([128 / 128, 0.0, -127 / 128]), rtol=0, atol=1e-6)


def test_members_copy_and_pickle() -> None:
    member = ours.ResNet50_Weights.DEFAULT
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert repr(member) == "ResNet50_Weights.IMAGENET1K_V2"


def test_get_weight() -> None:
    assert get_weight("ResNet50_Weights.IMAGENET1K_V1") is ours.ResNet50_Weights.IMAGENET1K_V1
    assert get_weight("ResNet50_Weights.DEFAULT") is ours.ResNet50_Weights.IMAGENET1K_V2
    for wrong in ("ResNet50_Weights.IMAGENET1K_V1x", "ResNet50_Weights", "ResNet5_Weights.DEFAULT", "resnet50"):
        with pytest.raises(UsageError, match=r"ResNet50_Weights(\.| has no weights.*Did you mean 'IMAGENET1K_V1')"):
            get_weight(wrong)


def test_get_model_weights() -> None:
    assert get_model_weights("ResNet18") is get_model_weights(ours.resnet18) is ours.ResNet18_Weights
    with pytest.raises(UsageError, match="resnet18"):
        get_model_weights("resnet-18")


@pytest.mark.parametrize(
    "weights",
    [None, "DEFAULT", "IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V2", theirs.ResNet50_Weights.IMAGENET1K_V2],
)
def test_verify_takes(weights: object) -> None:
    assert ours.ResNet50_Weights.verify(weights) is (None if weights is None else ours.ResNet50_Weights.DEFAULT)


@pytest.mark.parametrize(
    "weights",
    ["IMAGENET1K_V3", "", theirs.ResNet18_Weights.DEFAULT, ours.ResNet18_Weights.DEFAULT, 3, object()],
)
def test_verify_refuses(weights: object) -> None:
    with pytest.raises(UsageError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        ours.ResNet50_Weights.verify(weights)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("resnet-50", "resnet50"), ("mobilenetv2", "mobilenet_v2"), ("efficientnet_litte0", "efficientnet_lite0")],
)
def test_a_wrong_name_gets_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean '{nearest}'"):
        create_model(wrong)


def test_a_hopeless_name_gets_the_list() -> None:
    with pytest.raises(UsageError, match="vertebra models"):
        create_model("xyzzy")


def test_list_models() -> None:
    assert list_models(include="resnet*") == ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]
    assert list_models(include=["vgg11", "vgg1*_bn"], exclude="*16*") == ["vgg11", "vgg11_bn", "vgg13_bn", "vgg19_bn"]
    assert list_models(module=ours) == list_models()
    assert list_models(module=theirs) == []
    assert list_models(family="googlenet") == ["googlenet"]
    assert list_models(max_params=5e6) == ["efficientnet_lite0", "mobilenet_v2"]
    assert list_models(max_gmacs=1, min_top1=78) == ["efficientnet_b1"]
    assert list_models(min_top1=100) == []
    with pytest.raises(UsageError, match="googlenet"):
        list_models(family="goglenet")


# --- from a file ------------------------------------------------------------------------------------------------------


def reference(name: str, **options: object) -> ConvNet:
    torch.manual_seed(0)
    return create_model(name, **options).eval()


def save(model: nn.Module, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.usefixtures("tiny_registry")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["googlenet", "resnet18", "mobilenet_v2"])
def test_path(name: str, suffix: str, tmp_path: Path) -> None:
    options = {"aux_logits": False} if name == "googlenet" else {}
    model = reference(name, num_classes=12, in_channels=4, **options)
    path = save(model, tmp_path / f"mine{suffix}")
    for weights in (path, str(path)):
        loaded = create_model(name, weights=weights, in_channels=4)
        assert loaded.num_classes == 12  # what the file has, unless another number is asked for
        assert same(loaded, model)
        assert not any(t.is_meta for t in loaded.state_dict().values())
        x = torch.randn(1, 4, 64, 64)
        assert torch.equal(loaded.eval()(x), model(x))
        loaded.train()(torch.randn(2, 4, 64, 64)).sum().backward()
        assert all(p.grad is not None for p in loaded.parameters())


@pytest.mark.usefixtures("tiny_registry")
@pytest.mark.parametrize("name", SMALL)
def test_another_number_of_classes_keeps_the_body(name: str, tmp_path: Path) -> None:
    model = reference(name)
    path = save(model, tmp_path / "w.pth")
    torch.manual_seed(5)
    options = {"aux_logits": True} if name == "googlenet" else {}
    loaded = create_model(name, weights=path, num_classes=6, **options)
    state, expected = loaded.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    changed = {
        key for key in state if not (state[key].shape == expected[key].shape and torch.equal(state[key], expected[key]))
    }
    heads = {"vgg11": {"classifier.6"}, "googlenet": {"fc", "aux1.fc2", "aux2.fc2"}, "resnet18": {"fc"}}
    heads["densenet121"] = {"classifier"}
    assert changed == {f"{head}.{p}" for head in heads.get(name, {"classifier.1"}) for p in ("weight", "bias")}
    torch.manual_seed(5)
    fresh = copy.deepcopy(model)
    fresh.reset_classifier(6)
    assert torch.equal(loaded.get_classifier().weight, fresh.get_classifier().weight)  # drawn as the family draws
    assert loaded.get_classifier().weight.std() > 0


@pytest.mark.usefixtures("tiny_registry")
@pytest.mark.parametrize("name", SMALL)
def test_another_number_of_channels_adapts_the_stem(name: str, tmp_path: Path) -> None:
    model = reference(name)
    path = save(model, tmp_path / "w.pth")
    stem = f"{model.stem_path}.weight"
    kernel = model.state_dict()[stem]
    one = create_model(name, weights=path, in_channels=1).state_dict()
    torch.testing.assert_close(one[stem], kernel.sum(1, keepdim=True))
    five = create_model(name, weights=path, in_channels=5).state_dict()[stem]
    torch.testing.assert_close(five, kernel[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert create_model(name, weights=path, in_channels=3).state_dict()[stem].equal(kernel)
    expected = [key for key in model.state_dict() if not key.startswith("aux")]
    assert list(one) == expected


def test_a_published_name_brings_what_is_known_of_it(tmp_path: Path) -> None:
    """GoogLeNet's published file wants inputs normalised otherwise; a file of one's own does not."""
    model = reference("googlenet")
    own, published = tmp_path / "own.pth", tmp_path / "googlenet-1378be20.pth"
    for path in (own, published):
        torch.save(dict(model.state_dict()), path)  # a plain dict says nothing of its network
    assert not create_model("googlenet", weights=own).transform_input
    loaded = create_model("googlenet", weights=published)
    assert loaded.transform_input and not loaded.aux_logits and loaded.aux1 is None
    x = torch.randn(1, 3, 64, 64)
    expected = theirs.googlenet(init_weights=False, transform_input=True)
    expected.load_state_dict(model.state_dict())
    assert torch.equal(loaded.eval()(x), expected.eval()(x))
    assert not create_model("googlenet", weights=published, transform_input=False).transform_input


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_tensors_do_not_tell_travels_with_them(suffix: str, tmp_path: Path) -> None:
    """A dict of tensors alone has lost it: there it is assumed, and told."""
    torch.manual_seed(0)
    model = create_model("googlenet", num_classes=3, aux_logits=False, transform_input=True).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.save({"model": model.state_dict()}, tmp_path / "nested.pth")
    assert torch.equal(create_model("googlenet", weights=tmp_path / "nested.pth").eval()(x), model(x))
    with pytest.warns(VertebraWarning, match="with transform_input=True; the given transform_input=False is used"):
        other = create_model("googlenet", weights=tmp_path / "nested.pth", transform_input=False)
    assert not other.transform_input
    path = tmp_path / f"bare{suffix}"
    if suffix == ".pth":
        torch.save(dict(model.state_dict()), path)
    else:
        save_file(model.state_dict(), path)
    with pytest.warns(VertebraWarning, match="does not record transform_input; transform_input=False is assumed"):
        assert not create_model("googlenet", weights=path).transform_input
    assert torch.equal(create_model("googlenet", weights=path, transform_input=True).eval()(x), model(x))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_a_network_for_small_pictures_is_loaded_as_one(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3)
    model.reset_resolution()
    x = torch.randn(2, 3, 32, 32)
    path = save(model.eval(), tmp_path / "small.pth")
    loaded = create_model(name, weights=path).eval()
    assert loaded.stages == model.stages and loaded.min_size == model.min_size
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(
        WeightsError, match=r"saved from a .* with low_resolution=True, and this one is built otherwise"
    ):
        create_model(name, num_classes=3).load_state_dict(model.state_dict())
    twin = create_model(name, num_classes=3)
    twin.reset_resolution()
    twin.load_state_dict(model.state_dict())
    if name == "resnet18":  # the size of its first kernels tells it even where nothing else does
        torch.save(dict(model.state_dict()), path)
        with pytest.warns(VertebraWarning, match=r"first kernels of 3 × 3"):
            loaded = create_model(name, weights=path).eval()
        assert torch.equal(loaded(x), model(x))


def test_dilation_travels_too(tmp_path: Path) -> None:
    model = create_model("resnet50", num_classes=3, replace_stride_with_dilation=[False, True, True])
    loaded = create_model("resnet50", weights=save(model, tmp_path / "w.pth"))
    assert loaded.layer4[1].conv2.dilation == (4, 4)
    plain = create_model("resnet50", num_classes=3)
    with pytest.warns(VertebraWarning, match="replace_stride_with_dilation"):
        plain.load_state_dict(model.state_dict(), strict=False)
    with pytest.raises(WeightsError, match="replace_stride_with_dilation"):
        plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize("said", [{"transform_input": "x"}, {"transform_input": None, "low_resolution": 3}, "x", []])
def test_what_a_file_says_is_not_trusted_blindly(said: Any, tmp_path: Path) -> None:
    state = create_model("googlenet", num_classes=3, aux_logits=False).state_dict()
    state._metadata[""]["vertebra"] = said
    torch.save(state, tmp_path / "w.pth")
    loaded = create_model("googlenet", weights=tmp_path / "w.pth")
    assert loaded.hidden_settings == {"low_resolution": False, "transform_input": False}


def test_googlenets_heads_are_kept_when_asked_for(tmp_path: Path) -> None:
    model = reference("googlenet")
    assert same(create_model("googlenet", weights=save(model, tmp_path / "w.pth"), aux_logits=True), model)
    without = save(create_model("googlenet", aux_logits=False), tmp_path / "without.pth")
    assert create_model("googlenet", weights=without).aux1 is None
    with pytest.raises(UsageError, match="no auxiliary heads"):
        create_model("googlenet", weights=without, aux_logits=True)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    """The first published Wide ResNet files are float16."""
    model = reference("resnet18").half()
    loaded = create_model("resnet18", weights=save(model, tmp_path / "half.pth"))
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.fc.weight, model.fc.weight.float())


def test_old_densenet_names(tmp_path: Path) -> None:
    model = reference("densenet121")
    old = OrderedDict(
        (
            key.replace("norm1.", "norm.1.")
            .replace("norm2.", "norm.2.")
            .replace("conv1.", "conv.1.")
            .replace("conv2.", "conv.2."),
            value,
        )
        for key, value in model.state_dict().items()
        if "num_batches_tracked" not in key
    )
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121.pth")
    assert same(create_model("densenet121", weights=tmp_path / "densenet121.pth"), model)
    other = reference("densenet121", num_classes=1000)
    nn.init.zeros_(other.classifier.weight)
    other.load_state_dict({**old, **{k: v for k, v in model.state_dict().items() if "num_batches" in k}})
    assert same(other, model)


def test_the_wrong_file_says_what_differs(tmp_path: Path) -> None:
    path = save(reference("resnet18"), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"missing in the file.*layer1\.2\.conv1\.weight"):
        create_model("resnet34", weights=path)
    with pytest.raises(WeightsError, match=r"resnet18\.pth: no VGG.*conv1\.weight"):
        create_model("vgg11", weights=path)
    with pytest.raises(WeightsError, match="nothing-here"):
        create_model("resnet18", weights=tmp_path / "nothing-here.pth")


def test_legacy_arguments() -> None:
    with pytest.warns(UserWarning, match="deprecated; write resnet18"):
        assert isinstance(ours.resnet18(pretrained=False), ours.ResNet)
    with pytest.warns(UserWarning, match="deprecated"):
        assert isinstance(ours.resnet18(False, True), ours.ResNet)
    with pytest.raises(TypeError, match="by position"):
        ours.resnet18(None, True, 10)
    with pytest.raises(TypeError, match="two values"):
        ours.resnet18(None, weights=None)


# --- EfficientNet-Lite against the original package -------------------------------------------------------------------


def lite_file(name: str) -> Path:
    from vertebra.weight_files import cached_path

    try:
        return cached_path(get_model_weights(name).DEFAULT.url)
    except WeightsError as error:
        pytest.skip(str(error))


def original(name: str) -> nn.Module:
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the original package is the oracle")
    number = name[-1]
    return package.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=str(lite_file(name))).eval()


LITE = ["efficientnet_lite0", *(pytest.param(f"efficientnet_lite{n}", marks=pytest.mark.slow) for n in (1, 2))]


@pytest.mark.parametrize("name", LITE)  # 1 and 2 are the same code with other numbers, which test_networks checks
def test_lite_equals_the_original_package(name: str) -> None:
    expected = original(name)
    model = create_model(name, weights="DEFAULT").eval()
    size = get_model_weights(name).DEFAULT.preprocessing.crop_size
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (model(x) - expected(x)).abs().max() <= 1e-4
        features = expected.extract_features(x)
        torch.testing.assert_close(model.forward_features(x), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(224, 224), (225, 224), (97, 160), (1, 1)])
def test_same_padding_is_tensorflows(size: tuple[int, int]) -> None:
    """TensorFlow pads for the size at hand; the original package does so too where no size is fixed."""
    from efficientnet_lite_pytorch.utils import Conv2dDynamicSamePadding

    from vertebra.models.layers import Conv2dSame

    for kernel in (3, 5):
        expected = Conv2dDynamicSamePadding(3, 6, kernel, stride=2)
        got = Conv2dSame(3, 6, kernel, 2)
        got.load_state_dict(expected.state_dict())
        x = torch.randn(1, 3, *size)
        assert torch.equal(got(x), expected(x))


def test_lite0_on_photos(shared_photos: list[Path]) -> None:
    """The same class as the original package, image by image, and mostly the right one."""
    expected, model = original("efficientnet_lite0"), create_model("efficientnet_lite0", weights="DEFAULT").eval()
    transform = get_model_weights("efficientnet_lite0").DEFAULT.transforms()
    x = torch.stack([transform(Image.open(path).convert("RGB")) for path in shared_photos[::3]])
    with torch.inference_mode():
        got, wanted = (torch.cat([network(part) for part in x.split(17)]) for network in (model, expected))
    assert (got - wanted).abs().max() <= 1e-4
    assert torch.equal(got.argmax(1), wanted.argmax(1))
    right: Tensor = got.argmax(1) == torch.arange(len(shared_photos))[::3] * 10
    assert right.float().mean() > 0.75


@pytest.mark.parametrize("how", ["cut short", "no mirror", "sound"])
def test_a_damaged_download_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """As far as it can be: a file without a fault of its own, and one that cannot be had again, give the error."""
    import hashlib

    from vertebra.models import weight_reader
    from vertebra.models.published_weights import WeightsEnum

    network = create_model("mobilenet_v2", weights=None)
    file = tmp_path / "net.pth"
    torch.save(network.state_dict(), file)
    name = f"net-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setattr(WeightsEnum, "url", property(lambda member: f"https://weights.example/{name}"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")
    kept = tmp_path / "torch" / "hub" / "checkpoints" / name
    kept.parent.mkdir(parents=True)
    content = file.read_bytes()
    kept.write_bytes(content if how == "sound" else content[:-5000])
    if how != "no mirror":
        monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", str(tmp_path))
        file.rename(tmp_path / name)
    if how == "cut short":
        with pytest.warns(VertebraWarning, match=r"is damaged or not the published file.*Fetching it again"):
            found = create_model("mobilenet_v2", weights="DEFAULT")
        assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())
        assert kept.read_bytes() == content and len(list(kept.parent.iterdir())) == 1
        return

    def unreadable(*arguments: Any, read: Any = weight_reader.read, **options: Any) -> Any:
        if how == "sound":
            raise WeightsError("not to be read")
        return read(*arguments, **options)

    monkeypatch.setattr(weight_reader, "read", unreadable)
    with pytest.raises(WeightsError, match="not to be read" if how == "sound" else "cut short|damaged|not"):
        create_model("mobilenet_v2", weights="DEFAULT")
    assert kept.read_bytes() == (content if how == "sound" else content[:-5000])
