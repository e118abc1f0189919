"""Fitting named tensors to networks, and building networks without values for them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from small_module import Small, assert_same, copies, on_meta
from torch import Tensor, nn

from vertebra.errors import WeightsError
from vertebra.models.state_dict import _overlapping, load_state_dict, meta_build
from vertebra.models.weight_reader import read_state_dict


def train_a_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()


# --- fitting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [True, False])
def test_loads_onto_meta_and_real_networks(weights: dict[str, Tensor], meta: bool) -> None:
    model = on_meta() if meta else Small()
    kept = None if meta else model.head.weight
    model.head.weight.requires_grad_(False)
    load_state_dict(model, weights, "weights")
    assert_same(dict(model.state_dict()), dict(weights))
    assert not any(value.is_meta for value in model.state_dict().values())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in model.parameters())
    assert kept is None or model.head.weight is kept  # an optimizer may hold it
    train_a_step(model)


def test_a_real_network_does_not_share_memory_with_the_tensors(weights: dict[str, Tensor]) -> None:
    model = Small()
    load_state_dict(model, weights, "weights")
    weights["head.bias"].fill_(5)
    assert not model.head.bias.eq(5).any()


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float64, torch.bfloat16])
def test_float16_weights_are_cast_to_the_networks_type(
    weights: dict[str, Tensor], meta: bool, wanted: torch.dtype
) -> None:
    half = {name: v.half() if v.is_floating_point() else v for name, v in weights.items()}
    model = (on_meta() if meta else Small()).to(wanted)
    load_state_dict(model, half, "half")
    for name, value in model.state_dict().items():
        assert value.dtype == (wanted if half[name].is_floating_point() else torch.int64)
        assert torch.equal(value, half[name].to(value.dtype))


@pytest.mark.parametrize("meta", [True, False])
def test_missing_batch_counts_start_at_zero(weights: dict[str, Tensor], meta: bool) -> None:
    old = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(old) == len(weights) - 1
    model = on_meta() if meta else Small()
    if not meta:
        model.body[1].num_batches_tracked.fill_(8)
    load_state_dict(model, old, "old")
    count = model.body[1].num_batches_tracked
    assert count.dtype == torch.int64
    assert count.item() == 0
    train_a_step(model)
    assert model.body[1].num_batches_tracked.item() == 1


def test_a_batch_count_of_shape_one_loads(weights: dict[str, Tensor]) -> None:
    weights["body.1.num_batches_tracked"] = torch.tensor([6])
    model = on_meta()
    load_state_dict(model, weights, "old")
    assert model.body[1].num_batches_tracked.shape == ()
    assert model.body[1].num_batches_tracked.item() == 6


@pytest.mark.parametrize("meta", [True, False])
def test_what_differs_is_listed_and_nothing_is_changed(weights: dict[str, Tensor], meta: bool) -> None:
    del weights["body.0.bias"]
    weights["tail.weight"] = torch.ones(1)
    weights["body.1.running_mean"] = torch.ones(8, dtype=torch.int8)
    model = on_meta(classes=7) if meta else Small(classes=7)
    before = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    values = {} if meta else copies(model)
    with pytest.raises(WeightsError) as caught:
        load_state_dict(model, weights, "cache/small.pth")
    message = str(caught.value)
    assert "'cache/small.pth' do not fit Small" in message
    assert "1 missing in the file: body.0.bias;" in message
    assert "1 unknown to the network: tail.weight;" in message
    assert "head.weight (float32 (4, 8) in the file, float32 (7, 8) in the network)" in message
    assert "body.1.running_mean (int8 (8,) in the file, float32 (8,) in the network)" in message
    assert "\n" not in message
    assert {name: id(value) for name, value in model.state_dict(keep_vars=True).items()} == before
    if meta:
        assert all(value.is_meta for value in model.state_dict().values())
    else:
        assert_same(copies(model), values)


def test_long_lists_are_cut_with_a_count() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    with pytest.raises(
        WeightsError, match=r"12 missing in the file: 0\.weight, 0\.bias, 1\.weight, 1\.bias, 2\.weight and 7 more;"
    ):
        load_state_dict(model, {"other": torch.ones(1)}, "w")


def test_tensors_that_share_memory_in_the_file_do_not_in_the_network(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    flat = torch.arange(32.0)
    weights["head.weight"] = flat.view(4, 8)
    weights["body.1.weight"], weights["body.1.bias"] = flat[2:10], flat[16:24]
    weights["body.1.running_mean"] = torch.tensor(3.0).expand(8)
    weights["body.1.running_var"] = flat[24:]
    torch.save(weights, tmp_path / "shared.pth")
    model = on_meta()
    load_state_dict(model, read_state_dict(tmp_path / "shared.pth"), "shared")
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in model.state_dict().values())
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    assert all(t.is_contiguous() for t in model.state_dict().values())
    assert_same(dict(model.state_dict()), dict(weights))


def test_values_that_no_file_keeps_are_an_error_on_meta() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("grid", torch.ones(3), persistent=False)

    load_state_dict(Odd(), {}, "w")
    with meta_build():
        odd = Odd()
    with pytest.raises(WeightsError, match=r"Odd\.grid is not kept in weight files"):
        load_state_dict(odd, {}, "w")


def test_the_default_device_is_where_weights_go(weights: dict[str, Tensor]) -> None:
    model = on_meta()
    with torch.device("meta"):  # the only second device that every machine has
        load_state_dict(model, weights, "w")
    assert all(value.is_meta for value in model.state_dict().values())


# --- building --------------------------------------------------------------------------------------------------------


def test_meta_build_builds_the_same_network_without_drawing(weights: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model = on_meta()
    assert torch.equal(torch.rand(1), expected)
    assert {n: (v.shape, v.dtype) for n, v in model.state_dict().items()} == {
        n: (v.shape, v.dtype) for n, v in weights.items()
    }
    assert all(value.is_meta for value in model.state_dict().values())
    assert not torch.ones(1).is_meta


def test_meta_build_still_fills_real_tensors() -> None:
    real = torch.empty(3)
    with meta_build():
        nn.init.constant_(real, 2)
        assert torch.equal(real, torch.full((3,), 2.0, device="cpu"))
        nn.init.zeros_(real)
        assert not torch.zeros(1, device="cpu").is_meta
    assert real.eq(0).all()


def test_meta_build_ends_with_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), meta_build():
        _ = 1 / 0
    assert not Small().head.weight.is_meta


def test_meta_build_leaves_other_threads_alone(weights: dict[str, Tensor]) -> None:
    inside, built = threading.Event(), threading.Event()
    result: list[dict[str, Tensor]] = []

    def build_normally() -> None:
        inside.wait(10)
        torch.manual_seed(3)
        result.append(dict(Small().state_dict()))
        built.set()

    thread = threading.Thread(target=build_normally)
    thread.start()
    with meta_build():
        inside.set()
        assert built.wait(10)
        model = Small()
    thread.join()
    assert model.head.weight.is_meta
    assert_same(result[0], dict(weights))


def test_a_network_can_be_built_and_loaded_in_a_fresh_process(saved: Path) -> None:
    """No import of ours may be needed first, and nothing may be printed."""
    code = (
        "import sys; from vertebra.models.weight_reader import read_state_dict\n"
        "from vertebra.models.state_dict import load_state_dict, meta_build\n"
        "from torch import nn\n"
        "with meta_build(): m = nn.Linear(8, 4)\n"
        "sd = read_state_dict(sys.argv[1])\n"
        "load_state_dict(m, {k[5:]: v for k, v in sd.items() if k.startswith('head.')}, 'w')\n"
        "print(m.bias.sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(saved)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.0\n", "")


@pytest.mark.parametrize("missing", [True, False])
def test_one_tensor_too_few_or_too_many_is_refused(weights: dict[str, Tensor], missing: bool) -> None:
    state = dict(weights)
    if missing:
        del state["head.bias"]
    else:
        state["tail.bias"] = torch.zeros(4)
    with pytest.raises(WeightsError, match=r"1 (missing in the file: head|unknown to the network: tail)\.bias\."):
        load_state_dict(Small(), state, "x.pth")


def test_which_tensors_share_memory() -> None:
    rows = torch.zeros(4, 3)
    assert _overlapping([rows[0], rows[1], rows[3], torch.zeros(3)]) == set()
    first, second, third = rows[:2], rows[1], rows[2:]
    assert _overlapping([first, second, third]) == {id(second)}
    columns = [rows[:, 0], rows[:, 1]]
    assert _overlapping(columns) == {id(columns[1])}
    assert _overlapping([rows[:0], rows[:0], rows]) == set()
