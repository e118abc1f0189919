"""Values of more than 8 bits: by the depth that a file says, or a person; and what Pillow reads wrongly."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vertebra.card import Decoding
from vertebra.decoding import FIRST_OF_SEVERAL, decode, decode_opened, open_image
from vertebra.decoding_errors import UnsupportedError
from vertebra.errors import ImageError

LITTLE, BIG = "<", ">"


def ramp(bits, channels=None):
    """Values from 0 to the largest of so many bits, (9, 12) or (9, 12, channels)."""
    shape = (9, 12) if channels is None else (9, 12, channels)
    values = np.linspace(0, 2**bits - 1, int(np.prod(shape))).round().astype(int)
    return np.random.default_rng(0).permutation(values).reshape(shape)


def to_8(values, bits):
    return np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)


def png(values, colour, significant=None, key=None):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    data = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    if significant is not None:
        data += chunk(b"gAMA", struct.pack(">I", 45_455)) + chunk(b"sBIT", bytes(significant))
    if key is not None:
        data += chunk(b"tRNS", np.array(key).astype(">u2").tobytes())
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values, photometric, kind, order=LITTLE, planar=False, tags=(), deflate=False):
    """A TIFF written by hand; `kind` is numpy's, and `tags` (tag, type, values) go before the others."""
    height, width = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    array = values.astype(order + kind)
    planes = [array[..., i].tobytes() for i in range(samples)] if planar else [array.tobytes()]
    planes = [zlib.compress(plane) for plane in planes] if deflate else planes
    sample_format = {"u": 1, "i": 2, "f": 3}[kind[0]]
    found = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * int(kind[1:])] * samples),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        273: (4, [0] * len(planes)),
        277: (3, [samples]),
        278: (4, [height]),
        279: (4, [len(plane) for plane in planes]),
        284: (3, [2 if planar else 1]),
        339: (3, [sample_format] * samples),
    } | {tag: (type_, numbers) for tag, type_, numbers in tags}

    def packed(type_, numbers):
        return struct.pack(order + {1: "B", 3: "H", 4: "I"}[type_] * len(numbers), *numbers)

    over = 8 + 2 + 12 * len(found) + 4
    start = over + sum(len(packed(*entry)) for entry in found.values() if len(packed(*entry)) > 4)
    places = np.cumsum([start, *[len(plane) for plane in planes]])[:-1]
    found[273] = (4, places.tolist())
    entries, behind = b"", b""
    for tag, (type_, numbers) in sorted(found.items()):
        content = packed(type_, numbers)
        if len(content) > 4:
            entries += struct.pack(order + "HHII", tag, type_, len(numbers), over + len(behind))
            behind += content
        else:
            entries += struct.pack(order + "HHI", tag, type_, len(numbers)) + content.ljust(4, b"\0")
    mark = b"II*\0" if order == LITTLE else b"MM\0*"
    head = mark + struct.pack(order + "IH", 8, len(found))
    return head + entries + bytes(4) + behind + b"".join(planes)


def grey_of(data, **decoding):
    found = np.asarray(open_image(data, decoding=Decoding(**decoding)))
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()
    return found[..., 0]


def saved(values, format, **options):
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, format, **options)
    return buffer.getvalue()


# --- the file says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_the_significant_bits_of_a_png_are_obeyed(bits):
    values = ramp(bits)
    np.testing.assert_array_equal(grey_of(png(values, 0, [bits])), to_8(values, bits))
    found = decode(png(values, 0, [bits]))
    assert found.levels == 0 and found.remarks == ("claimed depth",)
    # Whatever a person says of files that say nothing.
    np.testing.assert_array_equal(grey_of(png(values, 0, [bits]), bits=16), to_8(values, bits))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_values_that_a_png_spreads_over_16_bits_stay(bits):
    values = ramp(bits)
    spread = values << (16 - bits) | values >> (2 * bits - 16)
    np.testing.assert_array_equal(grey_of(png(spread, 0, [bits])), to_8(spread, 16))
    colours = np.stack([spread] * 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(open_image(png(colours, 2, [bits] * 3))), colours >> 8)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("colour", [2, 4, 6])
