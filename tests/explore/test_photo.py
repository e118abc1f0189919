"""The photo's way into the network: pixels, boxes, what was done to it, and pictures of bounded size."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vertebra.errors import ImageError
from vertebra.explore.photo import MOST_BYTES, MOST_SIDE, read_photo
from vertebra.pixels import network_pixels
from vertebra.preprocessing import Preprocessing

WAY = Preprocessing(size=64, resize=72)


def stored(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def opened(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return stored(noise(90, 60), exif=exif)


def transparent():
    picture = noise(80, 100).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return stored(picture)


PHOTOS = {
    "plain": (stored(noise(120, 90)), []),
    "turned": (turned(), ["turned"]),
    "transparent": (transparent(), ["on white"]),
    "opaque": (stored(noise(80, 80).convert("RGBA")), []),
    "16 bits": (stored(Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80) * 10)), ["scaled", "grey"]),
    "grey": (stored(noise(80, 80).convert("L")), ["grey"]),
    "icon": (stored(noise(5, 7)), []),
    "pixel": (stored(noise(1, 1)), []),
    "strip": (stored(noise(1, 5000)), []),
    "wide": (stored(noise(3000, 20)), []),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_the_pixels_are_those_of_a_prediction(name):
    content, done = PHOTOS[name]
    photo = read_photo(content, WAY)
    expected = network_pixels(content, WAY)
    shown = photo.to_dict()
    assert shown["done"] == done
    assert shown["lossless"]
    assert np.array_equal(photo.pixels, expected)
    assert np.array_equal(np.asarray(opened(shown["input"]).convert("RGB")), expected)
    values = (expected / 255 - WAY.mean) / WAY.std
    for channel, found in enumerate(shown["channels"]):
        one = values[..., channel]
        assert list(found.values()) == pytest.approx([one.min(), one.max(), one.mean(), one.std()])


@pytest.mark.parametrize("name", PHOTOS)
def test_the_boxes_cut_those_pixels_out(name):
    """The middle of each box, found again in a photo whose colours are coordinates."""
    given = opened("," + base64.b64encode(PHOTOS[name][0]).decode())
    width, height = given.size[::-1] if name == "turned" else given.size
    down, across = np.mgrid[:height, :width]
    place = np.stack([255 * across / width, 255 * down / height, 0 * down], -1)
    photo = read_photo(stored(Image.fromarray(place.round().astype(np.uint8))), WAY).to_dict()
    assert (photo["width"], photo["height"], photo["size"]) == (width, height, 64)
    left, top, right, bottom = photo["crop"]
    assert (right - left) / (bottom - top) == pytest.approx(1, abs=0.02)
    assert ((left + right) / 2 / width, (top + bottom) / 2 / height) == pytest.approx((0.5, 0.5), abs=0.02)
    seen = np.asarray(opened(photo["input"]).convert("RGB")).astype(float)
    # One column of a ramp tells the crop's left edge; a pixel or two of interpolation blur it.
    assert seen[:, 0, 0].mean() / 255 * width == pytest.approx(max(0, left), abs=3 + 0.02 * width)
    assert min(photo["resized"]) == 72
    assert (photo["box"][2] - photo["box"][0], photo["box"][3] - photo["box"][1]) == (64, 64)


def test_beyond_the_edges_is_black():
    photo = read_photo(stored(Image.new("RGB", (40, 20), "white")), Preprocessing(size=64, resize=32))
    shown = photo.to_dict()
    assert shown["resized"] == [64, 32]
    assert shown["box"] == [0, -16, 64, 48]
    assert shown["crop"] == pytest.approx([0, -10, 40, 30])
    assert photo.pixels[0].max() == 0
    assert photo.pixels[32].min() == 255


def test_a_strip_is_cut_before_it_is_resized():
    shown = read_photo(PHOTOS["strip"][0], WAY).to_dict()
    left, top, right, bottom = shown["strip"]
    assert (left, right) == (0, 1)
    assert 0 < top < bottom < 5000
    assert top <= shown["crop"][1] < shown["crop"][3] <= bottom
    assert opened(shown["picture"]).size == (1, MOST_SIDE)


def test_pictures_are_bounded_and_say_that_they_are_not_exact():
    shown = read_photo(stored(noise(1100, 420)), Preprocessing(size=420, resize=420)).to_dict()
    assert len(shown["input"]) + len(shown["picture"]) < 2 * 1.34 * MOST_BYTES + 100
    assert not shown["lossless"]
    assert shown["input"].startswith("data:image/jpeg")
    assert opened(shown["input"]).size == (420, 420)
    assert max(opened(shown["picture"]).size) == MOST_SIDE


def test_a_file_without_a_picture():
    with pytest.raises(ImageError, match="not an image"):
        read_photo(b"text", WAY)


def test_a_squashed_photo_is_shown_whole():
    way = Preprocessing(size=64, resize=64, crop_mode="squash")
    content = PHOTOS["plain"][0]
    photo = read_photo(content, way)
    shown = photo.to_dict()
    assert np.array_equal(photo.pixels, network_pixels(content, way))
    assert shown["squashed"] and shown["resized"] == [64, 64] and shown["box"] == [0, 0, 64, 64]
    assert shown["crop"] == pytest.approx([0, 0, 120, 90])
    assert not read_photo(content, WAY).to_dict()["squashed"]
