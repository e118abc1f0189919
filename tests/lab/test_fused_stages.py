"""One EfficientNet with MBConv in all stages, and with FusedMBConv."""

import torch

from vertebra.anatomy import devices
from vertebra.introspect.mbconv_swaps import fuse_mbconv
from vertebra.lab import fused_stages
from vertebra.models.efficientnet import EfficientNet, MBConvConfig
from vertebra.models.mbconv import FusedMBConv, MBConv
from vertebra.models.state_dict import meta_build


def _small():
    with meta_build():
        return EfficientNet([MBConvConfig(2, 3, 1, 8, 8, 1) for _ in range(3)], 0.2, num_classes=2, last_channel=8)


def test_all_stages_are_of_one_kind():
    for build, kind in ((fused_stages.separated, MBConv), (fused_stages.fused, FusedMBConv)):
        network = build("efficientnet_v2_s")
        found = {type(module) for module in network.modules() if isinstance(module, MBConv | FusedMBConv)}
        assert found == {kind} and all(p.is_meta for p in network.parameters())


def test_ratios_of_a_network_with_itself_are_one():
    pair = fused_stages.StagePair.of(_small(), _small(), 32, 1)
    assert set(pair.predicted(devices()["h100"]).values()) == {1.0}
    assert set(pair.macs_ratio().values()) == {1.0} and len(pair.macs_ratio()) == 3


def test_every_stage_is_timed_and_predicted_with_its_own_input(monkeypatch):
    monkeypatch.setattr(fused_stages, "machine_profile", lambda *_: devices()["laptop"])
    monkeypatch.setattr("gc.collect", int)  # slow in a test session
    state = torch.random.get_rng_state()
    found = fused_stages.ratio_figures(_small(), fuse_mbconv(_small()), 16, "cpu", seconds=1e-3)
    assert list(found) == [
        f"cpu, {stage}: {what}"
        for what in ("measured", "predicted")
        for stage in ("stage1", "stage2", "stage3", "first three")
    ]
    assert all(figure.value > 0 for figure in found.values())
    assert found["cpu, stage1: measured"].n >= 6 and found["cpu, stage1: measured"].interval
    assert torch.equal(state, torch.random.get_rng_state())


def test_weights_of_a_stage_are_finite_and_the_same_each_time():
    first, again = (fused_stages._with_weights(_small(), ["stage2"], "cpu") for _ in range(2))
    for (name, tensor), other in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.isfinite(tensor).all() and torch.equal(tensor, other), name
