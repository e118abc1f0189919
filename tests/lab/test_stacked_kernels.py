"""Stacks of 3×3 convolutions."""

from torch import nn

from vertebra.anatomy import inspect
from vertebra.lab.stacked_kernels import poolings_without_growth, stack_figures, stacks


def _conv(inside, out, **options):
    return nn.Conv2d(inside, out, 3, padding=1, **options)


def test_a_stack_ends_at_a_pooling_a_stride_or_groups():
    network = nn.Sequential(
        _conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), _conv(4, 4), nn.ReLU(), _conv(4, 8), nn.MaxPool2d(2),
        _conv(8, 8), _conv(8, 8, stride=2), _conv(8, 8, groups=2), _conv(8, 8, dilation=2), _conv(8, 8), _conv(8, 6),
    )  # fmt: skip
    first, second = stacks(inspect(network, 16).rows)
    assert (len(first.rows), first.field, first.weights) == (3, 7, 9 * (12 + 16 + 32))
    assert first.weights_of_one_kernel == 49 * 3 * 8
    assert (len(second.rows), second.field, second.weights_of_one_kernel) == (2, 5, 25 * 8 * 6)


def test_a_map_that_two_convolutions_read_ends_a_stack():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = _conv(3, 4), _conv(4, 4), _conv(4, 4)

        def forward(self, x):
            x = self.a(x)
            return self.b(x) + self.c(x)

    assert stacks(inspect(Fork(), 8).rows) == []


def test_a_network_without_convolutions_has_none():
    rows = inspect(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), 8).rows
    assert all(figure.value == 0 for figure in stack_figures(rows).values())
    assert poolings_without_growth(rows) == 0


def test_poolings_behind_which_channels_stay():
    network = nn.Sequential(_conv(3, 4), nn.MaxPool2d(2), _conv(4, 4), nn.MaxPool2d(2), _conv(4, 8), nn.MaxPool2d(2))
    assert poolings_without_growth(inspect(network, 16).rows) == 1
