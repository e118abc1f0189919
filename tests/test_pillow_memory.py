"""The memory of a Pillow image, as an array."""

import gc

import numpy as np
import pytest
from PIL import Image

from vertebra.pillow_memory import stored_pixels


def picture(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (510, 337), (1, 5000), (2048, 2048)])
def test_the_pixels_are_those_of_the_image(size):
    found = stored_pixels(picture(*size))
    assert found.shape == (*size[::-1], 4) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[..., :3], np.asarray(picture(*size)))


def test_it_is_the_memory_itself_and_read_only():
    image = picture(20, 10)
    found = stored_pixels(image)
    image.putpixel((3, 2), (9, 8, 7))
    assert found[2, 3, :3].tolist() == [9, 8, 7]
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0] = 1


def test_it_outlives_the_image():
    found = stored_pixels(picture(300, 200))
    gc.collect()
    others = [picture(300, 200).rotate(90) for _ in range(20)]
    np.testing.assert_array_equal(found[..., :3], np.asarray(picture(300, 200)))
    assert len(others) == 20


def test_a_file_is_loaded(tmp_path):
    picture(30, 20).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(stored_pixels(image)[..., :3], np.asarray(picture(30, 20)))


def test_several_blocks_or_an_older_pillow(monkeypatch):
    assert stored_pixels(picture(3000, 3000)) is None
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    assert stored_pixels(picture(3, 3)) is None


@pytest.mark.parametrize("mode", ["L", "F", "RGBA"])
def test_other_modes_are_told_by_their_shape(mode):
    found = stored_pixels(Image.new(mode, (4, 3)))
    assert found is None or mode == "RGBA"
