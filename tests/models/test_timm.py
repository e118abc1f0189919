"""Code that was written for timm: the same spellings, shapes and values, with timm itself as the oracle."""

import copy
import dataclasses
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vertebra
from vertebra.errors import UsageError, VertebraWarning, WeightsError
from vertebra.models import ConvNet, create_model, get_model, get_model_builder, get_model_weights, list_models
from vertebra.models.state_dict import meta_build

timm = pytest.importorskip("timm", reason="timm is the oracle")

# One of each family that timm has; VGG has 130 M parameters, so its values are compared in the slow run.
NAMES = ["resnet18", "densenet121", "mobilenetv2_100", "efficientnet_b0", "tf_efficientnet_lite0"]
SHAPES = ["vgg11_bn", "densenet121", "resnext50_32x4d", "mobilenetv2_035"]
SHAPES += [pytest.param(name, marks=pytest.mark.slow) for name in ("wide_resnet50_2", "efficientnet_b1", "vgg16")]
VALUES = [pytest.param(name, marks=() if name in NAMES[:1] else pytest.mark.slow) for name in [*NAMES, "vgg11_bn"]]
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def carry(theirs: nn.Module, ours: nn.Module) -> None:
    """The layers have the same order and shapes, under other names."""
    state = ours.state_dict()
    moved = OrderedDict(
        (key, value.reshape(state[key].shape)) for key, value in zip(state, theirs.state_dict().values(), strict=True)
    )
    ours.load_state_dict(moved)


@pytest.fixture(scope="module")
def pair() -> Callable[[str], tuple[nn.Module, ConvNet]]:
    """timm's network and ours with its weights; copies."""
    built: dict[str, tuple[nn.Module, ConvNet]] = {}

    def get(name: str) -> tuple[nn.Module, ConvNet]:
        if name not in built:
            torch.manual_seed(0)
            theirs = timm.create_model(name, num_classes=5, drop_rate=0.3).eval()
            ours = create_model(name, num_classes=5, **({} if name == "densenet121" else {"drop_rate": 0.3})).eval()
            carry(theirs, ours)
            built[name] = theirs, ours
        return copy.deepcopy(built[name])

    return get


def equal(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, Tensor):
        return theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    return len(theirs) == len(ours) and all(map(equal, theirs, ours))


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUES)
@torch.no_grad()
def test_heads_are_left_out_and_put_back_as_in_timm(name: str, pair: Callable[..., Any]) -> None:
    theirs, ours = pair(name)
    assert equal(theirs(X), ours(X))
    features = theirs.forward_features(X)
    assert equal(features, ours.forward_features(X))
    assert equal(theirs.forward_head(features, pre_logits=True), ours.forward_head(features, pre_logits=True))
    for arguments in [(0,), (0, ""), (0, "avg")]:
        for model in (theirs, ours):
            model.reset_classifier(*arguments)
        assert equal(theirs(X), ours(X)), arguments
        assert (ours.num_classes, ours.num_features) == (0, theirs.num_features)
        assert ours.head_hidden_size == theirs.head_hidden_size
        assert isinstance(ours.get_classifier(), nn.Identity)
        assert list(ours.state_dict()) == [key for key in ours.state_dict() if not key.startswith("fc.")]
    ours.reset_classifier(7)
    assert ours(X).shape == (2, 7)
    assert ours.num_classes == 7


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_network_tells_of_itself(name: str) -> None:
    theirs = timm.create_model(name, device="meta")
    with meta_build():
        ours = create_model(name)
        headless, maps = create_model(name, num_classes=0), create_model(name, num_classes=0, global_pool="")
    x = torch.empty(2, 3, 64, 64, device="meta")
    assert ours.num_features == theirs.num_features
    assert ours.head_hidden_size == theirs.head_hidden_size
    assert headless(x).shape == (2, theirs.head_hidden_size)
    assert maps(x).shape[:2] == (2, theirs.head_hidden_size)
    for key in ("num_chs", "reduction"):
        assert [info[key] for info in ours.feature_info] == [info[key] for info in theirs.feature_info]


def test_dropout_is_where_timm_has_it(pair: Callable[..., Any]) -> None:
    for name in ("resnet18", "mobilenetv2_050"):
        results = []
        for model in pair(name):
            model.train()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d | torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
            model.reset_classifier(0)
            with torch.no_grad():
                features = model.forward_features(X[:, :, :32, :32])
                torch.manual_seed(3)
                results.append(model.forward_head(features))
        assert (results[1] == 0).float().mean() > 0.1
        assert torch.allclose(*results, atol=1e-5), name


