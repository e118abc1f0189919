"""3×3 convolutions beside torch's, in float64."""

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from vertebra.cpu_kernels.conv3x3 import Conv3x3, can_replace, is_worthwhile


def conv3x3(channels=32, out_channels=48, **options):
    return nn.Conv2d(channels, out_channels, 3, **{"padding": 1, "bias": False} | options)


@pytest.fixture
def assert_equal(assert_convolves):
    def compare(conv, x):
        atol = 5e-6 * max(1, (conv.in_channels / 96) ** 0.5)  # of sums of 9 products a channel
        assert_convolves(Conv3x3(conv), conv, x, atol)

    return compare


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "size", [(2, 16, 16), (3, 13, 18), (9, 7, 7), (1, 21, 20), (30, 4, 4), (100, 2, 2), (400, 1, 1)]
)
@pytest.mark.parametrize(
    ("channels", "layout"),
    [((32, 32), torch.channels_last), ((48, 80), torch.contiguous_format), ((96, 64), torch.channels_last)],
    ids=str,
)
def test_results_are_torchs(assert_equal, channels, size, layout, stride):
    """The sizes are those of the output; inputs for stride 2 have an even or an odd number of rows and columns."""
    torch.manual_seed(0)
    images, height, width = size
    conv = conv3x3(*channels, stride=stride).to(memory_format=layout)
    x = torch.randn(images, channels[0], stride * height - height % 2 * (stride - 1), stride * width)
    assert is_worthwhile(x, stride) == (height > 2)
    assert_equal(conv, x.to(memory_format=layout))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(320, 528), (528, 320)], ids=str)
def test_weights_that_take_more_memory_than_tiles(assert_equal, channels, stride):
    torch.manual_seed(0)
    size = 7 * stride - (stride - 1)
    assert_equal(conv3x3(*channels, stride=stride), torch.randn(9, channels[0], size, size))


def test_a_bias_is_added(assert_equal):
    torch.manual_seed(0)
    assert_equal(conv3x3(bias=True), torch.randn(2, 32, 20, 20))


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_does_not_matter(assert_equal):
    torch.manual_seed(0)
    assert_equal(conv3x3(64, 64), torch.randn(3, 64, 18, 18))
    assert_equal(conv3x3(320, 528), torch.randn(9, 320, 7, 7))
    assert_equal(conv3x3(256, 128, stride=2), torch.randn(1, 256, 40, 40))


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10])
def test_values_of_any_size(assert_equal, scale):
    torch.manual_seed(0)
    conv = conv3x3()
    assert_equal(conv, scale * torch.randn(2, 32, 20, 20))


def test_nan_stays_nan():
    x = torch.randn(2, 32, 20, 20)
    x[1, 5, 10, 10] = torch.nan
    conv = conv3x3()
    y = Conv3x3(conv)(x)
    assert y[1, :, 9:12, 9:12].isnan().all()
    assert y[0].isfinite().all()


def test_small_maps_and_other_types_go_through_the_layer():
    conv = conv3x3()
    for x in (torch.randn(1, 32, 5, 5), torch.randn(100, 32, 5, 5)):
        assert not is_worthwhile(x, 1)
        assert torch.equal(Conv3x3(conv)(x), conv(x))
    x = torch.randn(2, 32, 20, 20, dtype=torch.float64)
    assert is_worthwhile(x, 1)
    conv = conv.double()
    assert torch.equal(Conv3x3(conv)(x), conv(x))


@pytest.mark.parametrize(
    "conv",
    [
        conv3x3(40),
        conv3x3(32, 40),
        conv3x3(16, 32),
        conv3x3(stride=3),
        conv3x3(stride=(1, 2)),
        conv3x3(padding=0),
        conv3x3(padding="same"),
        conv3x3(dilation=2, padding=2),
        conv3x3(padding_mode="reflect"),
        conv3x3(64, 64, groups=2),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.ReLU(),
    ],
    ids=str,
)
def test_others_stay(conv):
    assert can_replace(conv3x3())
    assert not can_replace(conv)
