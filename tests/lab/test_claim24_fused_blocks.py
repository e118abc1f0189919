"""MACs and time of stages with MBConv and with FusedMBConv."""

import pytest

from vertebra.anatomy import devices
from vertebra.introspect.mbconv_swaps import fuse_mbconv
from vertebra.lab import fused_stages
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim24_fused_blocks as experiment
from vertebra.models.efficientnet import EfficientNet, MBConvConfig
from vertebra.models.state_dict import meta_build


def _small():
    with meta_build():
        return EfficientNet([MBConvConfig(4, 3, 1, 8, 8, 1) for _ in range(5)], 0.2, num_classes=2, last_channel=8)


@pytest.fixture(scope="module")
def counted():
    return experiment.measure(Setup(quick=True))


def _timed(counted, device, low, high):
    figures = {**counted.figures, f"{device}, first three: measured": Figure(low, "×", 9, (low, high))}
    return experiment.judge(Measured(figures, {**counted.series, "device": device}))


def test_the_counts_are_the_known_ones(counted):
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(counted.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.judge(counted).verdict is Verdict.OPEN


def test_bounds_turn_where_stages_have_many_channels(counted):
    for key in ("h100", "a100"):
        assert counted.value(f"{key}: speed, stages 1–3 over none") > counted.value(
            f"{key}: speed, all stages over none"
        )
        assert 3 <= counted.value(f"{key}: stages before fused is slower") < 7
    assert counted.value("phone: stages before fused is slower") == 0


@pytest.mark.parametrize(
    ("device", "interval", "verdict", "says"),
    [
        ("cuda", (0.6, 0.8), Verdict.HOLDS, "less time"),
        ("cuda", (1.1, 1.3), Verdict.FAILS, "more time"),
        ("cuda", (0.9, 1.3), Verdict.OPEN, "includes 1"),
        ("cpu", (0.6, 0.8), Verdict.OPEN, "are faster on this CPU"),
        ("cpu", (1.1, 1.3), Verdict.OPEN, "are slower on this CPU"),
        ("cpu", (0.9, 1.3), Verdict.OPEN, "neither"),
    ],
)
def test_a_gpu_decides(counted, device, interval, verdict, says):
    judgement = _timed(counted, device, *interval)
    assert judgement.verdict is verdict and says in judgement.reason


def test_with_the_networks_swapped_fused_has_fewer_macs_and_it_does_not_hold(monkeypatch):
    monkeypatch.setattr(fused_stages, "machine_profile", lambda *_: devices()["laptop"])
    monkeypatch.setattr("gc.collect", int)  # slow in a test session
    monkeypatch.setattr(experiment, "separated", lambda name: _small())
    monkeypatch.setattr(experiment, "fused", lambda name, stages=None, kernel=None: fuse_mbconv(_small(), stages))
    monkeypatch.setattr(experiment, "SIZE", 32)
    measured = experiment.measure(Setup(), (fuse_mbconv(_small()), _small()), seconds=1e-3)
    assert "cpu, first three: measured" in measured.figures
    assert experiment.judge(measured).verdict is Verdict.FAILS
