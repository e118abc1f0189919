"""Predicted times: bounds of devices, and sums of what a calibrated machine takes."""

import json
import warnings

import numpy as np
import pytest
from torch import nn

import vertebra
from vertebra.anatomy import devices, predict
from vertebra.anatomy.roofline import Rate, find_device
from vertebra.errors import UsageError, VertebraWarning

NETWORK = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 10))


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
    with pytest.raises(UsageError, match="is for this machine, not for t4"):
        anatomy.latency("t4", "torch")
    with pytest.raises(UsageError, match="executor is 'tensorrt'"):
        anatomy.latency(executor="tensorrt")
    with pytest.raises(UsageError, match="executor is 'tensorrt'"):
        anatomy.measure("tensorrt")
    with pytest.raises(UsageError, match="device is None"):
        anatomy.latency(None)
    assert find_device("H100").key == "h100"


def test_a_calibration_adds_its_parts(calibration):
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


def test_what_was_not_measured_takes_the_nearest_rate(calibration):
    linear = predict(vertebra.anatomy(NETWORK, 32), calibration()).kernels[-1][1]
    assert linear.launch == pytest.approx(0.003), "of the elementwise operations"
    only = predict(vertebra.anatomy(NETWORK, 32), calibration(rates={"dense conv": Rate(1, 0, 0, 0)}))
    assert only.kernels[-1][1].launch == pytest.approx(1.002)


def test_peaks_and_bandwidth_for_a_plot(calibration):
    assert calibration().peaks("float32") == {"dense conv": pytest.approx(2e9)}
    assert calibration().bandwidth == pytest.approx(1e9)


def test_times_by_a_provisional_calibration_are_told_as_such(calibration):
    with pytest.warns(
        VertebraWarning, match=r"other programs took 40% .* differed by 3%\).*vertebra doctor --calibrate"
    ):
        latency = predict(vertebra.anatomy(NETWORK, 32), calibration(others=0.4, noise=0.03))
    assert latency.to_dict()["is_provisional"] is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latency = predict(vertebra.anatomy(NETWORK, 32), calibration(others=0.14, noise=0.14))
    assert latency.to_dict()["is_provisional"] is False


def test_a_calibration_is_for_float32(calibration):
    with pytest.raises(UsageError, match="calibrated for float32, not for float16"):
        predict(vertebra.anatomy(NETWORK, 32, dtype="float16"), calibration())


def test_time_of_a_stage_is_the_sum_of_its_kernels(taken, calibration):
    anatomy = taken("resnet18", 64)
    latency = predict(anatomy, calibration())
    stages = [latency.time(stage.rows) for stage in anatomy.stages]
    assert sum(time.ms for time in stages if time) == pytest.approx(latency.total_ms)
    norm = next(row for row in anatomy.rows if row.op == "batch_norm")
    assert latency.time([norm]) is None, "it is fused into its convolution"
    frame = anatomy.to_frame(latency)
    assert frame.predicted_ms.sum() == pytest.approx(latency.total_ms)
    assert np.isnan(frame.predicted_ms[norm.index])
