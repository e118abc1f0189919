"""What is cut out of a photo is what training, evaluation and the published preprocessing take, bit for bit."""

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from vertebra.card import Decoding, Preprocessing
from vertebra.decoding import open_image
from vertebra.decoding_notes import DecodingNotes
from vertebra.pixels import FIT_VERSION, network_pixels, resize_and_crop


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (97, 640), (224, 224), (40, 40)])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_network_pixels_are_those_of_training(tmp_path, size, kind, interpolation, crop_mode):
    """Bit for bit what the published preprocessing cuts out before it normalises."""
    torch = pytest.importorskip("torch")
    from vertebra.models._preset import ImageClassification

    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    picture.save(tmp_path / f"photo.{kind}")
    plain = Preprocessing(224, 256, interpolation, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_mode=crop_mode)
    expected = ImageClassification(plain)(open_image(tmp_path / f"photo.{kind}"))
    pixels = network_pixels(tmp_path / f"photo.{kind}", plain)
    assert pixels.shape == (224, 224, 3) and pixels.dtype == np.uint8
    assert torch.equal(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255, expected)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (40, 40)])
def test_a_squashed_photo_is_whole(size):
    picture = Image.new("RGB", size)
    picture.paste((255, 0, 0), (0, 0, size[0] // 4, size[1]))  # the left quarter
    picture.paste((0, 255, 0), (0, size[1] * 3 // 4, size[0], size[1]))  # the lowest quarter
    pixels = resize_and_crop(picture, Preprocessing(64, 64, "nearest", crop_mode="squash"))
    assert pixels.shape == (64, 64, 3)
    assert (pixels[:48, :16] == (255, 0, 0)).all() and (pixels[48:] == (0, 255, 0)).all()
    assert not pixels[:48, 16:].any()


@pytest.mark.parametrize("upright", [False, True])
def test_of_a_strip_only_what_is_seen_is_resized(tmp_path, upright):
    # Its middle is white over twice what is seen.
    strip = Image.new("RGB", (40_000, 2))
    strip.paste((255, 255, 255), (19_998, 0, 20_002, 2))
    strip = strip.transpose(Image.Transpose.ROTATE_90) if upright else strip
    strip.save(tmp_path / "strip.png")
    tracemalloc.start()
    pixels = network_pixels(tmp_path / "strip.png", Preprocessing(224))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert pixels.shape == (224, 224, 3) and pixels.mean() > 250
    # Up to sixteen times as long as wide, nothing is cut off beforehand.
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 330, 3), dtype=np.uint8))
    one, other = (resize_and_crop(noise.crop(box), Preprocessing(32, 32)) for box in ((0, 0, 330, 20), (5, 0, 325, 20)))
    assert np.array_equal(one, other)


def test_fit_gives_what_its_version_stands_for():
    """Features are kept by the version: raise it together with these numbers."""
    found = []
    for width, height in ((50, 37), (37, 51), (20, 20), (9, 400)):
        values = (np.arange(height * width * 3) * 31 % 251).astype(np.uint8)
        pixels = resize_and_crop(Image.fromarray(values.reshape(height, width, 3)), Preprocessing(24, 31, "nearest"))
        found.append(zlib.crc32(pixels.tobytes()))
    assert (FIT_VERSION, found) == (1, [3573454282, 230314752, 1236347279, 3742960489])


def test_what_is_ambiguous_is_noted_by_the_name_of_its_source(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(file, "PNG")
    (tmp_path / "dark.png").write_bytes(file.getvalue())
    for source, name in (
        (tmp_path / "dark.png", "dark.png"),
        (file.getvalue(), f"image of {len(file.getvalue())} bytes"),
    ):
        notes = DecodingNotes(Decoding())
        network_pixels(source, Preprocessing(8), notes=notes)
        (line,) = notes.lines()
        assert f"{name} stay below 4,096" in line and notes.suggested == 12
    notes = DecodingNotes(Decoding())
    opened = network_pixels(Image.open(file), Preprocessing(8), name="opened", notes=notes)
    assert "values of opened stay below" in notes.lines()[0]
    np.testing.assert_array_equal(opened, network_pixels(tmp_path / "dark.png", Preprocessing(8)))