def test_drop_path_rate_grows_as_in_timm() -> None:
    with meta_build():
        theirs = timm.create_model("efficientnet_b0", drop_path_rate=0.4, device="meta")
        ours = create_model("efficientnet_b0", drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob if hasattr(block.drop_path, "drop_prob") else 0.0
             for stage in theirs.blocks for block in stage]  # fmt: skip
    assert [m.stochastic_depth.p for m in ours.modules() if hasattr(m, "stochastic_depth")] == pytest.approx(rates)


# --- feature maps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*VALUES, "mobilenetv2_050"])
@torch.no_grad()
def test_feature_maps_are_those_of_timm(name: str, pair: Callable[..., Any]) -> None:
    theirs, ours = pair(name)
    for asked in [{}, {"indices": 2}, {"indices": [-1, 1], "stop_early": True}, {"indices": (0, 2), "norm": True}]:
        assert equal(theirs.forward_intermediates(X, **asked), ours.forward_intermediates(X, **asked)), asked
    asked = {"indices": [1], "stop_early": True, "intermediates_only": True}
    assert equal(theirs.forward_intermediates(X, **asked), ours.forward_intermediates(X, **asked))

    theirs = timm.create_model(name, features_only=True).eval()
    ours = create_model(name, features_only=True).eval()
    carry(theirs, ours)
    assert equal(theirs(X), ours(X))
    for question in ("channels", "reduction"):
        assert getattr(ours.feature_info, question)() == getattr(theirs.feature_info, question)()
    for index in range(len(ours.feature_info)):
        ours.get_submodule(ours.feature_info.module_name(index))
        assert ours.feature_info[index]["num_chs"] == ours(X)[index].shape[1]


def test_output_stride_dilates() -> None:
    with meta_build():
        nets = {stride: create_model("resnet50", features_only=True, output_stride=stride) for stride in (8, 16, 32)}
    assert [net.feature_info.reduction() for net in nets.values()] == [
        *([2, 4, 8, 8, 8], [2, 4, 8, 16, 16], [2, 4, 8, 16, 32])
    ]
    maps = nets[8](torch.empty(1, 3, 64, 64, device="meta"))
    assert [m.shape[2] for m in maps] == [32, 16, 8, 8, 8]


@pytest.mark.slow
def test_output_stride_dilates_as_in_timm() -> None:
    for stride in (8, 16):
        theirs = timm.create_model("resnet50", features_only=True, output_stride=stride).eval()
        ours = create_model("resnet50", features_only=True, output_stride=stride).eval()
        carry(theirs, ours)
        with torch.no_grad():
            assert equal(theirs(X[:1]), ours(X[:1]))
        assert ours.feature_info.reduction() == theirs.feature_info.reduction()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenetv2_035", "vgg11_bn", "googlenet"])
def test_only_what_the_maps_need_is_there(name: str) -> None:
    with meta_build():
        whole, ours = create_model(name), create_model(name, features_only=True, out_indices=(1, 2))
    assert ours.feature_info.out_indices == (1, 2)
    assert [info["index"] for info in ours.feature_info.get_dicts()] == [1, 2]
    x = torch.empty(2, 3, 64, 64, device="meta", requires_grad=True)
    maps = ours(x)
    assert [m.shape[1] for m in maps] == ours.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == ours.feature_info.reduction()
    sum(m.sum() for m in maps).backward()  # DDP would wait for parameters without a gradient
    assert all(p.grad is not None for p in ours.parameters())
    keys = list(ours.state_dict())
    assert keys
    assert keys == [key for key in whole.state_dict() if key in set(keys)]
    assert ours.stages[-1].module == ours.feature_info.module_name()[-1]
    for call in (ours.forward_features, ours.forward_stages, ours.forward_head, ours.forward_intermediates):
        with pytest.raises(UsageError, match="returns feature maps alone"):
            call(x)
    with pytest.raises(UsageError, match="returns feature maps alone"):
        ours.reset_classifier(3)
    with pytest.raises(UsageError, match="returns feature maps alone"):
        ours.num_classes  # noqa: B018


