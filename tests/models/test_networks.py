"""What every network can do, for every network of the registry."""

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, fx, nn

import vertebra
from vertebra.errors import UsageError
from vertebra.models import FAMILIES, ConvNet, create_model, get_family, get_model_weights, list_models
from vertebra.models.densenet import DenseNet
from vertebra.models.state_dict import meta_build

NAMES = list_models()
# The smallest of each family and of each kind of block; the others are the same code with other numbers.
SMALL = [*tiny.one_of_each(), "resnext50_32x4d", "efficientnet_b0", "efficientnet_v2_s"]


# What takes more than a moment and is decided by the blocks is done for one of each kind in the default run.
DEEP = [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in NAMES]


def on_meta(name: str, **options: object) -> ConvNet:
    """A network of its own, to change."""
    with meta_build():
        return create_model(name, **options).eval()


# One of each, to look at: building takes up to a second.
shared = cache(on_meta)


@pytest.fixture(scope="module", params=["tiny", pytest.param("whole", marks=pytest.mark.slow)])
def network(request: pytest.FixtureRequest, tiny_names: Any) -> Callable[[str], ConvNet]:
    """One network of each kind, drawn once; tests that change it take a copy. The tiny ones have the same blocks."""
    drawn: dict[str, ConvNet] = {}

    def get(name: str) -> ConvNet:
        if name not in drawn:
            torch.manual_seed(0)
            with tiny_names() if request.param == "tiny" else nullcontext():
                drawn[name] = create_model(name, num_classes=10).eval()
        return drawn[name]

    return get


def images(size: int, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def small_size(name: str) -> int:
    return max(get_model_weights(name).DEFAULT.meta["min_size"][0], 64)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEEP)
def test_stages_tell_what_they_return(name: str) -> None:
    model = shared(name)
    size = 256
    outputs = model.forward_stages(torch.empty(2, 3, size, size, device="meta"))
    assert len(outputs) == len(model.stages) >= 4
    for stage, output in zip(model.stages, outputs, strict=True):
        assert output.shape[:2] == (2, stage.channels), stage
        # A stride of 2 on an odd size rounds up in some networks (pooling with ceil_mode) and down in others, and
        # convolutions without padding leave out a few pixels.
        assert abs(output.shape[2] - size / stage.stride) <= max(1, 0.03 * size / stage.stride), stage
        model.get_submodule(stage.module)
    paths = [path for stage in model.stages for path in stage.modules]
    assert len(paths) == len(set(paths))
    assert [stage.stride for stage in model.stages] == sorted(stage.stride for stage in model.stages)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_the_body_is_in_a_stage(name: str) -> None:
    model = shared(name)
    in_stages = {
        id(p) for stage in model.stages for path in stage.modules for p in model.get_submodule(path).parameters()
    }
    head = model.head_module
    beside = {
        id(p)
        for module in (head, getattr(model, "aux1", None), getattr(model, "aux2", None))
        if module
        for p in module.parameters()
    }
    assert {id(p) for p in model.parameters()} == in_stages | beside
    assert not in_stages & beside


@pytest.mark.parametrize("name", NAMES)
def test_published_parameters_and_size(name: str) -> None:
    weights = get_model_weights(name)
    model = on_meta(name, **({"aux_logits": False} if name == "googlenet" else {}))
    for member in weights:
        assert sum(p.numel() for p in model.parameters()) == member.meta["num_params"]
        assert member.meta["min_size"] == (model.min_size, model.min_size)


@pytest.mark.parametrize("name", SMALL)
def test_features_embedding_and_head_add_up(name: str, network: Callable[[str], ConvNet]) -> None:
    model = network(name)
    x = images(small_size(name))
    with torch.inference_mode():
        features = model.forward_features(x)
        stages = model.forward_stages(x)
        logits = model(x)
        embedding = model.forward_embedding(features)
        assert torch.equal(features, stages[-1])
        assert torch.equal(logits, model.forward_head(features))
        assert torch.equal(logits, model.get_classifier()(embedding))
    assert embedding.shape == (2, model.get_classifier().in_features)
    assert logits.shape == (2, 10) and model.num_classes == 10


