"""Times: a device's formula, the fit of a calibration, its keeping, and measuring."""

import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import vertebra
from vertebra.anatomy import calibration_networks, devices, machine_calibration, predict
from vertebra.anatomy.kernels import ONNXRUNTIME, kernels_of
from vertebra.anatomy.roofline import Calibration, Rate, find_device
from vertebra.errors import UsageError, VertebraWarning

NETWORK = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 10))


def calibration(**changes):
    rates = {"dense conv": Rate(0.01, 0.5, 0.2, 0.1), "elementwise": Rate(0.001, 0, 0, 0.3), "concat": Rate(0, 0, 0, 1)}
    values = {
        "executor": "onnxruntime",
        "machine": {"cpu": "a cpu", "threads": 1},
        "rates": rates,
        "between": 0.002,
        "seconds": 1.0,
        "noise": 0.01,
        "others": 0.0,
    }
    return Calibration(**values | changes)


# --- devices from the file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["laptop", "h100", "a100", "rtx4090", "t4", "orin", "raspberrypi5", "phone"])
def test_every_number_of_a_device_has_a_source(key):
    device = devices()[key]
    numbers = {f"{unit}.{dtype}" for unit in ("matrix", "vector") for dtype in getattr(device, unit)}
    assert device.sources.keys() == numbers | {"bandwidth", "launch"}
    assert all(len(source) > 10 for source in device.sources.values())
    assert 1e11 < device.matrix["float32"] < 1e15
    assert 1e10 < device.bandwidth < 1e13
    assert device.vector["float32"] <= device.matrix["float32"]
    assert json.loads(json.dumps(device.to_dict()))["key"] == key


def test_a_device_takes_the_larger_of_arithmetic_and_memory():
    anatomy, device = vertebra.anatomy(NETWORK, 32), devices()["t4"]
    latency = anatomy.latency("t4")
    kernel, time = latency.kernels[0]
    assert time.arithmetic == pytest.approx(1e3 * kernel.operations / 8.1e12)
    assert time.memory == pytest.approx(1e3 * kernel.bytes / 320e9)
    assert time.ms == pytest.approx(max(time.arithmetic, time.memory) + 1e3 * device.launch)
    assert latency.is_bound
    assert latency.total_ms == pytest.approx(sum(time.ms for _, time in latency.kernels))
    assert "Lower bound of the time: " in anatomy.verdict(latency)


def test_a_depthwise_convolution_has_no_matrix_units():
    latency = vertebra.anatomy(nn.Conv2d(64, 64, 3, groups=64), 64).latency("h100")
    ((kernel, time),) = latency.kernels
    assert time.arithmetic == pytest.approx(1e3 * kernel.operations / 66.9e12)
    assert time.bound_by == time.bound == "memory"


def test_half_precision_is_faster_and_not_everywhere():
    full, half = vertebra.anatomy("resnet18", 64), vertebra.anatomy("resnet18", 64, dtype="float16")
    assert half.latency("a100").total_ms < full.latency("a100").total_ms
    with pytest.raises(UsageError, match="no figures for float16"):
        half.latency("raspberrypi5")


def test_wrong_devices_and_executors():
    anatomy = vertebra.anatomy(NETWORK, 32)
    with pytest.raises(UsageError, match="Did you mean 'h100'"):
        anatomy.latency("h10")
    with pytest.raises(UsageError, match="has no choice"):
        anatomy.latency("t4", "torch")
    with pytest.raises(UsageError, match="executor is 'tensorrt'"):
        anatomy.latency(executor="tensorrt")
    with pytest.raises(UsageError, match="executor is 'tensorrt'"):
        anatomy.measure("tensorrt")
    with pytest.raises(UsageError, match="device is None"):
        anatomy.latency(None)
    assert find_device("H100").key == "h100"


# --- a calibrated machine --------------------------------------------------------------------------------------------


def test_a_calibration_adds_its_parts():
    latency = predict(vertebra.anatomy(NETWORK, 32), calibration())
    kernel, time = latency.kernels[0]
    activations = kernel.bytes - kernel.weight_bytes
    assert time.arithmetic == pytest.approx(0.5 * kernel.operations / 1e6)
    assert time.memory == pytest.approx((0.2 * kernel.weight_bytes + 0.1 * activations) / 1e6)
    assert time.launch == pytest.approx(0.012)
    assert time.ms == pytest.approx(time.arithmetic + time.memory + time.launch)
    assert not latency.is_bound
    assert latency.to_dict()["kernels"][0]["bound_by"] == time.bound_by == "compute"
    assert latency.to_dict()["kernels"][0]["bound"] == "arithmetic", "its older name"