@pytest.mark.no_cover  # tracing torch's compiler takes twice as long
def test_a_network_of_feature_maps_is_a_module_like_any_other(tmp_path: Path) -> None:
    net = create_model("resnet18", features_only=True, out_indices=(1, -1), in_chans=2).eval()
    x = X[:, :2, :32, :32]
    with torch.no_grad():
        maps = net(x)
        torch.save(net.state_dict(), tmp_path / "body.pth")
        again = create_model("resnet18", features_only=True, out_indices=(1, -1), in_chans=2).eval()
        again.load_state_dict(torch.load(tmp_path / "body.pth", weights_only=True))
        whole = create_model("resnet18", in_chans=2).eval()
        assert not whole.load_state_dict(net.state_dict(), strict=False).unexpected_keys
        program = torch.export.export(net, (x,)).module()
        torch.compiler.reset()
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        for other in (
            again,
            copy.deepcopy(net),
            pickle.loads(pickle.dumps(net)),
            program,
            compiled,
            nn.Sequential(net),
        ):
            assert equal(maps, other(x))
        assert equal(maps, whole.forward_intermediates(x, (1, 4), intermediates_only=True))
    with pytest.raises(WeightsError, match=r"fc"):
        create_model("resnet18", checkpoint_path=str(tmp_path / "body.pth"))
    net.train()
    plain = copy.deepcopy(net)
    net.set_grad_checkpointing()
    for model in (net, plain):
        sum(m.square().mean() for m in model(x)).backward()
    assert equal([p.grad for p in plain.parameters()], [p.grad for p in net.parameters()])
    assert equal(list(plain.buffers()), list(net.buffers()))


def test_a_headless_network_is_a_module_like_any_other() -> None:
    net = create_model("mobilenetv2_050", num_classes=0, global_pool="").eval()
    x = X[:, :, :32, :32]
    with torch.no_grad():
        maps = net(x)
        assert maps.shape == (2, net.num_features, 1, 1)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.allclose(maps, other(x), atol=1e-6)
    net.reset_classifier(10, global_pool="avg")
    net.train()(x).sum().backward()
    assert net.get_classifier().weight.grad is not None


@pytest.mark.slow
@torch.no_grad()
def test_networks_without_a_classifier_are_exported_and_compiled() -> None:
    x = X[:, :, :32, :32]
    for arguments in ({"features_only": True, "out_indices": (1, 2)}, {"num_classes": 0, "global_pool": ""}):
        for name in ("resnet18", "densenet121"):
            net = create_model(name, **arguments).eval()
            torch.compiler.reset()
            assert equal(net(x), torch.export.export(net, (x,)).module()(x))
            assert equal(net(x), torch.compile(net, backend="eager", fullgraph=True)(x))


def test_googlenet_loses_its_auxiliary_classifiers_with_its_own() -> None:
    with meta_build():
        net = create_model("googlenet", num_classes=0)
        x = torch.empty(2, 3, 64, 64, device="meta")
        assert net.train()(x).shape == (2, 1024)
        maps = create_model("googlenet", features_only=True).train()(x)
    assert [m.shape[1] for m in maps] == [64, 192, 480, 832, 1024]
    assert [64 // m.shape[2] for m in maps] == [2, 4, 8, 16, 32]


# --- preprocessing and groups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0", "mobilenet_v2"])
def test_timm_prepares_images_for_our_networks(name: str) -> None:
    from timm.data import create_transform, resolve_model_data_config

    with meta_build():
        model = create_model(name)
    assert model.default_cfg == model.pretrained_cfg
    preset = get_model_weights(name).DEFAULT.preprocessing
    assert model.pretrained_cfg["input_size"] == (3, preset.crop_size, preset.crop_size)
    resize, crop, *_, normalise = create_transform(**resolve_model_data_config(model)).transforms
    assert (resize.size, crop.size) == (preset.resize_size, (preset.crop_size, preset.crop_size))
    assert resize.interpolation.value == preset.interpolation
    assert torch.allclose(torch.as_tensor(normalise.mean), torch.tensor(preset.mean))
    for key in ("first_conv", "classifier"):
        model.get_submodule(model.pretrained_cfg[key])
    assert not hasattr(vertebra.models.ResNet(vertebra.models.resnet.BasicBlock, [1, 1, 1, 1]), "pretrained_cfg")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "tf_efficientnet_lite0"])
def test_parameters_are_grouped_as_in_timm(name: str) -> None:
    from timm.models import group_parameters

    theirs = timm.create_model(name, device="meta")
    with meta_build():
        ours = create_model(name)
    for coarse in (False, True) if name == "resnet18" else (False,):
        groups = [group_parameters(model, model.group_matcher(coarse)) for model in (theirs, ours)]
        assert [len(names) for names in groups[0].values()] == [len(names) for names in groups[1].values()]


