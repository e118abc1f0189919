"""The same numbers as torchvision, bit for bit: same seed → same weights, same weights → same outputs."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import vertebra.models as ours
from vertebra.models.state_dict import meta_build

theirs = pytest.importorskip("torchvision.models", reason="torchvision is the oracle")

FAMILY_MODULES = {f"torchvision.models.{family}" for family in ours.FAMILIES}
NAMES = [n for n in theirs.list_models() if theirs.get_model_builder(n).__module__ in FAMILY_MODULES]


def test_every_builder_of_the_families_is_there() -> None:
    # The weights of the others are Python packages.
    assert [n for n in ours.list_models() if not ours.get_model_weights(n).DEFAULT.url.startswith("package:")] == NAMES
    for name in NAMES:
        assert getattr(ours, name) is ours.get_model_builder(name)


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name: str) -> None:
    expected, got = (inspect.signature(library.get_model_builder(name)) for library in (theirs, ours))
    assert [(p.name, p.kind, p.default) for p in got.parameters.values()] == [
        (p.name, p.kind, p.default) for p in expected.parameters.values()
    ]
    cls_name = expected.return_annotation.__name__
    shared = list(inspect.signature(getattr(theirs, cls_name).__init__).parameters.values())
    own = list(inspect.signature(getattr(ours, cls_name).__init__).parameters.values())
    assert [(p.name, p.default) for p in own[: len(shared)]] == [(p.name, p.default) for p in shared]
    assert all(p.kind is p.KEYWORD_ONLY for p in own[len(shared) :])


def build_both(name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Both libraries' network from the same seed; GoogLeNet's warning about its initialisation is torchvision's."""
    if name == "googlenet":
        options.setdefault("init_weights", True)
    models = []
    for library in (theirs, ours):
        torch.manual_seed(0)
        models.append(library.get_model(name, **options))
    return models[0], models[1]


def assert_same_state(expected: nn.Module, got: nn.Module) -> None:
    expected_state, state = expected.state_dict(), got.state_dict()
    assert list(state) == list(expected_state)
    different = [key for key in state if not torch.equal(state[key], expected_state[key])]
    assert not different
    assert [n for n, _ in got.named_parameters()] == [n for n, _ in expected.named_parameters()]


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    out = model(x)
    return list(out) if isinstance(out, tuple) else [out]


def assert_same_outputs(expected: nn.Module, got: nn.Module, size: int = 64) -> None:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    for training in (True, False):
        expected.train(training)
        got.train(training)
        with torch.no_grad():
            pairs = list(zip(outputs(expected, x), outputs(got, x), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs), f"training={training}"
    assert_same_state(expected, got)  # running statistics too


# One of each kind of block (VGG: test_a_column_of_ones_own); test_the_same_layers compares what the others differ in.
KINDS = ["googlenet", "resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v2"]
KINDS += ["efficientnet_b0", "efficientnet_v2_s"]


def layers(model: nn.Module) -> list[tuple[str, str, Any]]:
    """Path, type and settings (kernel, stride, padding, groups, epsilon, momentum, probability) of each layer."""
    leaves = [(path, m) for path, m in model.named_modules() if not any(m.children())]
    return [(path, type(m).__name__, getattr(m, "p", m.extra_repr())) for path, m in leaves]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_layers(name: str) -> None:
    found = []
    for library in (theirs, ours):
        with meta_build():
            model = library.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
        found.append((layers(model), [(key, value.shape) for key, value in model.state_dict().items()]))
    assert found[1] == found[0]


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_same_seed_same_weights_same_outputs(name: str) -> None:
    expected, got = build_both(name)
    assert_same_state(expected, got)
    assert_same_outputs(expected, got)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # test_a_column_of_ones_own does it with few convolutions.
        pytest.param("vgg11", {"dropout": 0.1, "num_classes": 7}, marks=pytest.mark.slow),
        ("googlenet", {"aux_logits": False, "num_classes": 7}),
        ("googlenet", {"transform_input": True, "dropout": 0.5, "dropout_aux": 0.1}),
        ("resnet18", {"zero_init_residual": True, "num_classes": 7}),
        ("resnet18", {"norm_layer": lambda width: nn.GroupNorm(8, width)}),
        pytest.param(
            "resnet50",
            {"replace_stride_with_dilation": [False, True, True], "zero_init_residual": True},
            marks=pytest.mark.slow,  # test_options_of_bottlenecks does it with fewer of them
        ),
        pytest.param("resnet50", {"groups": 4, "width_per_group": 32}, marks=pytest.mark.slow),
        ("densenet121", {"drop_rate": 0.2, "memory_efficient": True, "bn_size": 2}),
        ("mobilenet_v2", {"width_mult": 0.35, "round_nearest": 4, "dropout": 0.5}),
        ("mobilenet_v2", {"inverted_residual_setting": [[1, 16, 1, 1], [4, 24, 2, 2]], "num_classes": 7}),
        ("efficientnet_b0", {"stochastic_depth_prob": 0.8, "dropout": 0.6, "num_classes": 7}),
        ("efficientnet_v2_s", {"stochastic_depth_prob": 0.5}),
    ],
)
def test_options(name: str, options: dict[str, Any]) -> None:
    expected, got = build_both(name, **options)
    assert_same_state(expected, got)
    assert_same_outputs(expected, got)


