"""Forecasts of memory against brute force and against what torch keeps."""

import copy
from functools import cache

import pytest
import torch
from torch import nn

import vertebra
from vertebra import models
from vertebra.anatomy import Kind
from vertebra.errors import UsageError
from vertebra.introspect import count_saved_bytes

SIZE, BATCH = 64, 4
pytestmark = pytest.mark.usefixtures("tiny_module")


@pytest.fixture(scope="module")
def network():
    def build(name):
        published = {"aux_logits": False, "transform_input": True} if name == "googlenet" else {}
        return models.get_model(name, **published)

    return build


@pytest.fixture(scope="module")
def tiny_anatomy():
    return cache(lambda name: vertebra.anatomy(name, SIZE))


def test_saved_activations_are_what_torch_saves(of_family, network, tiny_anatomy):
    built = network(of_family).train()
    x = torch.randn(BATCH, 3, SIZE, SIZE)
    # Whoever calls the network holds its input, also where autograd keeps a normalised copy of it, and its output.
    counted = count_saved_bytes(built, x)
    measured = counted.total - counted.input + x.nbytes + built(x).nbytes
    forecast = tiny_anatomy(of_family).training_memory(batch_size=BATCH)
    assert forecast.saved_activations == pytest.approx(measured, rel=0.10)
    assert forecast.saved_activations == pytest.approx(measured, rel=0.001)  # as it is today