@pytest.mark.parametrize("name", SMALL)
def test_class_activation_maps_need_nothing_else(name: str, network: Callable[[str], ConvNet]) -> None:
    """The mean of the map of a class, plus the bias, is its logit (Zhou et al. 2016, equation 2)."""
    model = network(name)
    with torch.inference_mode():
        x = images(small_size(name))
        features = model.forward_features(x)
        classifier = model.get_classifier()
        if classifier.in_features != model.num_features:  # as in VGG, more than pooling is between
            assert model.forward_embedding(features).shape == (2, classifier.in_features)
            return
        maps = torch.einsum("nchw,kc->nkhw", features, classifier.weight)
        torch.testing.assert_close(maps.mean((2, 3)) + classifier.bias, model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_a_hook_on_a_stage_sees_its_output(name: str, network: Callable[[str], ConvNet]) -> None:
    # Kept, not copied: nothing that comes later may change it.
    model = network(name)
    seen = {}
    hooks = [
        model.get_submodule(stage.module).register_forward_hook(lambda m, i, o, s=stage.name: seen.update({s: o}))
        for stage in model.stages
    ]
    with torch.inference_mode():
        outputs = model.forward_stages(images(small_size(name), batch=1))
    for hook in hooks:
        hook.remove()
    if model.stages[-1].module.endswith("norm5"):  # DenseNet's last ReLU is no module of its own
        seen[model.stages[-1].name] = seen[model.stages[-1].name].relu()
    assert all(torch.equal(seen[stage.name], output) for stage, output in zip(model.stages, outputs, strict=True))


@pytest.mark.parametrize("name", DEEP)
def test_smallest_size(name: str) -> None:
    model = shared(name)
    smallest = model.min_size
    assert model(torch.empty(1, 3, smallest, smallest, device="meta")).shape == (1, 1000)
    assert model(torch.empty(1, 3, smallest, smallest + 37, device="meta")).shape == (1, 1000)
    if smallest > 1:
        with pytest.raises(
            UsageError, match=rf"at least {smallest} × {smallest} pixels, got {smallest - 1} × {smallest}"
        ):
            model(torch.empty(1, 3, smallest - 1, smallest, device="meta"))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(0, 0), (1, 1), (7, 40), (61, 33)])