def test_the_significant_bits_of_a_colour_png_are_obeyed(bits, colour):
    values = ramp(bits, {2: 3, 4: 2, 6: 4}[colour])
    if colour != 2:
        values[..., -1] = 2**bits - 1
    colours = values[..., :1].repeat(3, axis=-1) if colour == 4 else values[..., :3]
    found = np.asarray(open_image(png(values, colour, [bits] * values.shape[-1])))
    np.testing.assert_array_equal(found, to_8(colours, bits))


@pytest.mark.parametrize("colour", [4, 6])
@pytest.mark.parametrize("bits", [10, 14])
def test_alpha_may_use_more_bits_than_the_colours(colour, bits):
    values = ramp(bits, {4: 2, 6: 4}[colour])
    values[..., -1] = 65_535
    values[0, 0] = 0
    colours = to_8(values[..., :1].repeat(3, axis=-1) if colour == 4 else values[..., :3], bits)
    colours[0, 0] = 255
    said = png(values, colour, [bits] * (values.shape[-1] - 1) + [16])
    np.testing.assert_array_equal(np.asarray(open_image(said)), colours)
    half = values.copy()
    half[..., -1] = 32_768 + 255
    for data in (png(half, colour), png(half, colour, [bits] * (values.shape[-1] - 1) + [16])):
        found = np.asarray(open_image(data, decoding=Decoding(bits=bits))).astype(int)
        expected = to_8(half[..., :1].repeat(3, axis=-1) if colour == 4 else half[..., :3], bits) / 2 + 127
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("tag", [341, 281])
@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_the_greatest_value_of_a_tiff_is_its_white(tag, order):
    values = ramp(12)
    for data, expected in (
        (tiff(values, 1, "u2", order, tags=[(tag, 3, [4095])]), to_8(values, 12)),
        # A statistic of the picture, and a claim that is not true.
        (tiff(values, 1, "u2", order, tags=[(tag, 3, [4094])]), to_8(values, 16)),
        (tiff(values, 1, "u2", order, tags=[(tag, 3, [1023])]), to_8(values, 16)),
        (tiff(values, 1, "u2", order, tags=[(tag, 3, [65535])]), to_8(values, 16)),
    ):
        np.testing.assert_array_equal(grey_of(data), expected)
    colours = ramp(12, 3)
    data = tiff(colours, 2, "u2", order, tags=[(tag, 3, [4095] * 3)])
    np.testing.assert_array_equal(np.asarray(open_image(data)), to_8(colours, 12))


def test_a_tiff_of_12_bits_a_sample():
    values = ramp(12)
    packed = bytearray()
    for first, second in values.reshape(-1, 2).tolist():
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    data = tiff(np.frombuffer(bytes(packed), np.uint8).reshape(9, 18), 1, "u1", tags=[(256, 4, [12]), (258, 3, [12])])
    np.testing.assert_array_equal(grey_of(data), to_8(values, 12))
    assert decode(data).levels == 0


@pytest.mark.parametrize("white", [300, 1023, 4095, 16_383])
@pytest.mark.parametrize("magic", [b"P5", b"P2"])
def test_a_portable_grey_map_is_scaled_by_its_own_white(magic, white):
    values = np.linspace(0, white, 12).astype(int)
    body = values.astype(">u2").tobytes() if magic == b"P5" else b" ".join(b"%d" % value for value in values)
    data = magic + b" 4 3 %d\n" % white + body
    np.testing.assert_allclose(grey_of(data).ravel(), values * (255 / white), atol=0.51)
    found = decode(data, decoding=Decoding(bits=12))
    assert found.levels == 0, "it says its depth"
    np.testing.assert_allclose(np.asarray(found.picture)[..., 0].ravel(), values * (255 / white), atol=0.51)


# --- a person says --------------------------------------------------------------------------------------------------


def pgm(values):
    return b"P5 12 9 65535\n" + values.astype(">u2").tobytes()


