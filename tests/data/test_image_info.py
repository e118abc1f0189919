"""What is measured of a photo: its size, its levels of grey, its steps between neighbours."""

import io

import numpy as np
import pytest
from PIL import Image

from vertebra.data.image_info import ImageInfoCache


def encoded(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def noise(width, height, low=0, high=256):
    values = np.random.default_rng(width * height).integers(low, high, (height, width), dtype=np.uint8)
    return Image.fromarray(values)


def quantile(values, share):
    """The least level that at least this share of the values does not exceed."""
    ordered = np.sort(values, axis=None)
    return int(ordered[max(0, int(np.ceil(share * ordered.size)) - 1)])


@pytest.mark.parametrize("size", [(64, 48), (100, 128), (7, 5), (1, 3), (3, 1), (2, 1)])
@pytest.mark.parametrize("levels", [(0, 256), (90, 110), (30, 32)])
def test_levels_and_edges_are_those_of_the_pixels(tmp_path, size, levels):
    picture = noise(*size, *levels)
    info, _ = ImageInfoCache(tmp_path).examine(encoded(picture, "PNG"))
    grey = np.asarray(picture).astype(int)  # small enough to be measured pixel by pixel
    darkest, lightest = quantile(grey, 0.01), quantile(grey, 0.99)
    steps = np.concatenate([np.abs(np.diff(grey, axis=axis)).ravel() for axis in (0, 1)])
    edge = 1.0 if lightest == darkest else min(1.0, quantile(steps, 0.998) / (lightest - darkest))
    assert (info.darkest, info.lightest, info.edge) == (darkest, lightest, edge)


@pytest.mark.parametrize("colour", [0, 7, 255])
def test_a_single_colour_has_no_edges(tmp_path, colour):
    info, _ = ImageInfoCache(tmp_path).examine(encoded(Image.new("L", (1, 1), colour), "PNG"))
    assert (info.darkest, info.lightest, info.edge) == (colour, colour, 1.0)


@pytest.mark.parametrize(
    "size",
    [(254, 300), (255, 255), (256, 900), (509, 700), (510, 510), (511, 2000), (512, 512), (1021, 1500), (2100, 600)],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_size_is_that_of_the_file_also_where_it_is_decoded_smaller(tmp_path, size, kind, turned):
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    file = io.BytesIO()
    noise(*size).save(file, kind, exif=exif)
    info, picture = ImageInfoCache(tmp_path).examine(file.getvalue(), decode=True)
    expected = size[::-1] if turned else size
    assert (info.width, info.height) == expected
    assert picture is not None and picture.size == expected, "a prediction gets all pixels"


def test_coarse_greys_are_means_rounded_half_to_even(tmp_path):
    picture = Image.fromarray(np.kron([[0, 1], [3, 4]], np.tile([[0, 1], [1, 0]], (16, 16))).astype(np.uint8))
    info, _ = ImageInfoCache(tmp_path).examine(encoded(picture, "PNG"))
    blocks = np.asarray(picture, float).reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert set(blocks.ravel()) == {0, 0.5, 1.5, 2}
    assert np.array_equal(np.frombuffer(info.coarse_greys, np.uint8).reshape(16, 16), blocks.round())
