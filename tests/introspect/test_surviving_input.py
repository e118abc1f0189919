"""What is left of a chain's input in its last sum."""

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import surviving_inputs
from vertebra.models.resnet import BasicBlock


class Adds(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


class Fresh(nn.Module):
    """Values of the variance of normal noise that have nothing to do with the input."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def forward(self, x):
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seed))


IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def test_all_of_it_is_left_where_branches_only_scale_and_a_third_where_two_add_as_much():
    scaled = nn.Conv2d(3, 3, 1, bias=False)
    scaled.weight.data.copy_(torch.eye(3).reshape(3, 3, 1, 1) * 0.5)
    (chain,) = surviving_inputs(nn.Sequential(Adds(scaled), Adds(scaled)), IMAGES)
    assert chain.share == pytest.approx(1) and [block.path for block in chain.blocks] == ["0", "1"]
    (chain,) = surviving_inputs(nn.Sequential(Adds(Fresh(0)), Adds(Fresh(1))), IMAGES)
    assert chain.share == pytest.approx(1 / 3, abs=0.02)


def test_what_all_images_share_does_not_count():
    (chain,) = surviving_inputs(nn.Sequential(Adds(Fresh(0))), IMAGES + 100)
    assert chain.share == pytest.approx(1 / 2, abs=0.02)


def test_a_projection_ends_a_chain():
    net = nn.Sequential(
        BasicBlock(3, 3), BasicBlock(3, 4, 2, nn.Conv2d(3, 4, 1, 2)), BasicBlock(4, 4), BasicBlock(4, 4)
    )
    chains = surviving_inputs(net.eval(), IMAGES)
    assert [[block.path for block in chain.blocks] for chain in chains] == [["0"], ["2", "3"]]


def test_no_blocks_and_no_images_to_compare():
    with pytest.raises(UsageError, match="no residual block"):
        surviving_inputs(nn.Conv2d(3, 3, 1), IMAGES)
    (chain,) = surviving_inputs(nn.Sequential(Adds(nn.Conv2d(3, 3, 1))), IMAGES[:1])
    assert chain.share != chain.share