GREY_FILES = {
    "png": lambda values: png(values, 0),
    "png of 16 significant bits": lambda values: png(values, 0, [16]),
    "tiff": lambda values: tiff(values, 1, "u2"),
    "big-endian tiff": lambda values: tiff(values, 1, "u2", BIG),
    "tiff by lzw": lambda values: saved(values, "TIFF", compression="tiff_lzw"),
    "tiff of 32 bits": lambda values: tiff(values, 1, "u4"),
    "tiff of signed 16 bits": lambda values: tiff(values, 1, "i2"),
    "pgm": pgm,
    "jpeg 2000": lambda values: saved(values, "JPEG2000"),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", GREY_FILES)
def test_white_is_where_a_person_says_that_it_is(kind, bits):
    values = ramp(bits)
    data = GREY_FILES[kind](values)
    np.testing.assert_array_equal(grey_of(data), to_8(values, 16))
    np.testing.assert_array_equal(grey_of(data, bits=bits), to_8(values, bits))
    assert decode(data).levels == 2**bits - 1
    # Beyond white is white.
    brighter = grey_of(GREY_FILES[kind](ramp(15)), bits=bits)
    assert (brighter[ramp(15) >= 2**bits - 1] == 255).all() and brighter.min() == 0


COLOUR_FILES = {
    "png": lambda values: png(values, 2),
    "tiff": lambda values: tiff(values, 2, "u2"),
    "big-endian tiff": lambda values: tiff(values, 2, "u2", BIG),
    "tiff by deflate": lambda values: tiff(values, 2, "u2", deflate=True),
    "tiff in planes": lambda values: tiff(values, 2, "u2", planar=True),
    "big-endian tiff in planes": lambda values: tiff(values, 2, "u2", BIG, planar=True),
    "tiff in planes by deflate": lambda values: tiff(values, 2, "u2", planar=True, deflate=True),
    "ppm": lambda values: b"P6 12 9 65535\n" + values.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", COLOUR_FILES)
def test_16_bit_colours_have_their_lower_bits(kind):
    full = ramp(16, 3)
    found = decode(COLOUR_FILES[kind](full))
    np.testing.assert_allclose(np.asarray(found.picture), full / 257, atol=1)
    assert found.levels > 65_280
    for bits in (10, 12, 14):
        values = ramp(bits, 3)
        data = COLOUR_FILES[kind](values)
        assert 2**bits - 128 <= decode(data).levels < 2**bits
        if kind == "tiff in planes by deflate":
            with pytest.raises(UnsupportedError, match="only the upper 8 bits"):
                open_image(data, decoding=Decoding(bits=bits))
            continue
        found = open_image(data, decoding=Decoding(bits=bits))
        np.testing.assert_array_equal(np.asarray(found), to_8(values, bits))


def test_16_bit_colours_whose_lower_bits_cannot_be_read_are_refused():
    colours = b" ".join(b"%d" % value for value in ramp(12, 3).ravel())
    data = b"P3 12 9 65535\n" + colours
    assert 3840 < decode(data).levels < 4096
    with pytest.raises(UnsupportedError, match=r"^image of \d+ bytes has 16-bit colours.*black where 12 bits are used"):
        open_image(data, decoding=Decoding(bits=12))


def test_files_of_8_bits_are_left_alone():
    for mode in ("L", "RGB", "RGBA", "P", "LA"):
        picture = Image.fromarray(np.arange(48).reshape(4, 4, 3).astype(np.uint8)).convert(
            "L" if mode == "LA" else "RGB"
        )
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, "PNG")
        plain = np.asarray(open_image(buffer.getvalue()))
        found = decode(buffer.getvalue(), decoding=Decoding(bits=12))
        np.testing.assert_array_equal(np.asarray(found.picture), plain)
        assert found.levels == 0 and found.remarks == ()


def test_a_card_of_the_first_rule_takes_16_bits_for_16():
    for data in (png(ramp(12), 0, [12]), tiff(ramp(12), 1, "u2", tags=[(341, 3, [4095])])):
        np.testing.assert_array_equal(grey_of(data, rule=1), to_8(ramp(12), 16))
        assert decode(data, decoding=Decoding(rule=1)).levels == 4095, "that it is nearly black can be told"
    colours = png(ramp(12, 3), 2)
    np.testing.assert_array_equal(np.asarray(open_image(colours, decoding=Decoding(rule=1))), ramp(12, 3) >> 8)
    assert decode(colours, decoding=Decoding(rule=1)).levels == 4095


# --- what has no agreed white, and what Pillow reads wrongly ----------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "remark"),
    [
        ([[0.0, 0.25, 1.0]], "f4", "float to 1"),
        ([[0.0, 100.0, 255.0]], "f4", "float to 255"),
        ([[0.0, 100.0, 256.0]], "f4", "stretched"),
        ([[-3, 0, 5]], "i2", "stretched"),
        ([[-100, 0, 100]], "i1", "stretched"),
        ([[0, 5, 65_536]], "u4", "stretched"),
        ([[0, 2**31, 2**32 - 1]], "u4", "stretched"),
    ],
)
def test_how_values_without_an_agreed_white_were_taken_is_said(values, kind, remark):
    found = decode(tiff(np.array(values), 1, kind))
    assert found.remarks == (remark,) and found.levels == 0
    grey = np.asarray(found.picture)[0, :, 0].astype(int)
    assert grey[0] < grey[1] < grey[2] == 255 or (remark == "stretched" and grey[0] == 0 and grey[2] == 255)


