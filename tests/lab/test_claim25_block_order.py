"""The order of MBConv and FusedMBConv in EfficientNetV2."""

from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim25_block_order as experiment
from vertebra.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from vertebra.models.state_dict import meta_build

FUSED, SEPARATED = FusedMBConvConfig(4, 3, 1, 8, 8, 2), MBConvConfig(4, 3, 1, 8, 8, 3)


def _verdict(*settings):
    with meta_build():
        networks = {f"network {i}": EfficientNet(setting, 0.2) for i, setting in enumerate(settings)}
    return experiment.judge(experiment.measure(Setup(), networks)).verdict


def test_v2_has_both_kinds_and_fused_comes_first():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert experiment.judge(measured).verdict is Verdict.FAILS


def test_the_other_way_round_the_order_would_be_as_claimed():
    assert _verdict([SEPARATED, FUSED]) is Verdict.IN_PART


def test_with_one_kind_in_each_network_nothing_contradicts_the_claim():
    assert _verdict([SEPARATED], [FUSED]) is Verdict.HOLDS


def test_one_network_with_fused_blocks_first_is_enough():
    assert _verdict([SEPARATED, FUSED], [FUSED, SEPARATED, FUSED]) is Verdict.FAILS
