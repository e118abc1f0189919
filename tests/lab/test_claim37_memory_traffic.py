"""What fusing costs and saves, and what limits MBConv."""

import math
from dataclasses import replace

import pytest

from vertebra.anatomy import devices
from vertebra.introspect.mbconv_swaps import fuse_mbconv
from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim37_memory_traffic as experiment
from vertebra.models.efficientnet import EfficientNet, MBConvConfig
from vertebra.models.state_dict import meta_build


def _small():
    with meta_build():
        return EfficientNet([MBConvConfig(4, 3, 1, 24, 24, 1) for _ in range(3)], 0.2, num_classes=2, last_channel=8)


@pytest.fixture(scope="module")
def pair():
    return _small(), fuse_mbconv(_small())


def _verdict(networks, bandwidth):
    known = {key: replace(device, bandwidth=bandwidth * device.bandwidth) for key, device in devices().items()}
    return experiment.judge(experiment.measure(Setup(), networks, known)).verdict


def test_the_counts_are_the_known_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


@pytest.mark.parametrize(
    ("bandwidth", "verdict"), [(1e-3, Verdict.HOLDS), (1, Verdict.IN_PART), (math.inf, Verdict.IN_PART)]
)
def test_what_limits_the_time_depends_on_the_devices(pair, bandwidth, verdict):
    assert _verdict(pair, bandwidth) is verdict


def test_where_memory_is_free_no_device_is_bound_by_it(pair):
    free = {key: replace(device, bandwidth=math.inf) for key, device in devices().items()}
    reason = experiment.judge(experiment.measure(Setup(), pair, free)).reason
    assert "on no device" in reason


@pytest.mark.parametrize("change", [{"parameters": 0.9}, {"activation bytes": 1.1}])
def test_each_part_is_needed(pair, change):
    measured = experiment.measure(Setup(), pair)
    ratios = {stage: found | change for stage, found in measured.series["ratios"].items()}
    assert experiment.judge(measured).verdict is Verdict.IN_PART
    changed = Measured(measured.figures, {**measured.series, "ratios": ratios})
    assert experiment.judge(changed).verdict is Verdict.FAILS


def test_with_the_networks_swapped_it_does_not_hold(pair):
    assert _verdict(pair[::-1], 1e-3) is Verdict.FAILS
