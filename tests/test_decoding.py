"""Any file gives an upright RGB picture or an ImageError that names it."""

import io
import struct
import sys
import zlib

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from vertebra import decoding as image_module
from vertebra.card import Decoding
from vertebra.decoding import MAX_PIXELS, decode, decoder_versions, open_image, stored_size
from vertebra.decoding_errors import UnsupportedError
from vertebra.errors import ImageError

# Pillow speaks of metadata that the tests damage.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(source):
    picture = open_image(source)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def close(left, right, tolerance=6):
    """Equal up to what JPEG rounds away."""
    return np.abs(np.asarray(left, int) - np.asarray(right, int)).max() <= tolerance


def gradient(mode="RGB", size=(32, 24)):
    """A smooth picture with a different slope in each channel."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    channels = np.stack([x * 7, y * 9, x * 3 + y * 4], axis=-1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(channels).convert(mode)


# --- sources -------------------------------------------------------------------------------------------------------


def test_path_bytes_and_file_give_the_same_picture(tmp_path):
    data = encode(gradient())
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    expected = np.asarray(gradient())
    for source in (path, str(path), data, io.BytesIO(data)):
        np.testing.assert_array_equal(pixels(source), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(pixels(file), expected)


def test_a_stream_that_cannot_seek_is_read():
    class Stream(io.RawIOBase):
        def __init__(self, data):
            self.inner = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.inner.readinto(buffer)

    np.testing.assert_array_equal(pixels(Stream(encode(gradient()))), np.asarray(gradient()))
    with pytest.raises(ImageError, match="text file"):
        open_image(Stream(b"hello"))


def test_the_picture_outlives_its_file(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(gradient(), "JPEG"))
    picture = open_image(path)
    path.unlink()
    assert picture.resize((4, 4)).getpixel((0, 0)) is not None


# --- modes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA"])
def test_every_format(format):
    result = pixels(encode(gradient(), format))
    assert result.shape == (24, 32, 3)
    assert close(result, gradient(), 60 if format in ("JPEG", "WEBP", "GIF", "AVIF") else 0)


def test_greyscale_repeats_its_channel():
    grey = gradient("L")
    np.testing.assert_array_equal(pixels(encode(grey)), np.stack([np.asarray(grey)] * 3, axis=-1))


def test_black_and_white():
    drawing = Image.new("1", (4, 2))
    drawing.putpixel((1, 0), 1)
    result = pixels(encode(drawing))
    assert tuple(result[0, 1]) == WHITE
    assert result.sum() == 3 * 255


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 255, 256, 257, 32_896, 65_535]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        result = pixels(encode(Image.fromarray(values), format))
        np.testing.assert_array_equal(result[0, :, 0], [0, 1, 1, 1, 128, 255])
        assert (result[..., 0] == result[..., 1]).all()


def png_chunks(width, height, depth, colour, rows):
    """A PNG written by hand: Pillow cannot write 16 bits a channel in colour."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "expected"), [(2, (255, 128, 0)), (6, (255, 128, 0)), (4, (255, 255, 255))])
def test_16_bit_colour_png(colour, expected):
    values = {2: (65_535, 32_896, 0), 6: (65_535, 32_896, 0, 65_535), 4: (65_535, 65_535)}[colour]
    rows = b"\0" + struct.pack(f">{len(values)}H", *values)
    assert tuple(pixels(png_chunks(1, 1, 16, colour, rows))[0, 0]) == expected


