"""On which devices MBConv is faster than FusedMBConv."""

import math
from dataclasses import replace

import pytest

from vertebra.anatomy import devices
from vertebra.introspect.mbconv_swaps import fuse_mbconv
from vertebra.lab import fused_stages
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim38_phone_or_gpu as experiment
from vertebra.models.efficientnet import EfficientNet, MBConvConfig
from vertebra.models.state_dict import meta_build

QUICK = Setup(quick=True)


def _small():
    with meta_build():
        return EfficientNet([MBConvConfig(4, 3, 1, 24, 24, 1) for _ in range(3)], 0.2, num_classes=2, last_channel=8)


@pytest.fixture(scope="module")
def pair():
    return _small(), fuse_mbconv(_small())


@pytest.fixture(scope="module")
def predicted(pair):
    return experiment.measure(QUICK, pair)


def _with(predicted, **ratios):
    timed = {
        f"{device}, first three: measured": Figure(low, "×", 9, (low, high)) for device, (low, high) in ratios.items()
    }
    return Measured({**predicted.figures, **timed}, {**predicted.series, "measured": list(ratios)})


def test_predictions_alone_decide_nothing(predicted):
    assert predicted.figures["rank correlation, first three"].interval[1] < 0
    assert experiment.judge(predicted).verdict is Verdict.OPEN


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ({"cpu": (1.2, 1.5), "cuda": (0.5, 0.9)}, Verdict.HOLDS),
        ({"cpu": (1.2, 1.5)}, Verdict.IN_PART),
        ({"cpu": (0.9, 1.5)}, Verdict.IN_PART),
        ({"cpu": (1.2, 1.5), "cuda": (0.9, 1.1)}, Verdict.IN_PART),
        ({"cpu": (0.7, 0.8), "cuda": (1.2, 1.3)}, Verdict.IN_PART),
    ],
)
def test_the_machine_decides_where_the_trend_is_there(predicted, ratios, verdict):
    assert experiment.judge(_with(predicted, **ratios)).verdict is verdict


def test_where_memory_is_free_there_is_no_trend(pair):
    free = {key: replace(device, bandwidth=math.inf) for key, device in devices().items()}
    predicted = experiment.measure(QUICK, pair, free)
    assert predicted.figures["rank correlation, first three"].interval == (-1, 1)
    assert experiment.judge(_with(predicted, cpu=(0.7, 0.8))).verdict is Verdict.FAILS
    assert experiment.judge(_with(predicted, cpu=(0.9, 1.3))).verdict is Verdict.OPEN
    assert experiment.judge(_with(predicted, cpu=(1.2, 1.3))).verdict is Verdict.IN_PART


def test_with_the_networks_swapped_the_trend_turns(pair):
    swapped = experiment.measure(QUICK, pair[::-1])
    assert swapped.value("rank correlation, first three") > 0
    assert experiment.judge(_with(swapped, cpu=(0.7, 0.8))).verdict is Verdict.FAILS


def test_a_run_times_what_it_predicts(pair, monkeypatch):
    monkeypatch.setattr(fused_stages, "machine_profile", lambda *_: devices()["laptop"])
    monkeypatch.setattr("gc.collect", int)  # slow in a test session
    monkeypatch.setattr(experiment, "SIZE", 16)
    measured = experiment.measure(Setup(), pair, seconds=1e-3)
    assert measured.series["measured"] == ["cpu"] and "cpu, stage3: measured" in measured.figures
    assert experiment.judge(measured).decided_by == ("rank correlation, first three", "cpu, first three: measured")