def test_any_size_from_the_smallest_on_computes(
    name: str, size: tuple[int, int], network: Callable[[str], ConvNet]
) -> None:
    model = network(name)
    x = torch.randn(1, 3, model.min_size + size[0], model.min_size + size[1])
    with torch.inference_mode():
        assert model(x).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((3, 64, 64), torch.float32, r"batch of images.*got \(3, 64, 64\).*unsqueeze"),
        ((2, 1, 64, 64), torch.float32, r"\(N, 3, H, W\), got \(2, 1, 64, 64\)"),
        ((2, 64, 64, 3), torch.float32, r"\(N, 3, H, W\)"),
        ((2, 3, 64, 64), torch.uint8, r"floating-point images, got torch.uint8"),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_wrong_inputs(name: str, shape: tuple[int, ...], dtype: torch.dtype, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shared(name)(torch.zeros(shape, dtype=dtype, device="meta"))


# --- numbers and formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_batch_of_one_equals_its_part_of_a_batch(name: str, network: Callable[[str], ConvNet]) -> None:
    model, x = network(name), images(small_size(name), batch=3)
    with torch.inference_mode():
        torch.testing.assert_close(model(x[1:2]), model(x)[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SMALL)
def test_dtypes(name: str, dtype: torch.dtype, network: Callable[[str], ConvNet]) -> None:
    model = copy.deepcopy(network(name)).to(dtype)
    x = images(small_size(name), batch=1)
    with torch.inference_mode():
        out, expected = model(x.to(dtype)), network(name)(x)
    assert out.dtype == dtype and out.isfinite().all()
    tolerance = {torch.float64: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    assert (out.float() - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last(name: str, network: Callable[[str], ConvNet]) -> None:
    model = copy.deepcopy(network(name)).to(memory_format=torch.channels_last)
    x = images(small_size(name))
    with torch.inference_mode():
        out = model(x.to(memory_format=torch.channels_last))
        features = model.forward_features(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(out, network(name)(x), rtol=1e-3, atol=1e-4)
    assert features.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", DEEP)
def test_copies(name: str) -> None:
    model = shared(name)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.state_dict()) == list(model.state_dict())
        assert other.stages == model.stages
        assert other(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1000)


@pytest.mark.slow  # test_recorded_graphs_compute_the_same does it with tiny ones
@pytest.mark.parametrize("name", NAMES)
def test_fx(name: str) -> None:
    model = shared(name)
    graph = fx.symbolic_trace(model)
    assert graph(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1000)


@pytest.mark.slow  # test_recorded_graphs_compute_the_same does it with tiny ones
@pytest.mark.parametrize("name", NAMES)
def test_export_with_a_dynamic_batch(name: str) -> None:
    batch = torch.export.Dim("batch", min=1, max=512)
    program = torch.export.export(
        on_meta(name), (torch.empty(2, 3, 64, 64, device="meta"),), dynamic_shapes=({0: batch},)
    )
    assert program.module()(torch.empty(5, 3, 64, 64, device="meta")).shape == (5, 1000)


@pytest.mark.slow  # test_recorded_graphs_compute_the_same does it with tiny ones
@pytest.mark.parametrize("name", NAMES)
def test_compile_without_a_graph_break(name: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(on_meta(name), fullgraph=True, backend="eager")
    assert compiled(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)


# Their blocks are recorded within efficientnet_b0 and resnet18, but for the fused and the grouped convolution.
ALIKE = ("resnext50_32x4d", "efficientnet_v2_s", "efficientnet_lite0")


@pytest.mark.no_cover  # tracing torch's compiler takes twice as long
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in SMALL])
def test_recorded_graphs_compute_the_same(name: str, network: Callable[[str], ConvNet]) -> None:
    model, size = network(name), small_size(name)
    x = images(size, batch=3)
    batch = torch.export.Dim("batch", min=1, max=512)
    program = torch.export.export(model, (images(size),), dynamic_shapes=({0: batch},)).module()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # test_inductor compiles what is recorded
    with torch.no_grad():
        for recorded in (fx.symbolic_trace(model), program, compiled):
            torch.testing.assert_close(recorded(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_inductor(name: str, network: Callable[[str], ConvNet]) -> None:
    torch.compiler.reset()
    compiled = torch.compile(network(name))
    x = images(small_size(name))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(name)(x), rtol=1e-3, atol=1e-4)


# --- classifier and channels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEEP)
def test_classifier_is_read_and_replaced_alike(name: str) -> None:
    model = on_meta(name)
    before = list(model.parameters())
    width = model.get_classifier().in_features
    model.reset_classifier(7)
    assert isinstance(model.get_classifier(), nn.Linear)
    assert model.num_classes == 7
    x = torch.empty(2, 3, 64, 64, device="meta")
    assert model(x).shape == (2, 7)
    assert sum(any(p is q for q in before) for p in model.parameters()) >= len(before) - 6  # the body is the same
    model.set_classifier(nn.Identity())
    assert model(x).shape == (2, width)
    with pytest.raises(UsageError, match="Identity"):
        model.reset_classifier(3)
    with pytest.raises(UsageError, match=r"empty nn\.Sequential"):
        model.set_classifier(nn.Sequential())


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "10"])
def test_wrong_numbers_of_classes(wrong: object) -> None:
    model = on_meta("resnet18")
    if wrong != 0:  # no classifier
        with pytest.raises(UsageError, match="num_classes"):
            model.reset_classifier(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="num_classes"):
            create_model("resnet18", num_classes=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="in_channels"):
        create_model("resnet18", in_channels=wrong)  # type: ignore[arg-type]


def test_googlenets_other_heads_follow_the_classifier() -> None:
    model = create_model("googlenet", num_classes=5)
    model.reset_classifier(3)
    with torch.no_grad():
        out = model.train()(images(64))
    assert [tuple(logits.shape) for logits in out] == [(2, 3)] * 3
    assert out._fields == ("logits", "aux_logits2", "aux_logits1")


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("channels", [1, 13])
def test_in_channels(name: str, channels: int) -> None:
    model = on_meta(name, in_channels=channels)
    assert model(torch.empty(1, channels, 64, 64, device="meta")).shape == (1, 1000)
    assert list(model.state_dict()) == list(shared(name).state_dict())


@pytest.mark.parametrize("name", [n for n in SMALL if n != "googlenet"])
def test_one_channel_equals_a_grey_picture(name: str, network: Callable[[str], ConvNet]) -> None:
    model = copy.deepcopy(network(name))
    grey = images(small_size(name), channels=1)
    with torch.inference_mode():
        expected = model(grey.expand(-1, 3, -1, -1))
        model.reset_stem(1)
        torch.testing.assert_close(model(grey), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_six_channels_equal_the_picture_given_twice(name: str, network: Callable[[str], ConvNet]) -> None:
    model = copy.deepcopy(network(name))
    x = images(small_size(name))
    with torch.inference_mode():
        expected = model(x)
        model.reset_stem(6)
        torch.testing.assert_close(model(torch.cat([x, x], 1)), expected, rtol=1e-3, atol=1e-4)
        assert model.in_channels == 6


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_activation_checkpointing_keeps_gradients_and_statistics(name: str, network: Callable[[str], ConvNet]) -> None:
    results = []
    for checkpointing in (False, True):
        model = copy.deepcopy(network(name)).train()
        model.set_activation_checkpointing(checkpointing)
        torch.manual_seed(3)  # dropout and stochastic depth draw the same again
        out = model(images(small_size(name)))
        sum(part.square().mean() for part in (out if isinstance(out, tuple) else [out])).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert gradients
        results.append((gradients, dict(model.named_buffers())))
    for plain, checkpointed in zip(*results, strict=True):
        assert not [key for key in plain if not torch.equal(plain[key], checkpointed[key])]


def test_activation_checkpointing_keeps_gradients_of_gradients() -> None:
    """With create_graph=True, and so with a block that is computed more than twice."""
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = create_model("resnet18", weights=None).double().train()
        model.set_activation_checkpointing(checkpointing)
        x = images(64).double().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
        gradient.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        results.append((gradients, dict(model.named_buffers())))
    for plain, checkpointed in zip(*results, strict=True):
        assert list(plain) == list(checkpointed)
        for name, expected in plain.items():
            torch.testing.assert_close(checkpointed[name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_activation_checkpointing_saves_memory() -> None:
    """Bytes that autograd keeps for the backward pass, without and with."""
    kept = []
    for checkpointing in (False, True):
        model = create_model("resnet18").train()
        model.set_activation_checkpointing(checkpointing)
        storages: dict[int, int] = {}

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(images(64))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept.append(sum(size for pointer, size in storages.items() if pointer not in weights))
    assert kept[1] < kept[0] / 2


def test_no_checkpointed_segment_of_vgg_reaches_over_a_stage(tiny_network: Any) -> None:
    """What is computed again at once stays one group of convolutions; the input of each group is kept."""
    model = tiny_network("vgg").train()
    model.set_activation_checkpointing(True)
    kept: set[tuple[int, ...]] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.forward_features(images(64))
    stages = model.eval().forward_stages(images(64))
    assert kept >= {tuple(images(64).shape), *(tuple(stage.shape) for stage in stages[:-1])}


@pytest.mark.parametrize("whole", [False, True], ids=["layers", "layers and blocks"])
def test_a_memory_efficient_densenet_counts_each_batch_once(whole: bool) -> None:
    torch.manual_seed(0)
    plain = DenseNet(8, (2, 3), 16, num_classes=3).train()
    frugal = DenseNet(8, (2, 3), 16, num_classes=3, memory_efficient=True).train()
    frugal.load_state_dict(plain.state_dict())
    frugal.set_activation_checkpointing(whole)
    pictures = torch.randn(3, 4, 3, 32, 32)
    for model in (plain, frugal):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in pictures:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    wanted = plain.state_dict()
    assert not [name for name, value in frugal.state_dict().items() if not torch.equal(value, wanted[name])]
    assert frugal.features.norm0.num_batches_tracked == 3


@pytest.mark.parametrize("name", SMALL)
def test_hooks_keep_what_they_are_given_where_modules_are_not_in_place(
    name: str, network: Callable[[str], ConvNet]
) -> None:
    """At the end of each stage, and in GoogLeNet and DenseNet everywhere: what works in place there can be told not to.

    A residual network's own addition is in place, as torchvision's, so its last norms are left out.
    """
    model = copy.deepcopy(network(name)).train()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    paths = {stage.module for stage in model.stages}
    if get_family(name) in ("googlenet", "densenet"):
        paths = {path for path, module in model.named_modules() if path}
    given: list[tuple[str, Tensor, Tensor]] = []
    reached = set()

    def keep(path: str, output: Tensor) -> None:
        given.append((path, output, output.detach().clone()))

    for path in paths:
        module = model.get_submodule(path)
        module.register_forward_hook(lambda _module, _inputs, output, path=path: keep(path, output))
        module.register_full_backward_hook(lambda _module, _before, _after, path=path: reached.add(path))
    out = model(images(small_size(name)))
    sum(part.square().mean() for part in (out if isinstance(out, tuple) else [out])).backward()
    assert {path for path, *_ in given} == reached
    assert len(reached) >= len(model.stages)
    assert not [path for path, output, before in given if not torch.equal(output, before)]


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_modules(family: str) -> None:
    members = list_models(family=family)
    assert members and all(get_family(name) == family for name in members)


def test_torchs_meta_device() -> None:
    with torch.device("meta"):
        model = create_model("resnet18").eval()
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1000)


def test_the_lazy_names_are_these() -> None:
    assert vertebra.create_model is create_model and vertebra.list_models is list_models