def test_what_was_not_measured_takes_the_nearest_rate():
    linear = predict(vertebra.anatomy(NETWORK, 32), calibration()).kernels[-1][1]
    assert linear.launch == pytest.approx(0.003), "of the elementwise operations"
    only = predict(vertebra.anatomy(NETWORK, 32), calibration(rates={"dense conv": Rate(1, 0, 0, 0)}))
    assert only.kernels[-1][1].launch == pytest.approx(1.002)


def test_peaks_and_bandwidth_for_a_plot():
    assert calibration().peaks("float32") == {"dense conv": pytest.approx(2e9)}
    assert calibration().bandwidth == pytest.approx(1e9)


def test_times_by_a_provisional_calibration_are_told_as_such():
    with pytest.warns(
        VertebraWarning, match=r"other programs took 40% .* differed by 3%\).*vertebra doctor --calibrate"
    ):
        latency = predict(vertebra.anatomy(NETWORK, 32), calibration(others=0.4, noise=0.03))
    assert latency.to_dict()["is_provisional"] is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latency = predict(vertebra.anatomy(NETWORK, 32), calibration(others=0.14, noise=0.14))
    assert latency.to_dict()["is_provisional"] is False


def test_a_calibration_is_for_float32():
    with pytest.raises(UsageError, match="calibrated for float32, not for float16"):
        predict(vertebra.anatomy(NETWORK, 32, dtype="float16"), calibration())


def test_time_of_a_stage_is_the_sum_of_its_kernels(taken):
    anatomy = taken("resnet18", 64)
    latency = predict(anatomy, calibration())
    stages = [latency.time(stage.rows) for stage in anatomy.stages]
    assert sum(time.ms for time in stages if time) == pytest.approx(latency.total_ms)
    norm = next(row for row in anatomy.rows if row.op == "batch_norm")
    assert latency.time([norm]) is None, "it is fused into its convolution"
    frame = anatomy.to_frame(latency)
    assert frame.predicted_ms.sum() == pytest.approx(latency.total_ms)
    assert np.isnan(frame.predicted_ms[norm.index])


def test_the_fit_finds_the_rates_that_made_the_times(taken):
    """Times made with known rates, 1 % off: the fit has to give the rates back."""
    kernels = kernels_of(taken("densenet121", 64).rows, ONNXRUNTIME)
    kernels = [kernel for kernel in kernels if kernel.main.kind.value in ("dense conv", "1×1 conv")]
    true, random = Rate(0.004, 0.02, 0.05, 0.0), np.random.default_rng(0)
    times = {}
    for kernel in kernels:
        activations = kernel.bytes - kernel.weight_bytes
        ms = true.launch + (true.operations * kernel.operations + true.weights * kernel.weight_bytes) / 1e6
        times[kernel.main.index] = (ms + true.activations * activations / 1e6) * random.normal(1, 0.01)
    measured = SimpleNamespace(rows=times)
    rate = machine_calibration.fit([(kernels, measured)])["1×1 conv"]
    assert rate.launch == pytest.approx(true.launch, rel=0.05)
    assert rate.operations == pytest.approx(true.operations, rel=0.05)
    assert rate.weights == pytest.approx(true.weights, rel=0.1)
    assert rate.activations == pytest.approx(0, abs=0.001)


@pytest.fixture
def cache(tmp_path, monkeypatch):
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
    first = machine_calibration.calibrated("onnxruntime", heard.append)
    assert machine_calibration.calibrated("onnxruntime", heard.append) == first
    assert made == ["onnxruntime"]
    assert len(heard) == 1
    assert [path.name for path in folder.iterdir()] == ["onnxruntime.json"], "and nothing unfinished beside it"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"format": 1}', "machine"])
def test_a_file_of_another_version_or_machine_is_replaced(cache, damage):
    made, _, folder = cache
    machine_calibration.calibrated("torch")
    path = folder / "torch.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"machine": {"cpu": "another"}}) if damage == "machine" else damage)
    machine_calibration.calibrated("torch")
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
        first = pool.submit(machine_calibration.calibrated, "torch")
        assert begun.wait(60)
        second = pool.submit(machine_calibration.calibrated, "torch", hear)
        assert first.result() == second.result()
    assert made == ["torch"] and len(heard) == 1