# --- names ------------------------------------------------------------------------------------------------------------


def test_tags_name_weights_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from vertebra.models import registry

    taken: list[Any] = []
    registered = registry.MODELS["resnet50"]

    def builder(**options: Any) -> Any:
        taken.append(options["weights"])
        return SimpleNamespace()

    monkeypatch.setitem(registry.MODELS, "resnet50", dataclasses.replace(registered, builder=builder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("resnet50.tv_in1k", "resnet50.tv2_in1k", "tv_resnet50"):
            create_model(name, pretrained=True)
        create_model("resnet50", pretrained=True, pretrained_cfg="tv_in1k")
        create_model("resnet50", pretrained=False)
        create_model("resnet50.tv_in1k", weights="DEFAULT")
        create_model("resnet50.tv_in1k", weights="my.pth")
    with pytest.warns(VertebraWarning, match=r"takes IMAGENET1K_V2 for resnet50; timm's, 'a1_in1k', are other"):
        create_model("resnet50", pretrained=True)
    assert [getattr(weights, "name", None) for weights in taken] == [
        *("IMAGENET1K_V1", "IMAGENET1K_V2", "IMAGENET1K_V1", "IMAGENET1K_V1", None, "IMAGENET1K_V1", None),
        "IMAGENET1K_V2",
    ]
    assert taken[-2] == "my.pth"
    with pytest.raises(UsageError, match=r"'resnet50\.tv_in1k' names the weights .*V1, and weights='IMAGENET1K_V2'"):
        create_model("resnet50.tv_in1k", weights="IMAGENET1K_V2")
    with pytest.raises(UsageError, match=r"no weights 'a1_in1k'"):
        create_model("resnet50.a1_in1k", weights="DEFAULT")
    with pytest.raises(UsageError, match=r"no weights 'a1_in1k' of resnet50 here; there are 'resnet50\.tv_in1k'"):
        create_model("resnet50.a1_in1k", pretrained=True)
    with pytest.warns(VertebraWarning, match="no weights 'a1_in1k'"):
        create_model("resnet50.a1_in1k")
    with pytest.raises(UsageError, match="both name weights"):
        create_model("resnet50", weights="DEFAULT", pretrained=True)


def test_names_of_timm_are_names_here() -> None:
    with meta_build():
        net = create_model(model_name="mobilenetv2_050", num_classes=3)
        assert net.num_classes == 3
        assert sum(p.numel() for p in net.parameters()) == sum(
            p.numel() for p in timm.create_model("mobilenetv2_050", num_classes=3, device="meta").parameters()
        )
        assert type(get_model("tf_efficientnet_lite0")) is type(get_model_builder("efficientnet_lite0")())
        with pytest.warns(VertebraWarning, match=r"built as efficientnet_v2_s: timm's pads as TensorFlow"):
            vertebra.create_model("tf_efficientnetv2_s")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            build = vertebra.model_entrypoint("mobilenetv2_035")
            assert build(pretrained=False, num_classes=4).num_classes == 4
        assert build.__name__ == "mobilenet_v2"
    assert vertebra.is_model("resnet50.a1_in1k")
    assert not vertebra.is_model("resnet50d")
    assert vertebra.models.get_family("mobilenetv2_100") == "mobilenetv2"
    with pytest.raises(UsageError, match="no weights for mobilenetv2_050"):
        create_model("mobilenetv2_050", pretrained=True)
    with pytest.raises(UsageError, match="one name"):
        create_model()


def test_lists_of_names() -> None:
    assert list_models("*res*") == list_models(include="*res*") == list_models(filter=["*res*"])
    wanted = list_models(family="resnet", exclude=["*101*", "*152*"])
    assert list_models("*ne*", "resnet", exclude_filters=("*101*", "*152*")) == wanted
    assert list_models(["res*", "wide*"], module="resnet", exclude_filters=["*101*", "*152*"]) == wanted
    assert list_models(module="resnet") == list_models(family="resnet") == list_models(vertebra.models, family="resnet")
    assert list_models(module=vertebra.models, include="vgg*") == list_models("vgg*", pretrained=True)
    assert list_models("resnet50", include_tags=True) == ["resnet50.tv2_in1k", "resnet50.tv_in1k"]
    assert vertebra.list_pretrained("*lite0*") == ["tf_efficientnet_lite0.in1k"]
    assert all(vertebra.is_model(name) for name in vertebra.list_pretrained())
    assert vertebra.list_modules() == sorted(vertebra.models.FAMILIES)
    assert list_models("vit*") == []
    for arguments in (("*50*", "resnets"), ("", "resnets")):
        with pytest.raises(UsageError, match=r"no family 'resnets'.*Did you mean 'resnet'"):
            list_models(*arguments) if arguments[0] else list_models(module="resnets")


# --- what is not taken over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_pool": "max"}, r"'avg' or ''.*amax"),
        ({"global_pool": ""}, r"num_classes=0, global_pool=''"),
        ({"num_classes": 10, "global_pool": ""}, r"num_classes=10"),
        ({"scriptable": True}, r"torch\.export"),
        ({"exportable": True}, r"exported as it is"),
        ({"act_layer": "silu"}, r"replace modules"),
        ({"norm_layer": "groupnorm"}, r"nn\.BatchNorm2d"),
        ({"bn_eps": 1e-3}, r"`eps`"),
        ({"img_size": 64}, r"any size"),
        ({"device": "cpu"}, r"\.to\(device"),
        ({"cache_dir": "x"}, r"TORCH_HOME"),
        ({"pretrained_cfg": {"file": "x.pth"}}, r"weights=PATH"),
        ({"pretrained_cfg_overlay": {"file": "x.pth"}}, r"weights=PATH"),
        ({"drop_path_rate": 0.1}, r"no stochastic depth"),
        ({"drop_rate": 2}, r"probability"),
        ({"output_stride": 4}, r"to 8 or 16"),
        ({"out_indices": (1, 2)}, r"without features_only"),
        ({"features_only": True, "out_indices": (5,)}, r"there are 5 feature maps, 0 to 4"),
        ({"features_only": True, "out_indices": 6}, r"of which there are 5"),
        ({"features_only": True, "out_indices": ()}, r"there are 5 feature maps"),
        ({"features_only": True, "out_indices": "12"}, r"give numbers"),
        ({"features_only": True, "feature_cls": "dict"}, r"dict\(zip"),
        ({"in_chans": 1, "in_channels": 2}, r"Give one"),
        ({"num_classes": -1}, r"num_classes is -1"),
        ({"num_classes": False}, r"num_classes is False"),
    ],
)
def test_what_is_refused_says_what_to_write(arguments: dict[str, Any], message: str) -> None:
    with meta_build(), pytest.raises(UsageError, match=message):
        create_model("resnet18", **arguments)


