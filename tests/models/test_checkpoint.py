"""Reading weight files and fitting them to networks, against files that are sound, damaged, foreign and hostile."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vertebra.errors import WeightsError
from vertebra.models._checkpoint import load_state_dict, meta_build, read_state_dict


class Small(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, classes)
        nn.init.kaiming_normal_(self.body[0].weight, mode="fan_out")
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        nn.init.ones_(self.body[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x).mean((2, 3))
        out: Tensor = self.head(features)
        return out


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name], value), name


def on_meta(classes: int = 4) -> Small:
    with meta_build():
        return Small(classes)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return Small().state_dict()


@pytest.fixture
def saved(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    torch.save(weights, path)
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_tensors(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "zip.pth")
    torch.save(weights, tmp_path / "zip.pt")
    torch.save(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "zip.pt", "legacy.pth"):
        assert_same(read_state_dict(tmp_path / name), dict(weights))
        assert_same(read_state_dict(str(tmp_path / name)), dict(weights))
    save_file(dict(weights), tmp_path / "safe.safetensors")
    read = read_state_dict(tmp_path / "safe.safetensors")
    assert_same(dict(sorted(read.items())), dict(sorted(weights.items())))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_training_checkpoints_are_unwrapped(weights: dict[str, Tensor], tmp_path: Path, key: str, prefix: str) -> None:
    named: dict[str, Any] = {prefix + name: value for name, value in weights.items()}
    if key == "model_ema":
        named |= {"n_averaged": torch.tensor(7)} if prefix else {}
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, key: named}, tmp_path / "run.pth")
    assert_same(read_state_dict(tmp_path / "run.pth"), dict(weights))


def test_the_averaged_weights_come_before_the_others(weights: dict[str, Tensor], tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in weights.items()}
    torch.save({"model": other, "model_ema": weights}, tmp_path / "run.pth")
    assert_same(read_state_dict(tmp_path / "run.pth"), dict(weights))


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "mixed.pth")
    assert list(read_state_dict(tmp_path / "mixed.pth")) == ["module.a", "b"]


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    torch.save({"a": nn.Parameter(torch.ones(2))}, tmp_path / "parameters.pth")
    value = read_state_dict(tmp_path / "parameters.pth")["a"]
    assert type(value) is Tensor
    assert not value.requires_grad


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["VERTEBRA_TEST_EVIL"],))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    proof = tmp_path / "was-run"
    monkeypatch.setenv("VERTEBRA_TEST_EVIL", str(proof))
    path = tmp_path / "evil.pth"
    torch.save({"a": torch.ones(1), "b": Evil()}, path, _use_new_zipfile_serialization=zipped)
    # Not even where the user has switched torch's own protection off.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(WeightsError, match=r"evil\.pth' was not opened.*wants to run '(posix|nt)\.mkdir'") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_a_bare_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEBRA_TEST_EVIL", str(tmp_path / "was-run"))
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(WeightsError, match=r"'(posix|nt)\.mkdir'"):
        read_state_dict(path)
    assert not (tmp_path / "was-run").exists()


def test_a_whole_pickled_network_is_refused_with_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "network.pth")
    with pytest.raises(WeightsError, match=r"wants to run 'torch\.nn\.modules\.linear\.Linear'.*state_dict"):
        read_state_dict(tmp_path / "network.pth")


def test_truncated_files_at_every_kind_of_place(weights: dict[str, Tensor], tmp_path: Path) -> None:
    sound = {"zip.pth": tmp_path / "zip.pth", "old.pth": tmp_path / "old.pth", "a.safetensors": tmp_path / "s"}
    torch.save(weights, sound["zip.pth"])
    torch.save(weights, sound["old.pth"], _use_new_zipfile_serialization=False)
    save_file(dict(weights), sound["a.safetensors"])
    for name, path in sound.items():
        whole = path.read_bytes()
        for size in (9, 70, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
            cut = tmp_path / name
            cut.write_bytes(whole[:size])
            with pytest.raises(WeightsError, match=r"damaged or cut short|neither a torch"):
                read_state_dict(cut)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", r"is empty"),
        ("page.pth", b"\n<!DOCTYPE html><html><body>404</body></html>", r"is a web page, not weights"),
        ("page.safetensors", b"<html>", r"is a web page"),
        ("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"git lfs pull"),
        ("noise.pth", b"GIF89a" + bytes(range(200)), r"neither a torch checkpoint nor.*b'GIF89a"),
        ("noise.safetensors", b"\xff" * 100, r"neither a torch checkpoint nor"),
        ("pickle.pth", pickle.dumps({"a": 1}, protocol=2), r"damaged or cut short"),
        ("broken.pth", b"PK\x03\x04" + b"\0" * 100, r"damaged or cut short"),
        ("broken.safetensors", (2**40).to_bytes(8, "little") + b"{" + b" " * 90, r"neither a torch checkpoint nor"),
        ("json.safetensors", (20).to_bytes(8, "little") + b"{" + b" " * 90, r"damaged or cut short"),
        ("photo.jpg", b"\xff\xd8\xff", r"ends in '\.jpg'; weight files end in one of \.pth, \.pt, \.safetensors"),
    ],
)
def test_what_is_no_weight_file_gets_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_state_dict(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_wrong_ending_is_named_in_both_directions(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"is a torch checkpoint with the wrong ending. Rename it to 'a\.pth'"):
        read_state_dict(tmp_path / "a.safetensors")
    save_file(dict(weights), tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"is a safetensors file with the wrong ending.*'b\.safetensors'"):
        read_state_dict(tmp_path / "b.pth")


def test_a_missing_path_names_the_nearest_and_a_folder_its_files(saved: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weight file .*smal\.pth'\. Did you mean 'small\.pth'"):
        read_state_dict(saved.parent / "smal.pth")
    with pytest.raises(WeightsError, match=r"no weight file 'nowhere/x\.pth'\. Looked from "):
        read_state_dict("nowhere/x.pth")
    with pytest.raises(WeightsError, match=r"is a folder, not a weight file.*small\.pth"):
        read_state_dict(saved.parent)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match=r"is a pipe or device"):
        read_state_dict(tmp_path / "pipe.pth")


def test_an_unreadable_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:  # the superuser, as whom tests may run, could read any file
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(WeightsError, match=r"small\.pth' cannot be read: Permission denied"):
        read_state_dict(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), r"holds one object of type Tensor, not named tensors"),
        ([torch.ones(2)], r"type list, not named tensors"),
        ({}, r"holds no tensors"),
        ({"epoch": 3}, r"not a dict of tensors: its entry 'epoch' is of type int"),
        ({"a": torch.ones(2), "epoch": 3}, r"entry 'epoch' is of type int"),
        ({3: torch.ones(2)}, r"its entry 3 is of type Tensor"),
        ({"a": torch.ones(2).to_sparse()}, r"entry 'a' is sparse"),
        ({"a": torch.ones(2, device="meta")}, r"entry 'a' has no values"),
    ],
)
def test_sound_files_that_are_no_dict_of_tensors(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "other.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:", "ignore:.*TorchScript:UserWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(WeightsError, match=r"is a TorchScript program"):
        read_state_dict(tmp_path / "script.pt")


# --- mapping ---------------------------------------------------------------------------------------------------------


def train_a_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("form", ["zip.pth", "unusual.pth", "older.pth", "safe.safetensors"])
@pytest.mark.parametrize("shared_by_default", [False, True])
def test_training_on_mapped_weights_never_writes_to_the_file(
    weights: dict[str, Tensor], tmp_path: Path, form: str, shared_by_default: bool
) -> None:
    path = tmp_path / form
    if form == "unusual.pth":  # torch's own reader has to read what is beside the weights
        torch.save({"model": weights, "shape": torch.Size([1])}, path)
    elif path.suffix == ".pth":
        torch.save(weights, path, _use_new_zipfile_serialization=form != "older.pth")
    else:
        save_file(dict(weights), path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    flags = 1 if shared_by_default else 2  # MAP_SHARED, MAP_PRIVATE
    with torch.serialization.set_default_mmap_options(flags):
        first, second = on_meta(), on_meta()
        load_state_dict(first, read_state_dict(path), str(path))
        load_state_dict(second, read_state_dict(path), str(path))
    train_a_step(first)
    with torch.no_grad():
        for value in first.state_dict().values():
            value.fill_(9)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert_same(copies(second), {name: weights[name] for name in second.state_dict()})


def test_the_file_is_mapped_not_read(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see mappings")
    torch.save({"a": torch.ones(1 << 20)}, tmp_path / "big.pth")
    state = read_state_dict(tmp_path / "big.pth")
    line = next(line for line in maps.read_text().splitlines() if line.endswith("big.pth"))
    assert line.split()[1] == "rw-p"
    start, stop = (int(part, 16) for part in line.split()[0].split("-"))
    assert start < state["a"].data_ptr() < stop


def test_mapped_weights_outlive_a_replaced_file(saved: Path, weights: dict[str, Tensor]) -> None:
    model = on_meta()
    load_state_dict(model, read_state_dict(saved), str(saved))
    other = saved.with_suffix(".new")
    torch.save({name: value + 1 for name, value in weights.items()}, other)
    other.replace(saved)
    assert_same(copies(model), dict(weights))


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
        "import sys; from vertebra.models._checkpoint import load_state_dict, meta_build, read_state_dict\n"
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