@pytest.mark.parametrize(("kind", "deflate"), [("u1", False), ("u1", True), ("u2", False), ("u2", True), ("f4", False)])
def test_white_may_be_zero_in_a_tiff(kind, deflate):
    values = ramp(8 if kind == "u1" else 16)
    dark = values / 65_535 if kind == "f4" else values
    expected = 255 - to_8(values, 8 if kind == "u1" else 16)
    np.testing.assert_array_equal(grey_of(tiff(dark, 0, kind, deflate=deflate)), expected)
    if kind == "u2":
        data = tiff(ramp(12), 0, kind, deflate=deflate)
        np.testing.assert_array_equal(grey_of(data, bits=12), 255 - to_8(ramp(12), 12))


def test_signed_bytes_are_no_unsigned_ones():
    values = np.array([[-128, -1, 0, 127]])
    np.testing.assert_array_equal(grey_of(tiff(values, 1, "i1")), [[0, 127, 128, 255]])
    np.testing.assert_array_equal(grey_of(tiff(values.clip(0), 1, "i1")), [[0, 0, 0, 127]])


def test_a_colour_map_of_bytes():
    colours = np.zeros((3, 256), int)
    colours[:, 1:3] = [[255, 10], [128, 20], [0, 30]]
    for scale in (1, 257):
        data = tiff(np.array([[1, 2, 0]]), 3, "u1", tags=[(320, 3, (colours * scale).ravel().tolist())])
        assert np.asarray(open_image(data)).tolist() == [[[255, 128, 0], [10, 20, 30], [0, 0, 0]]]


def test_a_transparent_colour_of_16_bits():
    values = np.array([[[100, 100, 100], [25_700, 25_700, 25_700], [100, 100, 101]]])
    for key, clear in (([100] * 3, 0), ([25_700] * 3, 1)):
        found = np.asarray(open_image(png(values, 2, key=key)))[0, :, 0]
        assert found.tolist() == [255 if place == clear else value >> 8 for place, value in enumerate(values[0, :, 0])]
    grey = png(values[..., 0], 0, key=[25_700])
    assert grey_of(grey).tolist() == [[0, 255, 0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(ramp(10), 1, "u2", tags=[(258, 3, [10])]), "is a TIFF image whose kind of values is not decoded"),
        (tiff(ramp(8), 1, "u4", BIG), "is a TIFF image whose kind of values"),
        (b"\xff\xd8\xff\xc1\x00\x0b\x0c\x00\x10\x00\x10\x01\x01\x11\x00" + bytes(40), "is a JPEG of 12 bits"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "is a JPEG XL image, which is not decoded. Save it as a JPEG"),
    ],
)
def test_images_of_kinds_that_are_not_decoded_are_told_from_what_is_none(data, message):
    with pytest.raises(UnsupportedError, match=message):
        open_image(data)


# --- a picture that Pillow has opened ---------------------------------------------------------------------------------


