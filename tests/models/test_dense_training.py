"""Dense blocks and transitions as one operation each, against their layers one by one."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

from vertebra.models import DenseNet, dense_block_function, dense_training, densenet
from vertebra.models.dense_training import layer_by_layer
from vertebra.models.densenet import DenseBlock, Transition

CHANNELS_LAST = torch.channels_last


def untidy_block(dtype: torch.dtype = torch.float64, memory_efficient: bool = True) -> DenseBlock:
    """Weights of both signs and of zero, statistics that are not those of a new network, two epsilons."""
    torch.manual_seed(0)
    block = DenseBlock(3, 6, 2, 4, 0.0, memory_efficient).to(dtype)
    _roughen(block)
    block["denselayer2"].norm1.eps = 0.1
    return block.to(memory_format=CHANNELS_LAST).train()


def untidy_transition(dtype: torch.dtype = torch.float64, memory_efficient: bool = True) -> Transition:
    torch.manual_seed(0)
    transition = Transition(6, 3, memory_efficient).to(dtype)
    _roughen(transition)
    return transition.to(memory_format=CHANNELS_LAST).train()


def _roughen(module: nn.Module) -> None:
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(-1, 1)[0] = 0
                norm.bias.uniform_(-1, 1)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)


def images(dtype: torch.dtype = torch.float64, batch: int = 3, height: int = 7, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 6, height, width, dtype=dtype, generator=generator) * 3 + 5
    return x.contiguous(memory_format=CHANNELS_LAST).requires_grad_()


def step(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Everything that a training step leaves: outputs, gradients, running statistics."""
    x = x.detach().requires_grad_(x.requires_grad)
    out = module(x)
    (out.sin() * torch.arange(out.shape[1], dtype=out.dtype).view(-1, 1, 1)).sum().backward()
    found = {"output": out.detach(), "x": x.grad}
    found |= {f"{name}.grad": parameter.grad for name, parameter in module.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in module.named_buffers()}


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_training, "_LEAST", 0)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made by one operation: "block", "transition"."""
    calls: list[str] = []

    def noting(kind: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: calls.append(kind) or function(*args)

    for kind in ("block", "transition"):
        monkeypatch.setattr(densenet, f"train_{kind}", noting(kind, getattr(densenet, f"train_{kind}")))
    return calls


KINDS = pytest.mark.parametrize("build", [untidy_block, untidy_transition], ids=["block", "transition"])


@KINDS
@pytest.mark.parametrize("chunk", [2**18, 100, 1], ids=["one chunk", "several chunks", "rows one by one"])
def test_a_step_leaves_what_the_layers_leave(
    build: Any, chunk: int, fused: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_block_function, "_CHUNK", chunk)
    module, other = build(), build()
    for batch in (images(), images(batch=2, height=4, width=9)):
        found = step(module, batch)
        with layer_by_layer():
            torch.testing.assert_close(found, step(other, batch), rtol=1e-9, atol=1e-9)
    assert len(fused) == 2


@KINDS
def test_float32_is_as_exact_as_the_layers(build: Any, fused: list[str]) -> None:
    x = images(torch.float32, 8, 14, 14)
    found = step(build(torch.float32), x)
    assert fused
    with layer_by_layer():
        by_layers, exact = step(build(torch.float32), x), step(build(), x.double())
    for name, tensor in exact.items():
        errors = [
            float((other[name] - tensor).double().norm() / (tensor.double().norm() + 1)) for other in (found, by_layers)
        ]
        assert errors[0] < 3 * errors[1] + 1e-6, name


@KINDS
def test_gradients_are_those_of_finite_differences(build: Any, fused: list[str]) -> None:
    module = build()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (images(batch=2, height=3, width=4), *parameters), fast_mode=True)
    assert fused


@KINDS
def test_gradients_of_gradients(build: Any, fused: list[str]) -> None:
    """A gradient penalty, which goes on by the layers."""

    def penalty(module: nn.Module) -> list[Tensor]:
        x = images()
        (of_x,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        of_x.square().sum().backward()
        return [of_x.detach(), x.grad, *(parameter.grad for parameter in module.parameters())]

    found = penalty(build())
    assert fused
    torch.testing.assert_close(found, penalty(build(memory_efficient=False)), rtol=1e-8, atol=1e-8)


@KINDS
def test_the_same_graph_twice(build: Any) -> None:
    module, x = build(), images()
    out = module(x).square().sum()
    out.backward(retain_graph=True)
    once = x.grad.clone()
    out.backward()
    assert torch.equal(x.grad, 2 * once)


@KINDS
def test_frozen_parameters_and_an_input_without_gradient(build: Any, fused: list[str]) -> None:
    module, other = build(), build()
    for one in (module, other):
        for parameter in list(one.parameters())[:-1]:
            parameter.requires_grad_(False)
    x = images().detach()
    found = step(module, x)
    with layer_by_layer():
        torch.testing.assert_close(found, step(other, x), rtol=1e-9, atol=1e-9)
    assert fused and found["x"] is None and sum(g is not None for n, g in found.items() if n.endswith("grad")) == 1


@KINDS
@pytest.mark.parametrize("momentum", [None, 0.0, 0.3])
def test_running_statistics_count_each_batch_once(build: Any, momentum: float | None) -> None:
    modules = build(), build()
    for module in modules:
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = momentum
    for batch in (images(), 2 * images(batch=2)):
        modules[0](batch)
        with layer_by_layer():
            modules[1](batch)
    torch.testing.assert_close(dict(modules[0].named_buffers()), dict(modules[1].named_buffers()), rtol=1e-9, atol=1e-9)


# --- where the layers run one by one ----------------------------------------------------------------------------------


def _norms_in_evaluation(module: nn.Module) -> None:
    for norm in module.modules():
        norm.training = not isinstance(norm, nn.BatchNorm2d)


def _first(module: nn.Module, kind: type) -> Any:
    return next(child for child in module.modules() if isinstance(child, kind))


def _replace(module: nn.Module, kind: type, make: Callable[[Any], nn.Module]) -> None:
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, kind):
                torch.manual_seed(3)
                setattr(parent, name, make(child).double())
                return


CHANGES: dict[str, Callable[[Any], Any]] = {
    "norms in evaluation": _norms_in_evaluation,
    "evaluation": lambda module: module.eval(),
    "a forward hook": lambda module: _first(module, nn.Conv2d).register_forward_hook(lambda *_: None),
    "a pre-hook": lambda module: _first(module, nn.ReLU).register_forward_pre_hook(lambda *_: None),
    "a backward hook": lambda module: _first(module, nn.Conv2d).register_full_backward_hook(lambda *_: None),
    "another norm": lambda module: _replace(module, nn.BatchNorm2d, lambda old: nn.GroupNorm(2, old.num_features)),
    "a norm without weights": lambda module: _replace(
        module, nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, affine=False)
    ),
    "a norm without running statistics": lambda module: _replace(
        module, nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, track_running_stats=False)
    ),
    "another activation": lambda module: _replace(module, nn.ReLU, lambda _: nn.ELU()),
    "a parametrisation": lambda module: parametrizations.weight_norm(_first(module, nn.Conv2d)),
    "a convolution with a bias": lambda module: _replace(
        module, nn.Conv2d, lambda old: nn.Conv2d(old.in_channels, old.out_channels, 1)
    ),
    "a forward of its own": lambda module: setattr(_first(module, nn.ReLU), "forward", torch.sigmoid),
    "nothing to train": lambda module: module.requires_grad_(False),
}


@KINDS
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_runs_by_its_layers(build: Any, change: str, fused: list[str]) -> None:
    modules = build(), build()
    for module in modules:
        CHANGES[change](module)
    x = images()
    if change == "nothing to train":
        x = x.detach()
    outputs = [modules[0](x)]
    with layer_by_layer():
        outputs.append(modules[1](x))
    assert not fused and torch.equal(*outputs)
    assert all(map(torch.equal, modules[0].buffers(), modules[1].buffers()))


def test_changed_blocks_run_by_their_layers(fused: list[str]) -> None:
    class Layer(densenet.DenseLayer):
        def forward(self, features: Any) -> Tensor:
            return 2 * super().forward(features)

    block = untidy_block()
    block["denselayer2"] = Layer(10, 4, 2, 0.0, True).double()
    assert torch.isfinite(block(images())).all()
    block = untidy_block()
    block["denselayer3"].drop_rate = 0.5
    block(images())
    block = untidy_block()
    block["denselayer1"].conv2.padding_mode = "reflect"
    block(images())
    with pytest.raises(RuntimeError, match="running_mean should contain 5"):
        untidy_block()(images()[:, :5])
    assert not fused


class Watching(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


CONTEXTS = {
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a function mode": Watching,
}


@KINDS
@pytest.mark.parametrize("context", CONTEXTS)
def test_what_is_watched_runs_by_its_layers(build: Any, context: str, fused: list[str]) -> None:
    with CONTEXTS[context]():
        build()(images())
    assert not fused


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
@KINDS
def test_transforms_and_traces_run_by_the_layers(build: Any) -> None:
    module, x = build(), images().detach()
    answers = []

    def ask(x: Tensor) -> Tensor:
        is_block = isinstance(module, DenseBlock)
        can_fuse = dense_training.can_fuse_block if is_block else dense_training.can_fuse_transition
        answers.append(can_fuse(list(module.values()) if is_block else module, x))
        return x.sum()

    ask(x)
    torch.func.grad(ask)(x)
    with forward_ad.dual_level():
        ask(forward_ad.make_dual(x, x))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    ask(x)
    handle.remove()
    torch.jit.trace(ask, x, check_trace=False)
    ask(x)
    assert answers == [True, False, False, False, False, True]


@KINDS
def test_only_what_is_memory_efficient(build: Any, fused: list[str]) -> None:
    build(memory_efficient=False)(images())
    assert not fused


def test_one_value_per_channel_is_refused_as_ever(fused: list[str]) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        untidy_block()(images(batch=1, height=1, width=1))
    assert not fused


@KINDS
def test_either_layout(build: Any, fused: list[str]) -> None:
    x = images().detach().contiguous().requires_grad_()
    module = build()
    found = step(module, x)
    with layer_by_layer():
        torch.testing.assert_close(found, step(build(), x), rtol=1e-9, atol=1e-9)
    assert len(fused) == 1 and module(x).is_contiguous()


def test_small_maps_run_by_their_layers(fused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x = images()
    monkeypatch.setattr(dense_training, "_LEAST", 3 * 7 * 5 * 18)  # of the block's output
    untidy_block()(x)
    untidy_transition()(x)
    assert fused == ["block"]


# --- the network ------------------------------------------------------------------------------------------------------


def small_network(dtype: torch.dtype = torch.float32) -> DenseNet:
    torch.manual_seed(0)
    network = DenseNet(8, (2, 3, 2), 16, num_classes=3, memory_efficient=True)
    return network.to(dtype, memory_format=CHANNELS_LAST).train()


def losses(network: nn.Module, dtype: torch.dtype = torch.float32, steps: int = 4) -> list[float]:
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(steps):
        x = torch.randn(6, 3, 40, 33, generator=generator).to(dtype, memory_format=CHANNELS_LAST)
        loss = nn.functional.cross_entropy(network(x), torch.arange(6) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_goes_the_same_way(checkpointing: bool, fused: list[str]) -> None:
    networks = small_network(torch.float64), small_network(torch.float64)
    networks[0].set_activation_checkpointing(checkpointing)
    found = losses(networks[0], torch.float64)
    assert fused.count("block") == (2 if checkpointing else 1) * 4 * 3
    with layer_by_layer():
        assert found == pytest.approx(losses(networks[1], torch.float64), rel=1e-9)
    for name, tensor in networks[1].state_dict().items():
        torch.testing.assert_close(networks[0].state_dict()[name], tensor, rtol=1e-7, atol=1e-9)


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Of the storages that autograd keeps, without the weights."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    assert out.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def test_a_block_keeps_its_input_its_output_and_what_the_1x1_convolutions_make() -> None:
    layers, growth, pixels = 8, 4, 3 * 7 * 5
    block = DenseBlock(layers, 6, 2, growth, 0.0, True).double().to(memory_format=CHANNELS_LAST)
    channels = 6 + layers * growth
    statistics = 2 * (channels - growth) + layers * 2 * 2 * growth
    assert saved_bytes(block, images()) == 8 * (pixels * (6 + channels + layers * 2 * growth) + statistics)
    with layer_by_layer():
        assert saved_bytes(block, images()) > 1.3 * 8 * pixels * (6 + channels + layers * 2 * growth)


def test_the_meta_device_and_copies() -> None:
    """A forecast runs the same operations on shapes."""
    network = copy.deepcopy(small_network()).to("meta")
    x = torch.empty(2, 3, 40, 33, device="meta").to(memory_format=CHANNELS_LAST)
    network(x).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in network.parameters())
