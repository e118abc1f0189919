"""1×1 convolutions beside torch's, in float64."""

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels.batch_norm import channel_statistics
from vertebra.cpu_kernels.conv1x1 import Conv1x1, Conv1x1WithStatistics, can_replace, is_worthwhile


def conv1x1(channels=32, out_channels=48, **options):
    return nn.Conv2d(channels, out_channels, 1, **{"bias": False} | options)


@pytest.fixture
def assert_equal(assert_convolves):
    def compare(conv, x):
        assert is_worthwhile(x, conv)
        assert_convolves(Conv1x1(conv), conv, x, 2e-6)

    return compare


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 20, 20), (3, 13, 18), (9, 7, 7), (1, 97, 33), (400, 1, 1)])
@pytest.mark.parametrize(
    ("channels", "layout"),
    [
        ((32, 32), torch.channels_last),
        ((24, 144), torch.contiguous_format),
        ((144, 40), torch.channels_last),
        ((29, 31), torch.channels_last),
    ],
    ids=str,
)
def test_results_are_torchs(assert_equal, channels, size, layout, stride):
    """The sizes are those of the output; inputs for stride 2 have an even or an odd number of rows and columns."""
    torch.manual_seed(0)
    images, height, width = size
    conv = conv1x1(*channels, stride=stride).to(memory_format=layout)
    x = torch.randn(images, channels[0], stride * height, stride * width - width % 2 * (stride - 1))
    x = x.to(memory_format=layout)
    if is_worthwhile(x, conv):
        assert_equal(conv, x)
    else:
        assert stride == 2
        assert torch.equal(Conv1x1(conv)(x), conv(x))


@pytest.mark.parametrize("channels", [(1024, 600), (600, 1024), (2000, 264)], ids=str)
def test_weights_too_many_for_sums_of_each_thread(assert_equal, channels):
    torch.manual_seed(0)
    assert_equal(conv1x1(*channels), torch.randn(9, channels[0], 7, 7))


def test_an_output_larger_than_the_cache(assert_equal):
    torch.manual_seed(0)
    assert_equal(conv1x1(24, 64), torch.randn(3, 24, 150, 150))


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_does_not_matter(assert_equal):
    torch.manual_seed(0)
    assert_equal(conv1x1(64, 64), torch.randn(3, 64, 18, 18))
    assert_equal(conv1x1(1024, 600), torch.randn(1, 1024, 21, 20))
    assert_equal(conv1x1(48, 96, stride=2), torch.randn(1, 48, 40, 41))


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("out_channels", [24, 48, 64])
def test_statistics_are_those_of_the_output(out_channels, offset):
    """Also where all values of a channel are far from 0: their squares would cancel."""
    torch.manual_seed(0)
    conv = conv1x1(32, out_channels)
    x = torch.randn(4, 32, 15, 17) + offset
    y, found = Conv1x1WithStatistics(conv)(x)
    expected = channel_statistics(y)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad
    assert torch.equal(y, Conv1x1(conv)(x))


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10])
def test_values_of_any_size(assert_equal, scale):
    torch.manual_seed(0)
    assert_equal(conv1x1(), scale * torch.randn(2, 32, 20, 20))


def test_nan_stays_nan():
    x = torch.randn(2, 32, 20, 20)
    x[1, 5, 10, 10] = torch.nan
    y, statistics = Conv1x1WithStatistics(conv1x1())(x)
    assert y[1, :, 10, 10].isnan().all()
    assert statistics.isnan().all()
    y[1, :, 10, 10] = 0
    assert y.isfinite().all()


def test_few_pixels_and_other_types_go_through_the_layer():
    conv = conv1x1()
    x = torch.randn(15, 32, 5, 5)
    assert not is_worthwhile(x, conv)
    assert torch.equal(Conv1x1(conv)(x), conv(x))
    assert Conv1x1WithStatistics(conv)(x)[1] is None
    x = torch.randn(2, 32, 20, 20, dtype=torch.float64)
    assert is_worthwhile(x, conv)
    conv = conv.double()
    assert torch.equal(Conv1x1(conv)(x), conv(x))
    assert Conv1x1WithStatistics(conv)(x)[1] is None


@pytest.mark.parametrize(
    "conv",
    [
        conv1x1(16),
        conv1x1(32, 16),
        conv1x1(stride=3),
        conv1x1(stride=(1, 2)),
        conv1x1(padding=1),
        conv1x1(bias=True),
        conv1x1(64, 64, groups=2),
        nn.Conv2d(32, 32, 3, bias=False),
        nn.ReLU(),
    ],
    ids=str,
)
def test_others_stay(conv):
    assert can_replace(conv1x1())
    assert not can_replace(conv)