def test_an_opened_picture_takes_the_road_of_its_file(tmp_path):
    files = {
        "deep.png": png(ramp(12), 0, [12]),
        "colours.png": png(ramp(12, 3), 2, [12] * 3),
        "grey alpha.png": png(np.stack([ramp(12), np.full((9, 12), 4095)], -1), 4, [12] * 2),
        "planes.tif": tiff(ramp(16, 3), 2, "u2", planar=True),
        "white is zero.tif": tiff(ramp(16), 0, "u2"),
        "bytes.tif": tiff(ramp(7) - 60, 1, "i1"),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        expected = np.asarray(open_image(path))
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(decode_opened(picture).picture), expected, err_msg=name)
        for source in (path, io.BytesIO(data)):
            with Image.open(source) as picture:
                np.testing.assert_array_equal(np.asarray(decode_opened(picture).picture), expected, err_msg=name)
    with Image.open(tmp_path / "deep.png") as picture:
        picture.load()
        np.testing.assert_array_equal(
            np.asarray(decode_opened(picture).picture), np.asarray(open_image(files["deep.png"]))
        )


def test_a_picture_whose_file_was_closed_is_told(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png(ramp(12), 0))
    picture = Image.open(path)
    picture.close()
    with pytest.raises(ImageError, match=r"photo\.png was closed before it was read"):
        decode_opened(picture)


@pytest.mark.parametrize("given", [Decoding(), Decoding(bits=12)])
@pytest.mark.parametrize("claimed", [None, [12] * 3])
def test_16_bit_colours_of_a_picture_that_was_loaded(tmp_path, given, claimed):
    """Pillow has dropped their lower bytes then: without a word it would be nearly black the second time."""
    path = tmp_path / "photo.png"
    path.write_bytes(png(ramp(12, 3), 2, claimed))
    expected = decode(path, decoding=given)
    with Image.open(path) as picture:
        for _ in range(2):
            found = decode_opened(picture, given)
            np.testing.assert_array_equal(np.asarray(found.picture), np.asarray(expected.picture))
            assert (found.levels, found.remarks) == (expected.levels, expected.remarks)
        picture.load()
        if given.bits is None and claimed is None:  # the upper bytes are enough
            assert decode_opened(picture, given) == expected
            return
        with pytest.raises(UnsupportedError, match=r"photo\.png has 16-bit colours .* Pillow dropped .* Give its path"):
            decode_opened(picture, given)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_tiff_that_lies_on_its_side_and_is_mapped(tmp_path, orientation):
    """Pillow 13.0 maps the pixels of one that it opened by name as if it stood upright."""
    path, exif = tmp_path / "photo.tif", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp(8)[:, ::-1].astype(np.uint8)).resize((31, 17)).save(path, exif=exif)
    expected = np.asarray(open_image(path))
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(decode_opened(picture).picture), expected)
        picture.load()
        try:
            np.testing.assert_array_equal(np.asarray(decode_opened(picture).picture), expected)
        except ImageError as error:
            assert orientation == 6 and "photo.tif is a TIFF that lies on its side" in str(error)


def test_frames_of_a_picture_are_told_and_chosen(tmp_path):
    path = tmp_path / "photo.gif"
    frames = [Image.new("L", (8, 8), value) for value in (0, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as picture:
        assert decode_opened(picture).remarks == decode(path).remarks == (FIRST_OF_SEVERAL,)
        picture.seek(1)
        found = decode_opened(picture)
    assert found.remarks == () and found.picture.getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_raw_file_that_pillow_opened_is_refused_as_its_path_is(tmp_path, loaded):
    """Pillow gives the preview that such a file begins with."""
    path = tmp_path / "photo.tif"
    path.write_bytes(tiff(ramp(8), 1, "u1", tags=((50706, 1, (1, 4, 0, 0)),)))  # DNGVersion
    with pytest.raises(UnsupportedError, match="raw file"):
        open_image(path)
    with Image.open(path) as picture:
        if loaded:
            picture.load()
        with pytest.raises(UnsupportedError, match=r"photo\.tif is a camera's raw file"):
            decode_opened(picture)
