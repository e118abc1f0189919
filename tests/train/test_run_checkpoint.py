"""Where a run is, in one file: everything comes back, and what cannot be used is refused."""

import dataclasses
import json
import sys

import pytest

pytest.importorskip("torch")

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from vertebra.train import TrainError
from vertebra.train import run_checkpoint as checkpoint
from vertebra.train.distributed import Distributed
from vertebra.train.run_checkpoint import TrainingState, best_file, load, read_state, save, save_best
from vertebra.train.run_folder import CHECKPOINT

FIRST, SECOND = (Distributed(rank, 1, 1, torch.device("cpu")) for rank in range(2))
REFUSED = rf"{CHECKPOINT} cannot be used \(.*\)\. Start a new run, or put the file back"
POSITION = TrainingState(7, 1.5, 4, 0.75, 0.5, 2, False, ["a", "b"], {"lr": 0.1})


def made(seed=0):
    """A network with batch norm, its optimizer after a step, and averaged weights."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    network(torch.randn(2, 3, 4, 4)).square().sum().backward()
    optimizer.step()
    return network, optimizer, {name: tensor + 1 for name, tensor in network.state_dict().items()}


def states(optimizer):
    return [value for state in optimizer.state_dict()["state"].values() for _, value in sorted(state.items())]


def test_everything_comes_back(tmp_path):
    network, optimizer, averaged = made()
    save(tmp_path, POSITION, network, optimizer, averaged, FIRST)
    other, theirs, found = *made(1)[:2], {}
    assert load(tmp_path, other, theirs, found) == POSITION == read_state(tmp_path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert torch.equal(found[name], averaged[name])
    pairs = list(zip(states(optimizer), states(theirs), strict=True))
    assert len(pairs) == 6 * 3
    assert all(torch.equal(mine, yours) for mine, yours in pairs)
    # A fused step goes over both side by side.
    moments = theirs.state[other[0].weight]["exp_avg"]
    assert moments.is_contiguous(memory_format=torch.channels_last)
    assert not moments.requires_grad
    assert theirs.state[other[0].weight]["step"].ndim == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_folder_whose_name_is_no_utf8(tmp_path):
    network, optimizer, averaged = made()
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    save(folder, POSITION, network, optimizer, averaged, FIRST)
    assert load(folder, *made(1)[:2], {}) == POSITION == read_state(folder)


def test_what_was_not_kept_is_as_it_begins(tmp_path):
    network, optimizer, averaged = made()
    save(tmp_path, TrainingState(), network, None, {}, FIRST)
    other, theirs, _ = made(1)
    theirs.state.clear()
    found = {}
    assert load(tmp_path, other, theirs, found) == TrainingState()
    assert not theirs.state
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    other[0].weight.data.zero_()
    assert found["0.weight"].any()  # a copy
    save(tmp_path, TrainingState(), network, optimizer, averaged, FIRST)
    load(tmp_path, other, theirs, None)
    assert torch.equal(other[0].weight, network[0].weight)


def test_what_is_frozen_needs_no_state(tmp_path):
    network, optimizer, _ = made()
    save(tmp_path, TrainingState(), network, optimizer, {}, FIRST)
    other, theirs, _ = made(1)
    theirs.state.clear()
    other[0].requires_grad_(False)
    load(tmp_path, other, theirs, None)
    assert set(theirs.state) == {*other[1].parameters(), *other[3].parameters()}


def test_one_process_writes(tmp_path):
    network, optimizer, averaged = made()
    save(tmp_path, POSITION, network, optimizer, averaged, SECOND)
    save_best(tmp_path, 4, network.state_dict(), SECOND)
    assert not list(tmp_path.iterdir())


def test_the_best_weights_that_a_checkpoint_names_are_kept(tmp_path):
    network, optimizer, averaged = made()
    for step in (0, 4, 9):
        save_best(tmp_path, step, network.state_dict(), FIRST)
        assert torch.equal(load_file(best_file(tmp_path, step))["3.bias"], network[3].bias)
    save(tmp_path, POSITION, network, optimizer, averaged, FIRST)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, best_file(tmp_path, 4).name}
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        assert set(file.metadata()) == {"position", "sha256"}
        assert json.loads(file.metadata()["position"]) == dataclasses.asdict(POSITION)


def test_old_weights_that_cannot_be_removed_end_nothing(tmp_path):
    network, optimizer, averaged = made()
    best_file(tmp_path, 1).mkdir()
    save(tmp_path, POSITION, network, optimizer, averaged, FIRST)
    assert read_state(tmp_path) == POSITION


def damaged(tmp_path, kind):
    network, optimizer, averaged = made()
    save(tmp_path, POSITION, network, optimizer, averaged, FIRST)
    path = tmp_path / CHECKPOINT
    tensors = load_file(path)
    position = {"position": json.dumps(dataclasses.asdict(POSITION))}
    if kind == "gone":
        path.unlink()
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "nonsense":
        path.write_bytes(b"nonsense")
    elif kind == "no position":
        save_file(tensors, path, {"other": "x"})
    elif kind == "no metadata":
        save_file(tensors, path)
    elif kind == "no JSON":
        save_file(tensors, path, {"position": "{"})
    elif kind == "another":
        save_file(tensors, path, {"position": '{"steps": 3}'})
    elif kind == "no weights":
        del tensors["network.0.weight"]
        save_file(tensors, path, position)
    elif kind == "other weights":
        save_file(tensors | {"network.0.weight": torch.zeros(9, 9)}, path, position)


@pytest.mark.parametrize("kind", ["gone", "cut off", "nonsense", "no position", "no metadata", "no JSON", "another"])
def test_a_damaged_position_is_refused(kind, tmp_path):
    damaged(tmp_path, kind)
    with pytest.raises(TrainError, match=REFUSED):
        read_state(tmp_path)


@pytest.mark.parametrize("kind", ["gone", "cut off", "no weights", "other weights"])
def test_damaged_weights_are_refused(kind, tmp_path):
    damaged(tmp_path, kind)
    network, optimizer, averaged = made(1)
    with pytest.raises(TrainError, match=REFUSED):
        load(tmp_path, network, optimizer, averaged)


@pytest.mark.parametrize("best", [True, False])
def test_a_full_disk_keeps_what_there_is(best, tmp_path, monkeypatch):
    network, optimizer, averaged = made()
    save(tmp_path, POSITION, network, optimizer, averaged, FIRST)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainError, match=r"cannot be written \(No space left on device\).*--resume"):
        if best:
            save_best(tmp_path, 9, network.state_dict(), FIRST)
        else:
            save(tmp_path, TrainingState(), network, optimizer, averaged, FIRST)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_begins_before_everything():
    begin = TrainingState()
    assert begin == TrainingState(
        step=0, seconds=0.0, best_step=0, best_score=-1.0, epochs_since_best=0, finished=False
    )
    # Whatever comes first is the best until then.
    assert (begin.best_score, -begin.best_loss) < (0.0, -1e30)


def test_the_best_weights_come_back(tmp_path):
    weights = made()[0].state_dict()
    save_best(tmp_path, 4, weights, FIRST)
    found = checkpoint.load_best(tmp_path, 4)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100, b"\x08" + bytes(7) + b"no json."])
def test_best_weights_that_are_no_file_of_tensors_are_refused(tmp_path, content):
    if content is not None:
        best_file(tmp_path, 4).write_bytes(content)
    with pytest.raises(TrainError, match=r"best-4\.safetensors cannot be used \(.*\)\. Start a new run, or put"):
        checkpoint.load_best(tmp_path, 4)