def test_what_is_done_anyway_passes() -> None:
    with meta_build(), warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("resnet18", False, scriptable=None, exportable=False, no_jit=None, checkpoint_path="",
                     global_pool="avg", drop_rate=None, drop_path_rate=0.0, in_chans=3, output_stride=32,
                     pretrained_cfg=None, norm_layer=None, act_layer=None)  # fmt: skip


def test_other_meanings_are_told() -> None:
    with meta_build():
        with pytest.warns(VertebraWarning, match="num_classes=10 is not used"):
            create_model("resnet18", features_only=True, num_classes=10)
        with pytest.warns(VertebraWarning, match=r"drop_rate=0\.2 drops values behind each layer"):
            create_model("densenet121", drop_rate=0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net = create_model("densenet121", proj_drop_rate=0.2, dropout=0.4)
    assert net.features.denseblock1.denselayer1.drop_rate == 0.2
    assert net._head_dropout == 0.4


def test_a_classifier_needs_pooling() -> None:
    with meta_build():
        net = create_model("resnet18", num_classes=0, global_pool="")
    for arguments in [(10,), (10, "")]:
        with pytest.raises(UsageError, match=r"reset_classifier\(10, global_pool='avg'\)"):
            net.reset_classifier(*arguments)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mobilenetv2_035", ""),
        ("tf_efficientnet_lite0", r"timm's efficientnet_lite0 \(.*pads symmetrically"),
        pytest.param("efficientnet_b0", r"timm's tf_efficientnet_b0 \(", marks=pytest.mark.slow),
        pytest.param("vgg11_bn", "", marks=pytest.mark.slow),
    ],
)
def test_checkpoints_of_timm_are_taken(name: str, said: str, tmp_path: Path) -> None:
    theirs = timm.create_model(name, num_classes=5).eval()
    file = tmp_path / "theirs.pth"
    # Sorted, as safetensors does, so that the order of the names tells nothing; below a key and a prefix.
    state = {f"module.{key}": value for key, value in sorted(theirs.state_dict().items())}
    torch.save({"state_dict": state}, file)
    with warnings.catch_warnings(record=True) as told, torch.no_grad():
        warnings.simplefilter("always")
        ours = create_model(name, weights=file).eval()
        assert equal(theirs(X), ours(X))
        ours.load_state_dict(theirs.state_dict())
    assert re.search(said, " ".join(str(warning.message) for warning in told))
    assert bool(told) is bool(said)