def test_16_bit_pgm():
    data = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32_896, 65_535)
    np.testing.assert_array_equal(pixels(data)[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # a picture from 0 to 1
        ([0.0, 128.0, 255.0], [0, 128, 255]),  # from 0 to 255
        ([-10.0, 0.0, 10.0], [0, 128, 255]),  # anything else is stretched
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([0.0, np.nan, np.inf], [0, 0, 0]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_floating_point_tiff(values, expected):
    result = pixels(encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"))
    np.testing.assert_array_equal(result[0, :, 0], expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 32_896, 65_535], [0, 128, 255]), ([0, 50_000, 100_000], [0, 128, 255]), ([-100, 0, 100], [0, 128, 255])],
)
def test_32_bit_integer_tiff(values, expected):
    result = pixels(encode(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF"))
    np.testing.assert_array_equal(result[0, :, 0], expected)


def test_palette():
    flat = Image.new("RGB", (2, 1), RED)
    flat.putpixel((1, 0), BLUE)
    result = pixels(encode(flat.quantize(4)))
    assert [tuple(pixel) for pixel in result[0]] == [RED, BLUE]


def test_transparent_palette_entry_is_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        result = pixels(encode(picture, format, transparency=0))
        assert [tuple(pixel) for pixel in result[0]] == [WHITE, BLUE]


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_transparent_colour_key_is_white(mode):
    picture = Image.new(mode, (2, 1), 0)
    picture.putpixel((1, 0), (1, 1, 1) if mode == "RGB" else 1)
    data = encode(picture, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert tuple(pixels(data)[0, 0]) == WHITE
    assert tuple(pixels(data)[0, 1]) == (WHITE if mode == "1" else (1, 1, 1))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_on_white(format):
    picture = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    result = pixels(encode(picture, format, **options))
    assert [tuple(int(value) for value in pixel) for pixel in result[0]] == [RED, WHITE, (127, 127, 127)]


def test_grey_with_alpha():
    picture = Image.new("LA", (2, 1), (0, 255))
    picture.putpixel((1, 0), (0, 0))
    assert [tuple(pixel) for pixel in pixels(encode(picture))[0]] == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "RGBX", "I;16B", "I;16L"])
def test_modes_that_few_files_have(mode):
    """Reached through the conversion itself: Pillow decodes them from files that it cannot write."""
    if mode.startswith("I;16"):
        picture = Image.frombytes(mode, (2, 1), struct.pack(">2H" if mode.endswith("B") else "<2H", 0, 65_535))
        assert np.asarray(image_module.decode_opened(picture).picture)[0, 1].tolist() == [255, 255, 255]
    else:
        plain = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB", "HSV": "RGB"}[mode]
        picture = Image.new(plain, (2, 2), (255, 255) if plain == "LA" else WHITE)
        picture = picture.quantize(2).convert("PA") if mode == "PA" else picture.convert(mode)
        result = image_module.decode_opened(picture).picture
        assert result.mode == "RGB"
        assert result.getpixel((0, 0)) == WHITE


def test_lab_tiff():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    for colour in (WHITE, (0, 0, 0), (200, 120, 90), (40, 90, 160)):
        lab = ImageCms.buildTransform(*profiles, "RGB", "LAB").apply(Image.new("RGB", (4, 4), colour))
        assert close(pixels(encode(lab, "TIFF")), np.full((4, 4, 3), colour), 10)


def test_cmyk_jpeg_and_tiff():
    for colour in (RED, GREEN, (40, 90, 160)):
        picture = Image.new("RGB", (16, 16), colour).convert("CMYK")
        assert close(pixels(encode(picture, "TIFF")), np.full((16, 16, 3), colour), 2)
        # Pillow writes CMYK as Adobe does, inverted and with Adobe's marker.
        data = encode(picture, "JPEG", quality=95)
        assert b"Adobe" in data
        assert close(pixels(data), np.full((16, 16, 3), colour), 8)


def test_ycbcr_jpeg():
    assert close(pixels(encode(gradient("YCbCr"), "JPEG", quality=100, subsampling=0)), gradient(), 8)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert tuple(pixels(data)[4, 4]) == RED
    assert decode(data).remarks == ("first of several",)
    assert decode(encode(frames[0], format, **options)).remarks == ()


def test_several_photos_in_one_jpeg():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert close(pixels(data), np.full((16, 16, 3), RED))
    assert decode(data).remarks == ()


# --- orientation ---------------------------------------------------------------------------------------------------


def corners(array):
    return [tuple(int(value > 127) for value in array[y, x]) for y, x in ((1, 1), (1, -2), (-2, 1), (-2, -2))]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_obeyed(orientation, format):
    upright = Image.new("RGB", (32, 16), WHITE)
    upright.paste(RED, (0, 0, 8, 8))
    upright.paste(GREEN, (24, 0, 32, 8))
    upright.paste(BLUE, (0, 8, 8, 16))
    # What a camera held that way would have stored: the turn that makes it upright, undone.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_image(encode(stored, format, exif=exif))
    assert picture.size == (32, 16)
    assert corners(np.asarray(picture)) == corners(np.asarray(upright))
    assert picture.getexif().get(0x0112, 1) == 1, "the tag would turn the picture once more"


# One entry: the orientation, as the text "ab".
TEXT_ORIENTATION = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 3, b"ab\0\0", 0)


@pytest.mark.parametrize(
    "exif", [TEXT_ORIENTATION, b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0"]
)
def test_broken_exif_does_not_refuse_a_photo(exif):
    assert close(pixels(encode(gradient(), "JPEG", quality=95, exif=exif)), gradient(), 40)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_unknown_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(encode(gradient(), exif=exif)), np.asarray(gradient()))


# --- refusals ------------------------------------------------------------------------------------------------------


def refusal(path):
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert str(path) in str(caught.value), "the file is named"
    return str(caught.value)


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.jpg")
    assert "folder" in refusal(tmp_path)
    assert "device" in refusal("/dev/null")


def test_path_with_a_null_character():
    with pytest.raises(ImageError, match="null"):
        open_image("a\0b.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"Dear diary,\n", "is a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer, .*: run git lfs pull"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "is a HEIC image that is damaged|is a HEIC image: decoding HEIC needs"),
        (b"\xff\x0a" + bytes(40), r"is a JPEG XL image, which is not decoded\."),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), r"is a JPEG XL image, which is not decoded\."),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"is a vector drawing \(SVG\), .*\. Export it as PNG"),
        ("Grüße\n".encode(), "is a text file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", r"is a vector drawing \(PostScript\), not an image"),
        (b"\0\0\0\x20ftypisom" + bytes(40), r"is a video \(MP4\), not an image .*ffmpeg"),
        (b"%PDF-1.7\n", "is a PDF, not an image .*pdftoppm"),
        (b"PK\x03\x04" + bytes(40), r"is an archive \(ZIP\), not an image .*\. Unpack it and give the folder"),
        (b"<!DOCTYPE html>\n<html>", r"is a web page \(HTML\), .*: download the image itself"),
        (b"\x7fELF\x02\x01\x01\0" + bytes(100), "not an image in a known format"),
        (b"\xff\xd8\xff", "is a JPEG image that is damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image that is damaged or truncated"),
        (b"II*\0\xf0\0\0\0" + bytes(40), "is a TIFF image that is damaged or truncated"),
    ],
)
def test_what_is_not_an_image(tmp_path, content, message):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    refusal(path)
    with pytest.raises(ImageError, match=message):
        open_image(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_photo(tmp_path, format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(noise, format)
    path = tmp_path / "photo"
    path.write_bytes(data[: len(data) // 2])
    assert "damaged or truncated" in refusal(path)


def test_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_chunks(60_000, 60_000, 8, 2, b"\0"))
    # Whatever the rest of the process has done to Pillow's own limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    message = refusal(path)
    assert "60000 × 60000" in message
    assert f"{MAX_PIXELS:,}" in message
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "pixels" in refusal(path)


def test_pixel_limit_can_be_lowered():
    data = encode(gradient())
    assert open_image(data, max_pixels=32 * 24).size == (32, 24)
    with pytest.raises(ImageError, match="32 × 24"):
        open_image(data, max_pixels=32 * 24 - 1)


def test_picture_without_pixels():
    class Nothing:
        size, format = (0, 5), "PPM"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    with pytest.raises(ImageError):
        open_image(b"P6 0 5 255\n")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ImageError, match="0 × 5"):
        patch.setattr(Image, "open", lambda *args, **options: Nothing())
        open_image(b"anything")


def test_out_of_memory_is_an_image_error(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(image_module, "to_upright_rgb", fail)
    with pytest.raises(ImageError, match="memory"):
        open_image(encode(gradient()))


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"x")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert "Permission denied" in refusal(path)


SAMPLES = {
    format: encode(gradient(mode), format)
    for format, mode in [
        ("JPEG", "RGB"),
        ("PNG", "P"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "CMYK"),
        ("PPM", "RGB"),
        ("AVIF", "RGB"),
        ("JPEG2000", "RGB"),
        ("TGA", "RGB"),
    ]
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_damaged_bytes_give_a_picture_or_an_image_error(format, data):
    damaged = bytearray(SAMPLES[format])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        picture = open_image(bytes(damaged), max_pixels=1_000_000)
    except ImageError:
        return
    assert picture.mode == "RGB"
    assert picture.width * picture.height <= 1_000_000


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_picture_or_an_image_error(content):
    with pytest.raises(ImageError):
        open_image(content)


@pytest.mark.parametrize("source", [None, 5, Image.new("RGB", (2, 2)), np.zeros((2, 2, 3), np.uint8), ["a.jpg"]])
def test_what_is_no_source_is_told(source):
    with pytest.raises(ImageError, match=f"given as a path.* not as a {type(source).__name__}"):
        image_module.open_image(source)


# --- alpha that is 0 everywhere -----------------------------------------------------------------------------------


def bmp_of_32_bits(picture):
    """With a mask for alpha, as renderers write it."""
    pixels = np.asarray(picture)[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, *picture.size, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def tiff_of(picture, extra):
    """RGBA or LA whose alpha is unassociated (2), associated (1) or unspecified (0)."""
    return encode(picture, "TIFF", tiffinfo={338: extra})


def with_alpha(alpha, mode="RGBA"):
    picture = gradient("L" if mode == "LA" else "RGB").convert(mode)
    picture.putalpha(alpha)
    return picture


CLEAR = {
    "png": lambda alpha: encode(with_alpha(alpha)),
    "png of grey": lambda alpha: encode(with_alpha(alpha, "LA")),
    "bmp": lambda alpha: bmp_of_32_bits(with_alpha(alpha)),
    "tga": lambda alpha: encode(with_alpha(alpha), "TGA"),
    "tga by runs": lambda alpha: encode(with_alpha(alpha), "TGA", compression="tga_rle"),
    "webp": lambda alpha: encode(with_alpha(alpha), "WEBP", lossless=True, exact=True),
    "tiff": lambda alpha: tiff_of(with_alpha(alpha), 2),
    "tiff by lzw": lambda alpha: encode(with_alpha(alpha), "TIFF", compression="tiff_lzw"),
    "tiff of grey": lambda alpha: tiff_of(with_alpha(alpha, "LA"), 2),
    "jpeg 2000": lambda alpha: encode(with_alpha(alpha), "JPEG2000"),
    "jpeg 2000 of grey": lambda alpha: encode(with_alpha(alpha, "LA"), "JPEG2000"),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_alpha_that_is_0_everywhere_is_passed_by(kind):
    opaque = np.asarray(gradient("L").convert("RGB") if "grey" in kind else gradient())
    data = CLEAR[kind](0)
    found = decode(data)
    np.testing.assert_array_equal(np.asarray(found.picture), opaque)
    assert found.remarks == ("transparent",)
    # The rule of files that were exported before.
    assert np.asarray(open_image(data, decoding=Decoding(rule=1))).min() == 255
    # One pixel that is seen, and alpha means what it says.
    alpha = Image.new("L", (32, 24), 0)
    alpha.putpixel((3, 2), 255)
    found = decode(CLEAR[kind](alpha))
    shown = np.asarray(found.picture).copy()
    assert shown[2, 3].tolist() == opaque[2, 3].tolist() and found.remarks == ("hidden",)
    shown[2, 3] = 255
    assert shown.min() == 255
    # A spot on nothing is a picture.
    alpha.paste(255, (0, 0, 8, 1))
    assert decode(CLEAR[kind](alpha)).remarks == ()


def test_a_palette_that_is_transparent_everywhere_is_passed_by():
    picture = gradient().quantize(16)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(pixels(encode(picture, transparency=bytes(256))), expected)
    # What one sees is decided by the colours that are used.
    used = Image.new("P", (4, 4), 1)
    used.putpalette([*RED, *BLUE])
    for format in ("PNG", "GIF"):
        assert tuple(pixels(encode(used, format, transparency=1))[0, 0]) == BLUE
        assert tuple(pixels(encode(used, format, transparency=0))[0, 0]) == BLUE


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_that_is_everywhere_is_passed_by(mode):
    colour = (40, 50, 60) if mode == "RGB" else 40
    data = encode(Image.new(mode, (2, 2), colour), transparency=colour)
    assert tuple(pixels(data)[0, 0]) == (colour if mode == "RGB" else (40, 40, 40))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_associated_alpha_that_is_0_everywhere_leaves_the_colours(mode, compression):
    # Pillow multiplies by it, which would leave nothing.
    data = encode(with_alpha(0, mode), "TIFF", tiffinfo={338: 1}, compression=compression)
    expected = np.asarray(gradient("L").convert("RGB") if mode == "LA" else gradient())
    np.testing.assert_array_equal(pixels(data), expected)


@pytest.mark.parametrize("colour", [4, 6])
def test_alpha_of_16_bits_that_is_0_everywhere_is_passed_by(colour):
    values = {4: (32_896, 0), 6: (65_535, 32_896, 0, 0)}[colour]
    data = png_chunks(1, 1, 16, colour, b"\0" + struct.pack(f">{len(values)}H", *values))
    assert tuple(pixels(data)[0, 0]) == {4: (128, 128, 128), 6: (255, 128, 0)}[colour]


# --- what is kept of them ------------------------------------------------------------------------------------------


def test_the_decoder_is_told_with_its_libraries(monkeypatch):
    from PIL import features

    assert decoder_versions().startswith(f"Pillow {PIL.__version__}")
    decoder_versions.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(features, "version", lambda name: "99" if name == "libjpeg_turbo" else None)
    assert decoder_versions() == f"Pillow {PIL.__version__}, libjpeg_turbo 99"
    decoder_versions.cache_clear()


# --- HEIC ------------------------------------------------------------------------------------------------------------


def heic(picture, **options):
    """The bytes of a HEIC file."""
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(picture).save(file, quality=95, **options)
    return file.getvalue()


def halves(left, right, mode="RGB"):
    picture = Image.new(mode, (64, 48), left)
    picture.paste(right, (32, 0, 64, 48))
    return picture


def test_heic_is_decoded_upright(tmp_path):
    picture = halves((200, 30, 30), (30, 30, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° to the right
    content = heic(picture, exif=exif.tobytes())
    found = pixels(content)
    assert found.shape == (64, 48, 3)
    assert close(found, np.asarray(picture.transpose(Image.Transpose.ROTATE_270)))
    (tmp_path / "photo.jpg").write_bytes(content)  # as phones and messengers name it
    np.testing.assert_array_equal(pixels(tmp_path / "photo.jpg"), found)
    np.testing.assert_array_equal(np.asarray(open_image(content, at_least=8)), found)  # no preview
    assert stored_size(content) == (48, 64)


def test_of_heic_no_preview_is_taken():
    pillow_heif = pytest.importorskip("pillow_heif")
    image = pillow_heif.from_pillow(gradient(size=(256, 192)))
    image.info["thumbnails"] = [64]
    file = io.BytesIO()
    image.save(file)
    assert open_image(file.getvalue(), at_least=8).size == (256, 192)


def test_heic_with_alpha_and_with_10_bits():
    found = pixels(heic(halves((255, 0, 0, 0), (0, 255, 0, 255), "RGBA")))
    assert close(found[24, [5, 60]], [[255, 255, 255], [0, 255, 0]])
    pillow_heif = pytest.importorskip("pillow_heif")
    values = np.linspace(0, 65535, 48).round().astype(np.uint16)[:, None, None].repeat(64, 1).repeat(3, 2)
    file = io.BytesIO()
    pillow_heif.from_bytes(mode="RGB;16", size=(64, 48), data=values.tobytes()).save(file, quality=100)
    assert pillow_heif.open_heif(file).info["bit_depth"] > 8
    assert close(pixels(file.getvalue()), (values / 257).round())


def test_heic_without_its_package_or_whole(monkeypatch):
    content = heic(gradient())
    with pytest.raises(ImageError, match="is a HEIC image that is damaged or truncated"):
        open_image(content[:200])
    known = decoder_versions.__wrapped__()
    assert "pillow_heif" in known
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    message = r"is a HEIC image: decoding HEIC needs .* not installed\. Run: pip install 'vertebra\[heif\]', or save"
    with pytest.raises(UnsupportedError, match=message):
        open_image(content)
    # What could not be decoded is tried again once it can.
    assert decoder_versions.__wrapped__() == known.partition(", pillow_heif")[0]


@pytest.mark.parametrize("tags", [{50706: b"\1\4\0\0"}, {254: 1, 330: 8}])
def test_a_raw_file_is_refused_whatever_it_is_called(tmp_path, tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info.tagtype[tag] = 1 if isinstance(value, bytes) else 4
        info[tag] = value
    gradient().save(tmp_path / "photo.tif", tiffinfo=info)
    with pytest.raises(UnsupportedError, match="is a camera's raw file, not an image that is decoded here"):
        open_image(tmp_path / "photo.tif")
    gradient().save(tmp_path / "photo.NEF", "TIFF")
    with pytest.raises(UnsupportedError, match=r"is a camera's raw file \(NEF\), .* export it as JPEG"):
        open_image(tmp_path / "photo.NEF")
