"""Photos have Pillow's pixels, whoever resizes them."""

import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from vertebra import resizing
from vertebra.pixels import resize_and_crop
from vertebra.preprocessing import Preprocessing

# Heights and widths: usual, larger and smaller than the network's input, narrow, and a long strip.
SIZES = [(200, 300), (375, 500), (500, 375), (900, 250), (60, 80), (30, 31), (1, 700), (256, 256), (224, 400)]


@pytest.fixture
def later(monkeypatch):
    """As in a process that has resized some photos."""
    monkeypatch.setattr(resizing, "_resized", itertools.count(100))
    cached = resizing._kernels
    cached.cache_clear()
    yield
    cached.cache_clear()


@pytest.fixture
def kernels(later):
    pytest.importorskip("vertebra_kernels", reason="vertebra-kernels is not installed (pip install ./kernels)")
    from vertebra_kernels import resizing as found

    return found


def pictures():
    for seed, size in enumerate(SIZES):
        yield Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def pixels(preprocessing):
    return [resize_and_crop(picture, preprocessing) for picture in pictures()]


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (224, 224), (64, 40)])
def test_same_pixels(kernels, monkeypatch, interpolation, crop_mode, crop, resize):
    preprocessing = Preprocessing(crop, resize, interpolation, crop_mode=crop_mode)
    calls = []
    resize = kernels.resize
    monkeypatch.setattr(kernels, "resize", lambda *given: calls.append(given) or resize(*given))
    found = pixels(preprocessing)
    monkeypatch.setattr(resizing, "_kernels", lambda: None)
    for one, right in zip(found, pixels(preprocessing), strict=True):
        np.testing.assert_array_equal(one, right)
        assert one.flags.writeable == right.flags.writeable
    compared = 2 * len(resizing._COMPARED) * len(kernels.FILTERS)
    assert (len(calls) > compared) == (interpolation != "nearest" and crop <= preprocessing.resize_size)


@pytest.mark.parametrize("sizes", [(3,), (3, 4)])
def test_pixels_are_copied_for_versions_that_take_three_bytes(kernels, monkeypatch, sizes):
    monkeypatch.setattr(kernels, "PIXEL_SIZES", sizes, raising=False)
    given, resize = [], kernels.resize
    monkeypatch.setattr(kernels, "resize", lambda image, *how: given.append(image) or resize(image[..., :3], *how))
    found = pixels(Preprocessing(64, 72))
    assert {image.shape[2] for image in given[-len(SIZES) :]} <= {4 if sizes == (3, 4) else 3}
    monkeypatch.setattr(resizing, "_kernels", lambda: None)
    for one, right in zip(found, pixels(Preprocessing(64, 72)), strict=True):
        np.testing.assert_array_equal(one, right)


def test_large_pictures(kernels):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), np.uint8))
    right = np.asarray(picture.resize((72, 72), Image.Resampling.BICUBIC).crop((4, 4, 68, 68)))
    np.testing.assert_array_equal(resize_and_crop(picture, Preprocessing(64, 72, "bicubic")), right)


def test_the_first_photos_do_not_load_the_package(monkeypatch):
    loaded = []
    monkeypatch.setattr(resizing, "_resized", itertools.count())
    monkeypatch.setattr(resizing, "_kernels", lambda: loaded.append(True))
    for number in range(1, resizing._FIRST_BY_PILLOW + 3):
        resize_and_crop(next(pictures()), Preprocessing(64, 72))
        assert len(loaded) == max(0, number - resizing._FIRST_BY_PILLOW)


def test_other_pixels_than_the_installed_pillows(kernels, monkeypatch):
    resize = kernels.resize
    monkeypatch.setattr(kernels, "resize", lambda *given: resize(*given) ^ 1)
    assert resizing._kernels() is None
    (first, *_), preprocessing = pictures(), Preprocessing(64, 72, "bicubic")
    found = resize_and_crop(first, preprocessing)
    right = first.resize((108, 72), Image.Resampling.BICUBIC).crop((22, 4, 86, 68))
    np.testing.assert_array_equal(found, np.asarray(right))


def test_without_the_package(later, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resizing._kernels() is None
    assert len(pixels(Preprocessing(64, 72))) == len(SIZES)


def test_an_older_version_of_the_package(kernels, monkeypatch):
    monkeypatch.delattr("vertebra_kernels.resizing")
    monkeypatch.setitem(sys.modules, "vertebra_kernels.resizing", None)
    assert resizing._kernels() is None


def test_a_library_that_cannot_be_loaded(kernels, monkeypatch):
    def fail(*given):
        raise OSError("wrong ELF class")

    monkeypatch.setattr(kernels, "resize", fail)
    assert resizing._kernels() is None
