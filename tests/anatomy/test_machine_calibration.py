"""The fit of a calibration, and how it is kept."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import vertebra
from vertebra.anatomy import calibration_networks, machine_calibration, predict
from vertebra.anatomy.kernels import ONNXRUNTIME, build_kernels
from vertebra.anatomy.roofline import Calibration, Rate


def test_the_fit_finds_the_rates_that_made_the_times(taken):
    """Times made with known rates, 1 % off: the fit has to give the rates back."""
    kernels = build_kernels(taken("densenet121", 64).rows, ONNXRUNTIME)
    kernels = [kernel for kernel in kernels if kernel.main.kind.value in ("dense conv", "1×1 conv")]
    true, random = Rate(0.004, 0.02, 0.05, 0.0), np.random.default_rng(0)
    times = {}
    for kernel in kernels:
        activations = kernel.bytes - kernel.weight_bytes
        ms = true.launch + (true.operations * kernel.operations + true.weights * kernel.weight_bytes) / 1e6
        times[kernel.main.index] = (ms + true.activations * activations / 1e6) * random.normal(1, 0.01)
    measured = SimpleNamespace(rows=times)
    rate = machine_calibration.fit_rates([(kernels, measured)])["1×1 conv"]
    assert rate.launch == pytest.approx(true.launch, rel=0.05)
    assert rate.operations == pytest.approx(true.operations, rel=0.05)
    assert rate.weights == pytest.approx(true.weights, rel=0.1)
    assert rate.activations == pytest.approx(0, abs=0.001)


@pytest.fixture
def cache(tmp_path, monkeypatch, calibration):
    """An empty cache, and a calibration that is counted instead of made."""
    monkeypatch.setattr(machine_calibration, "cache_path", lambda executor: tmp_path / "deep" / f"{executor}.json")
    made = []

    def calibrate(executor):
        made.append(executor)
        return calibration(executor=executor, machine=machine_calibration.describe_machine(executor), **extra)

    extra = {}
    monkeypatch.setattr(machine_calibration, "calibrate", calibrate)
    return made, extra, tmp_path / "deep"


def test_a_calibration_is_kept(cache):
    made, _, folder = cache
    heard = []
    first = machine_calibration.load_or_calibrate("onnxruntime", heard.append)
    assert machine_calibration.load_or_calibrate("onnxruntime", heard.append) == first
    assert made == ["onnxruntime"]
    assert len(heard) == 1
    assert [path.name for path in folder.iterdir()] == ["onnxruntime.json"], "and nothing unfinished beside it"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"format": 1}', "machine"])
def test_a_file_of_another_version_or_machine_is_replaced(cache, damage):
    made, _, folder = cache
    machine_calibration.load_or_calibrate("torch")
    path = folder / "torch.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"machine": {"cpu": "another"}}) if damage == "machine" else damage)
    machine_calibration.load_or_calibrate("torch")
    assert made == ["torch", "torch"]
    assert json.loads(path.read_text()) == whole


def test_two_that_calibrate_at_once_do_it_one_after_the_other(cache, monkeypatch):
    made, _, _ = cache
    calibrate, begun, go_on, heard = machine_calibration.calibrate, threading.Event(), threading.Event(), []

    def slowly(executor):
        begun.set()
        assert go_on.wait(60)
        return calibrate(executor)

    def hear(text):
        heard.append(text)
        if text.startswith("Waiting"):
            go_on.set()

    monkeypatch.setattr(machine_calibration, "calibrate", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(machine_calibration.load_or_calibrate, "torch")
        assert begun.wait(60)
        second = pool.submit(machine_calibration.load_or_calibrate, "torch", hear)
        assert first.result() == second.result()
    assert made == ["torch"] and len(heard) == 1


@pytest.mark.parametrize("busy_share", ["noise", "others"])
def test_a_calibration_of_a_busy_machine_is_kept_provisionally(cache, monkeypatch, busy_share):
    made, extra, _ = cache
    extra[busy_share] = 0.5
    heard = []
    busy = machine_calibration.load_or_calibrate("torch", heard.append)
    assert busy.is_provisional and busy.busy_share == 0.5
    assert machine_calibration.load_or_calibrate("torch", heard.append) == busy
    assert made == ["torch"], "it is not repeated at each call"
    assert [line.partition(";")[0] for line in heard] == ["Calibrating this machine for torch, once"]
    monkeypatch.setattr(machine_calibration, "RETRY_SECONDS", 0.0)  # hours later
    extra[busy_share] = 0.6
    assert machine_calibration.load_or_calibrate("torch", heard.append) == busy, "the quieter of the two"
    extra[busy_share] = 0.01
    quiet = machine_calibration.load_or_calibrate("torch", heard.append)
    assert made == ["torch"] * 3 and not quiet.is_provisional
    assert heard[-1].startswith("Calibrating this machine for torch, again;")
    assert machine_calibration.load_or_calibrate("torch") == machine_calibration.load_calibration("torch") == quiet
    assert made == ["torch"] * 3, "a quiet one stays"


def test_a_calibration_is_made_anew_where_that_is_asked_for(cache):
    made, extra, _ = cache
    assert not machine_calibration.load_or_calibrate("torch").is_provisional
    extra["others"] = 0.5
    assert machine_calibration.recalibrate("torch").is_provisional
    assert machine_calibration.load_calibration("torch").is_provisional and made == ["torch", "torch"]


def test_a_clock_that_was_set_back_makes_no_calibration_last(cache, monkeypatch):
    made, extra, _ = cache
    extra["noise"] = 0.5
    machine_calibration.load_or_calibrate("torch")
    monkeypatch.setattr(machine_calibration.time, "time", lambda: 0.0)
    machine_calibration.load_or_calibrate("torch")
    assert made == ["torch", "torch"]


def test_where_nothing_can_be_written_it_still_works(cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(machine_calibration, "cache_path", lambda executor: tmp_path / "file" / "x.json")
    assert machine_calibration.load_or_calibrate("torch").executor == "torch"


def test_the_cache_is_where_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    assert machine_calibration.cache_path("torch") == tmp_path / "roofline-torch.json"


@pytest.mark.parametrize("executor", ["onnxruntime", "torch"])
def test_calibrating_for_real_in_little(executor, monkeypatch):
    monkeypatch.setattr(machine_calibration, "SEEDS", (8,))
    monkeypatch.setattr(machine_calibration, "SECONDS_EACH", 0.01)
    found = machine_calibration.calibrate(executor)
    assert found.rates.keys() >= {"dense conv", "1×1 conv", "matmul"}
    assert all(min(rate.launch, rate.operations, rate.weights, rate.activations) >= 0 for rate in found.rates.values())
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    latency = predict(vertebra.anatomy("mobilenet_v2"), found)
    assert latency.total_ms > 0
    assert "Predicted time: " in vertebra.anatomy("mobilenet_v2").verdict(latency)


def test_the_networks_of_the_calibration_hold_every_kind():
    """Five sorts of convolutions and products, and the element-wise work between them, are all measured."""
    kinds = set()
    for seed in machine_calibration.SEEDS:
        network, size = calibration_networks.random_network(seed)
        kinds |= {row.kind.value for row in vertebra.anatomy(network, size).rows}
    assert kinds >= {"dense conv", "1×1 conv", "grouped conv", "depthwise conv", "matmul", "elementwise", "pooling"}