def test_a_checkpoint_says_which_network_it_is_of(tmp_path: Path) -> None:
    file = tmp_path / "theirs.pth"

    def saved(arch: str, name: str) -> Any:
        torch.save({"arch": arch, "state_dict": timm.create_model(name, num_classes=2).state_dict()}, file)
        return file

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("mobilenetv2_035", weights=saved("mobilenetv2_035", "mobilenetv2_035"))
        create_model("tf_efficientnet_lite0", weights=saved("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0"))
        create_model("resnet18", weights=saved("resnet18.a1_in1k", "resnet18"))
    with pytest.warns(VertebraWarning, match=r"those of efficientnet_lite0: .*pads symmetrically.*outputs differ"):
        create_model("tf_efficientnet_lite0", weights=saved("efficientnet_lite0", "efficientnet_lite0"))
    with pytest.warns(VertebraWarning, match=r"says arch='resnetblur18'; its weights are loaded into resnet18"):
        create_model("resnet18", weights=saved("resnetblur18", "resnetblur18"))


@pytest.mark.parametrize(
    ("network", "arch", "said"),
    [
        ("mobilenet_v2", "", ""),
        ("efficientnet_b4", "efficientnet_b4", ""),
        ("efficientnet_b4", "tf_efficientnet_b4", "They are those of tf_efficientnet_b4: timm's pads"),
        ("efficientnet_b6", "efficientnet_b6", r"eps=0\.00001; efficientnet_b6 with 0\.001"),
        ("efficientnet_v2_s", "", r"timm's tf_efficientnetv2_s \(.*timm's efficientnetv2_s \("),
    ],
)
def test_what_timm_computes_otherwise(network: str, arch: str, said: str) -> None:
    from vertebra.timm_names import differing_weights

    found = differing_weights(network, arch)
    assert re.search(said, found)
    assert bool(found) is bool(said)


# --- attributes -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_pooling_and_dropout_are_read_and_not_set(pair: Callable[..., Any]) -> None:
    theirs, ours = pair("resnet18")
    features = ours.forward_features(X)
    assert equal(theirs.global_pool(features), ours.global_pool(features))
    assert ours.drop_rate == theirs.drop_rate == 0.3
    with meta_build():
        for name, rate in (("mobilenet_v2", 0.2), ("googlenet", 0.2), ("vgg11", 0.5), ("densenet121", 0.0)):
            assert create_model(name).drop_rate == rate
        assert isinstance(create_model("resnet18", num_classes=0, global_pool="").global_pool, nn.Identity)
    for name, value in (("global_pool", nn.Identity()), ("drop_rate", 0.5)):
        with pytest.raises(UsageError, match=rf"{name} cannot be set to"):
            setattr(ours, name, value)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "efficientnet_b1", "densenet121", "tf_efficientnetv2_s"])
def test_the_size_of_the_last_map_is_known(name: str) -> None:
    with meta_build(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = create_model(name)
        size = net.pretrained_cfg["input_size"]
        maps = net.forward_features(torch.empty(1, *size, device="meta"))
    assert net.pretrained_cfg["pool_size"] == tuple(maps.shape[2:])


def test_a_tag_decides_the_preprocessing() -> None:
    with meta_build():
        for tag, resize in (("tv_in1k", 256), ("tv2_in1k", 232)):
            assert create_model(f"resnet50.{tag}").pretrained_cfg["crop_pct"] == 224 / resize
        assert create_model("tv_resnet50").pretrained_cfg["tag"] == "IMAGENET1K_V1"


def test_names_with_spaces_and_names_that_are_timms() -> None:
    with meta_build():
        assert create_model(" resnet18 ").num_classes == 1000
    assert list_models("mobilenetv2_0*") == ["mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075"]
    assert list_models("tf_efficientnet_lite*") == [f"tf_efficientnet_lite{i}" for i in range(3)]
    for name, advice in (("optim", r"import timm\.optim"), ("get_pretrained_cfg", r"create_model\(NAME\)\.pretrained")):
        with pytest.raises(AttributeError, match=advice):
            getattr(vertebra, name)