@pytest.mark.parametrize("unrest", ["noise", "others"])
def test_a_calibration_of_a_busy_machine_is_kept_provisionally(cache, monkeypatch, unrest):
    made, extra, _ = cache
    extra[unrest] = 0.5
    heard = []
    busy = machine_calibration.calibrated("torch", heard.append)
    assert busy.is_provisional and busy.unrest == 0.5
    assert machine_calibration.calibrated("torch", heard.append) == busy
    assert made == ["torch"], "it is not repeated at each call"
    assert [line.partition(";")[0] for line in heard] == ["Calibrating this machine for torch, once"]
    monkeypatch.setattr(machine_calibration, "RETRY", 0.0)  # hours later
    extra[unrest] = 0.6
    assert machine_calibration.calibrated("torch", heard.append) == busy, "the quieter of the two"
    extra[unrest] = 0.01
    quiet = machine_calibration.calibrated("torch", heard.append)
    assert made == ["torch"] * 3 and not quiet.is_provisional
    assert heard[-1].startswith("Calibrating this machine for torch, again;")
    assert machine_calibration.calibrated("torch") == machine_calibration.kept("torch") == quiet
    assert made == ["torch"] * 3, "a quiet one stays"


def test_a_calibration_is_made_anew_where_that_is_asked_for(cache):
    made, extra, _ = cache
    assert not machine_calibration.calibrated("torch").is_provisional
    extra["others"] = 0.5
    assert machine_calibration.calibrated_anew("torch").is_provisional
    assert machine_calibration.kept("torch").is_provisional and made == ["torch", "torch"]


def test_a_clock_that_was_set_back_makes_no_calibration_last(cache, monkeypatch):
    made, extra, _ = cache
    extra["noise"] = 0.5
    machine_calibration.calibrated("torch")
    monkeypatch.setattr(machine_calibration.time, "time", lambda: 0.0)
    machine_calibration.calibrated("torch")
    assert made == ["torch", "torch"]


def test_where_nothing_can_be_written_it_still_works(cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(machine_calibration, "cache_path", lambda executor: tmp_path / "file" / "x.json")
    assert machine_calibration.calibrated("torch").executor == "torch"


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
        network, size = calibration_networks.network(seed)
        kinds |= {row.kind.value for row in vertebra.anatomy(network, size).rows}
    assert kinds >= {"dense conv", "1×1 conv", "grouped conv", "depthwise conv", "matmul", "elementwise", "pooling"}


# --- measuring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["onnxruntime", "torch"])
def test_every_kernel_gets_a_time(taken, executor):
    anatomy = taken("mobilenet_v2", 64)
    found = anatomy.measure(executor, seconds=0.1)
    mains = {kernel.main.index for kernel in kernels_of(anatomy.rows, executor)}
    views = {row.index for row in anatomy.rows if row.kind.value == "view"}
    assert mains <= found.rows.keys() | views
    assert found.rows.keys() <= mains | views
    assert min(found.rows.values()) >= 0
    assert found.ms(anatomy.rows) == pytest.approx(sum(found.rows.values()))
    low, high = found.quartiles_ms
    assert 0 < low <= found.total_ms <= high
    assert json.loads(json.dumps(found.to_dict()))["runs"] == found.runs >= 3
    assert anatomy.to_frame(measurement=found).measured_ms.notna().sum() == len(found.rows)


def test_torch_measures_what_has_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(8, 8)

        def forward(self, x, y):
            return self.scale(x) * y

    inputs = {"x": torch.zeros(2, 8), "y": torch.zeros(2, 8, dtype=torch.int64)}
    found = vertebra.anatomy(Two(), inputs=inputs).measure("torch", 0.05)
    assert found.total_ms > 0


class Constant(nn.Module):
    """A tensor that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 3), torch.ones(1, 4, 1, 1)

    def forward(self, x):
        return self.conv(x) * self.scale


def test_constants_get_values_too():
    found = vertebra.anatomy(Constant(), 16).measure("torch", 0.02)
    assert len(found.rows) == 2


class Unsound(nn.Module):
    """Runs on shapes, and not on the values that are made up for it."""

    def forward(self, x):
        if not x.is_meta:
            raise ValueError("no such pixels.")
        return x + 1


def test_what_runs_on_shapes_alone_is_said():
    with pytest.raises(UsageError, match=r"runs on shapes, but not on random values: ValueError: no such pixels\."):
        vertebra.anatomy(Unsound(), 16).measure("torch", 0.02)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_network_as_it_is(training):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    vertebra.anatomy(network, 16).measure("torch", 0.02)
    assert network.training == training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