def held_after_forward(network, x):
    """Bytes that a forward pass leaves allocated, by torch's own profiler, with the input."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = network(x)
    assert output.requires_grad
    events = profiler.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]") + x.nbytes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_saved_activations_are_those_of_the_profiler(of_family, network, tiny_anatomy, checkpointing):
    built = network(of_family).train()
    built.set_activation_checkpointing(checkpointing)
    x = torch.randn(BATCH, 3, SIZE, SIZE)
    built(x)  # what is allocated once, at the first use
    measured = held_after_forward(built, x)
    forecast = tiny_anatomy(of_family).training_memory(batch_size=BATCH, checkpointing=checkpointing)
    assert forecast.saved_activations == pytest.approx(measured, rel=0.10)


def test_dense_blocks_that_are_one_operation_count_as_such():
    """Where maps are large, `memory_efficient` blocks keep their maps once."""
    forecasts = {}
    x = torch.randn(32, 3, 128, 128)
    for frugal in (False, True):
        built = models.DenseNet(8, (2, 3), 16, num_classes=3, memory_efficient=frugal).train()
        built(x)  # what is allocated once, at the first use
        forecasts[frugal] = vertebra.anatomy(built, 128).training_memory(batch_size=32).saved_activations
        assert forecasts[frugal] == pytest.approx(held_after_forward(built, x), rel=0.05)
    assert forecasts[True] < 0.75 * forecasts[False]


def test_checkpointing_saves_memory_and_changes_nothing_else(of_family, tiny_anatomy):
    anatomy = tiny_anatomy(of_family)
    plain, saving = (anatomy.training_memory("adamw", c, BATCH) for c in (False, True))
    assert saving.saved_activations < 0.75 * plain.saved_activations
    assert saving.saved_activations <= saving.peak_activations < plain.peak_activations
    assert (saving.parameters, saving.gradients, saving.optimizer_state) == (
        plain.parameters,
        plain.gradients,
        plain.optimizer_state,
    )
    assert saving.total < plain.total


@pytest.mark.parametrize(("optimizer", "values"), [("sgd", 0), ("momentum", 1), ("adam", 2), ("adamw", 2)])
def test_optimizer_state_is_torchs(optimizer, values):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    forecast = vertebra.anatomy(network, 8).training_memory(optimizer, batch_size=2)
    assert forecast.parameters == forecast.gradients == 4 * (4 * 27 + 4 + 4 + 4)
    assert forecast.optimizer_state == values * forecast.gradients
    assert forecast.buffers == 4 * (4 + 4) + 8
    torch_name = {"momentum": "SGD", "sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[optimizer]
    options = {"momentum": 0.9} if optimizer == "momentum" else {}
    real = getattr(torch.optim, torch_name)(network.parameters(), lr=0.1, **options)
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    real.step()
    tensors = [t for state in real.state.values() for t in state.values() if isinstance(t, torch.Tensor) and t.ndim]
    assert forecast.optimizer_state == sum(t.nbytes for t in tensors)
    assert forecast.total == (
        forecast.parameters
        + forecast.buffers
        + forecast.gradients
        + forecast.optimizer_state
        + forecast.peak_activations
    )


def test_frozen_parameters_need_neither_gradient_nor_state(whole_names):
    with whole_names():
        network = models.resnet18()
    anatomy = vertebra.anatomy(network, SIZE)
    for parameter in network.parameters():
        parameter.requires_grad = False
    network.fc.weight.requires_grad = True
    frozen = vertebra.anatomy(network, SIZE).training_memory("adamw", batch_size=BATCH)
    assert frozen.gradients == network.fc.weight.nbytes
    assert frozen.saved_activations < 0.05 * anatomy.training_memory("adamw", batch_size=BATCH).saved_activations


def test_norms_that_stay_in_eval_mode_are_respected():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).train()
    network[1].eval()
    # One image and one value a channel would be refused by a norm in training.
    vertebra.anatomy(network, 8).training_memory(batch_size=1)
    assert network.training and not network[1].training


def test_memory_grows_with_the_batch():
    anatomy = vertebra.anatomy("mobilenet_v2", SIZE)
    one, four = (anatomy.training_memory(batch_size=n) for n in (2, 8))
    assert four.saved_activations == pytest.approx(4 * one.saved_activations, rel=0.01)
    assert four.gradients == one.gradients


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "momentun"}, "Did you mean 'momentum'"),
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 1}, "Expected more than 1 value per channel"),
    ],
)
def test_wrong_calls(options, message):
    anatomy = vertebra.anatomy(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)), 8)
    with pytest.raises(UsageError, match=message):
        anatomy.training_memory(**options)


def test_checkpointing_is_a_switch_of_our_networks():
    with pytest.raises(UsageError, match=r"torch\.utils\.checkpoint"):
        vertebra.anatomy(nn.Sequential(nn.Conv2d(3, 4, 3)), 8).training_memory(checkpointing=True)


def test_nothing_to_train():
    with pytest.raises(UsageError, match="nothing to train"):
        vertebra.anatomy(nn.Sequential(nn.ReLU()), 8).training_memory()
    for parameter in (network := nn.Conv2d(3, 4, 3)).parameters():
        parameter.requires_grad = False
    with pytest.raises(UsageError, match="nothing to train"):
        vertebra.anatomy(network, 8).training_memory()


# --- inference --------------------------------------------------------------------------------------------------------


class Wide(nn.Module):
    """x → three copies that are all needed at the end."""

    def forward(self, x):
        first = x * 2.0
        second = first * 2.0
        third = second * 2.0
        return torch.cat([first, second, third], 1)


def test_peak_by_hand():
    size = 4 * 3 * 8 * 8  # bytes of the input
    found = vertebra.anatomy(Wide(), 8)
    # x and first; first and second; all three; all three and the result.
    assert [row.live_bytes for row in found.rows] == [2 * size, 2 * size, 3 * size, 6 * size]
    assert found.peak_activation_bytes == 6 * size
    assert found.peak_row.op == "concat"
    chain = vertebra.anatomy(nn.Sequential(nn.Sigmoid(), nn.Sigmoid(), nn.ReLU(inplace=True)), 8)
    assert [row.live_bytes for row in chain.rows] == [2 * size, 2 * size, size], "in place needs no second piece"


def test_views_need_no_memory():
    found = vertebra.anatomy(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 64)), nn.Sigmoid()), 8)
    assert [row.live_bytes for row in found.rows] == [768, 768, 1536]


def test_peak_is_what_brute_force_finds(of_family, tiny_anatomy):
    """For each operation: the storages that exist by then and that it or a later one reads."""
    from vertebra.anatomy import network_input
    from vertebra.graph import trace as tracer
    from vertebra.graph.rows import nodes_with_costs

    subject = network_input.prepare(of_family, SIZE, 1, None, None)
    trace = tracer.trace_network(subject.network, subject.args, subject.kwargs)
    ops = [op for op, _ in nodes_with_costs(trace)]
    rows = tiny_anatomy(of_family).rows
    for index in range(0, len(ops), 7):
        exist = {ref.storage for ref in trace.inputs}
        exist |= {op.outputs[0].storage for op in ops[: index + 1]}
        needed = {ref.storage for op in ops[index:] for ref in op.inputs}
        needed |= {ref.storage for ref in trace.outputs} | {ops[index].outputs[0].storage}
        held = [s for s in exist & needed if trace.storages[s].path is None]
        assert rows[index].live_bytes == sum(trace.storages[s].nbytes for s in held), rows[index].name


def test_dense_blocks_hold_their_features(whole_names):
    """Inside a dense block the memory grows from layer to layer; in a residual stage it does not."""
    with whole_names():
        dense, residual = vertebra.anatomy("densenet121", 224), vertebra.anatomy("resnet50", 224)
    layers = [g for g in dense.blocks if "denseblock3" in g.name]
    inside = [max(r.live_bytes for r in g.rows if r.kind in (Kind.POINTWISE, Kind.DENSE)) for g in layers if g.macs]
    assert inside == sorted(inside) and inside[-1] > 2 * inside[0]
    residual = [g for g in residual.blocks if g.name.startswith("layer3.")][1:]
    assert len({max(r.live_bytes for r in g.rows) for g in residual}) == 1


def test_anatomies_can_be_copied():
    anatomy = vertebra.anatomy("resnet18", SIZE)
    assert copy.deepcopy(anatomy).training_memory(batch_size=2) == anatomy.training_memory(batch_size=2)
