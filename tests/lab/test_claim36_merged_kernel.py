"""Whether 1×1 and depthwise convolution merge into one dense 3×3."""

from functools import partial

import torch
from torch import nn

from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim36_merged_kernel as experiment
from vertebra.models.mbconv import MBConv

SETUP = Setup(seeds=1)


class _Bent(nn.Conv2d):
    """A depthwise layer that is not linear."""

    def forward(self, x):
        return super().forward(x).abs()


def _verdict(**options):
    return experiment.judge(experiment.measure(SETUP, partial(MBConv, se_layer=None, **options))).verdict


def test_they_merge_only_with_nothing_between():
    measured = experiment.measure(SETUP)
    assert measured.value("error with nothing between") < 1e-12
    for name in ("weights of 1×1 and depthwise", "weights of the dense 3×3", "rank of a merged slice"):
        assert measured.value(name) == experiment.CLAIM.expected[name].value
    assert measured.value("unexplained, nothing between") < 1e-20 > measured.value("unexplained, norm between")
    assert measured.value("unexplained, norm and activation between") > 1
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def test_without_the_activation_the_claim_would_hold():
    assert _verdict(activation_layer=lambda inplace: nn.Identity()) is Verdict.HOLDS


def test_a_layer_that_is_not_linear_cannot_be_merged_at_all():
    assert _verdict(conv_layer=_Bent) is Verdict.FAILS


def test_the_merged_kernel_is_what_the_fit_finds():
    """On an identity in place of images, a convolution's output is its kernel."""
    merged = torch.randn(4, 1, 3, 3, dtype=torch.float64) * torch.randn(4, 2, 1, 1, dtype=torch.float64)
    images = torch.randn(2, 6, 2, 8, 8, dtype=torch.float64)
    outputs = [nn.functional.conv2d(half, merged) for half in images]
    assert experiment._unexplained(images, outputs) < 1e-20
    assert experiment._unexplained(images, [output.relu() for output in outputs]) > 1