def bottlenecks(**options: Any) -> tuple[nn.Module, nn.Module]:
    """Both libraries' ResNet-50 with one or two blocks a stage; the others are the last of a stage again."""
    models = []
    for library in (theirs, ours):
        torch.manual_seed(0)
        models.append(library.ResNet(library.resnet.Bottleneck, [1, 1, 2, 2], num_classes=10, **options))
    return models[0], models[1]


@pytest.mark.parametrize(
    "options",
    [
        {"replace_stride_with_dilation": [False, True, True], "zero_init_residual": True},
        {"groups": 4, "width_per_group": 32},
    ],
)
def test_options_of_bottlenecks(options: dict[str, Any]) -> None:
    expected, got = bottlenecks(**options)
    assert_same_state(expected, got)
    assert_same_outputs(expected, got)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
        "googlenet",
        "resnet18",
        "densenet121",
        "mobilenet_v2",
        "efficientnet_b0",
    ],
)
def test_gradients(name: str) -> None:
    expected, got = build_both(name)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    for model in (expected, got):
        sum(output.square().mean() for output in outputs(model, x)).backward()
    pairs = zip(expected.named_parameters(), got.parameters(), strict=True)
    assert not [name for (name, a), b in pairs if not torch.equal(a.grad, b.grad)]


FAMILIES = [(theirs.efficientnet, theirs.vgg), (ours.efficientnet, ours.vgg)]


def test_a_network_of_ones_own_rows() -> None:
    networks = []
    for efficientnet, _ in FAMILIES:
        rows = [
            efficientnet.FusedMBConvConfig(1, 3, 1, 8, 8, 1),
            efficientnet.MBConvConfig(4, 5, 2, 8, 16, 2, 1.0, 1.2),
        ]
        torch.manual_seed(0)
        networks.append(efficientnet.EfficientNet(rows, 0.1, num_classes=3))
    assert_same_state(*networks)
    assert_same_outputs(*networks)


def test_a_column_of_ones_own() -> None:
    networks = []
    for _, vgg in FAMILIES:
        torch.manual_seed(0)
        networks.append(vgg.VGG(vgg.make_layers([8, "M", 512, "M"], batch_norm=True), num_classes=2, dropout=0.1))
    assert_same_state(*networks)
    assert_same_outputs(*networks)
    assert [(stage.channels, stage.stride) for stage in networks[1].stages] == [(8, 2), (512, 4)]


# --- the comparisons above see a wrong kernel, stride or epsilon ------------------------------------------------------


def mutations() -> Iterator[Any]:
    def kernel(model: nn.Module) -> None:
        conv = model.layer2[0].conv2
        new = nn.Conv2d(conv.in_channels, conv.out_channels, 5, conv.stride, 2, bias=False)
        with torch.no_grad():
            new.weight.zero_()
            new.weight[:, :, 1:4, 1:4] = conv.weight
            new.weight[0, 0, 0, 0] = 1e-3
        model.layer2[0].conv2 = new

    def stride(model: nn.Module) -> None:
        model.layer3[0].conv2.stride = model.layer3[0].downsample[0].stride = (1, 1)

    def stride_moved(model: nn.Module) -> None:  # ResNet v1 instead of v1.5
        model.layer2[0].conv1.stride, model.layer2[0].conv2.stride = (2, 2), (1, 1)

    def epsilon(model: nn.Module) -> None:
        model.layer1[0].bn1.eps = 1.1e-5

    def momentum(model: nn.Module) -> None:
        model.layer4[0].bn1.momentum = 0.11

    def dilation(model: nn.Module) -> None:
        model.layer4[1].conv2.dilation = model.layer4[1].conv2.padding = (2, 2)

    yield from (pytest.param(f, id=f.__name__) for f in (kernel, stride, stride_moved, epsilon, momentum, dilation))


@pytest.mark.parametrize("mutate", list(mutations()))
def test_a_mutation_is_seen(mutate: Any) -> None:
    expected, got = bottlenecks()
    mutate(got)
    with pytest.raises(AssertionError):
        assert_same_outputs(expected, got)
