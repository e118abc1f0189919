"""How much work is in a picture: what phones put behind it is none, and scans without an end are refused."""

import io
import random
import struct

import pytest
from PIL import Image

from vertebra.card import Decoding
from vertebra.errors import ImageError
from vertebra.serve import image_decoding
from vertebra.serve.image_decoding import decode_limited

LIMIT = 50_000_000
PHOTO = Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def jpeg(picture=PHOTO, **options):
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def large():
    """12 megapixels, as phones make them."""
    return jpeg(Image.new("RGB", (4000, 3000), (200, 100, 50)))


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def video(seed=0):
    """An MP4 in which, as in every one of some megabytes, there are bytes that look like scans."""
    noise = bytearray(random.Random(seed).randbytes(400_000))
    for place in range(0, len(noise), 1000):
        noise[place : place + 4] = b"\xff\xda\x00\x0c"
    return box(b"ftyp", b"mp42\x00\x00\x00\x00isommp42") + box(b"mdat", bytes(noise))


def with_segment(data, marker, content):
    """The JPEG with a segment right behind its start."""
    return data[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content + data[2:]


def scans(count):
    """An entry of the thumbnail's kind: a JPEG of 160 pixels with that many scans."""
    content = jpeg(PHOTO.resize((160, 120)), progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * count + content[-2:]


def xmp(length):
    text = f'<x:xmpmeta><rdf:Description GCamera:MotionPhoto="1" Item:Semantic="MotionPhoto" Item:Length="{length}"/>'
    return b"http://ns.adobe.com/xap/1.0/\x00" + text.encode()


def mpf(second, start):
    """The index of a multi-picture file with two pictures (CIPA DC-007)."""
    entries = struct.pack("<IIIHH", 0x030000, start, 0, 0, 0) + struct.pack("<IIIHH", 0, len(second), start, 0, 0)
    count = 3
    head = b"II*\x00" + struct.pack("<IH", 8, count)
    values = struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, 2)
    values += struct.pack("<HHII", 0xB002, 7, 32, 8 + 2 + 12 * count + 4)
    return b"MPF\x00" + head + values + bytes(4) + entries


def phone_files(photo):
    """Name → a file as a phone writes it, from the plain photo."""
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00" + scans(60)
    gain = with_segment(scans(100), 0xE1, b"http://ns.adobe.com/xap/1.0/\x00<hdrgm:Version>1.0</hdrgm:Version>")
    samsung = b"\x00\x00\x30\x0a\x10\x00\x00\x00MotionPhoto_Data" + video(1) + b"SEFH" + bytes(20) + b"SEFT"
    google = with_segment(photo, 0xE1, xmp(len(video())))
    return {
        "a Google motion photo": google + video(),
        "a Samsung motion photo": photo + samsung,
        "a thumbnail of many scans": with_segment(photo, 0xE1, exif),
        "two pictures": with_segment(photo, 0xE2, mpf(photo, len(photo))) + photo,
        "a gain map and a video": with_segment(google, 0xE2, mpf(gain, len(google))) + gain + video(2),
        "many pictures": photo + scans(30) * 40,
        "bytes between": photo + bytes(4096) + scans(100) + video(3),
        "a profile in many parts": photo[:2] + b"\xff\xe2\x00\x06\xff\xda\xff\xda" * 500 + photo[2:],
    }


@pytest.mark.parametrize("kind", phone_files(jpeg()))
def test_what_phones_put_behind_a_picture_is_no_work(large, kind):
    found = decode_limited(phone_files(large)[kind], kind, LIMIT, Decoding()).picture
    assert found.size == (4000, 3000) and found.getpixel((2000, 1500)) == pytest.approx((200, 100, 50), abs=3)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_blocks": 1, "progressive": True},
        {"quality": 100, "subsampling": 0},
    ],
)
def test_every_way_to_write_a_photo(monkeypatch, options):
    data = jpeg(**options) + video()
    monkeypatch.setattr(image_decoding, "_USUAL_SCANS", 0)
    monkeypatch.setattr(image_decoding, "MAX_SCAN_PIXELS", 64 * 64 * 10)  # as many as Pillow writes
    assert decode_limited(data, "photo.jpg", LIMIT, Decoding()).picture.size == (64, 64)
    filled = data.replace(b"\xff\xda", b"\xff\xff\xff\xda", 1)
    assert decode_limited(filled, "photo.jpg", LIMIT, Decoding()).picture.size == (64, 64)


def test_a_photo_over_http(serving, large):
    client = serving(max_bytes=5_000_000, max_pixels=LIMIT)
    answer = client.post("/v1/predict", phone_files(large)["a gain map and a video"], "image/jpeg")
    assert answer.status == 200 and answer.json["results"][0]["width"] == 4000


def bombs(large):
    """Name → a JPEG that would take minutes."""
    file = jpeg(Image.new("RGB", (4000, 3000)), progressive=True)
    scan = file[file.rindex(b"\xff\xda") : -2]
    body = file[:-2]
    yield "scans", body + scan * 100 + b"\xff\xd9"
    yield "no end", body + scan * 100
    yield "a thumbnail before", with_segment(body, 0xE1, jpeg()) + scan * 100 + b"\xff\xd9"
    yield "comments between", body + (b"\xff\xfe\x00\x04\xff\xd9" + scan) * 100 + b"\xff\xd9"
    yield "fill between", body + (b"\xff\xff\xff" + scan[1:]) * 100
    yield "restarts between", body + (b"\xff\xd0\xff\xd3" + scan) * 100
    # libjpeg passes such a marker by within a scan, whatever length it seems to have
    yield "reserved markers", body + (b"\xff\x02\xff\xff" + scan) * 100
    yield "empty scans", large[:-2] + b"\xff\xda\x00\x02" * 100


@pytest.mark.parametrize("number", range(8))
def test_scans_without_an_end(large, number):
    _, data = list(bombs(large))[number]
    with pytest.raises(ImageError, match=r"x\.jpg has 12,000,000 pixels in 8[4-9] scans or more, which would take"):
        decode_limited(data, "x.jpg", LIMIT, Decoding())


def test_as_many_scans_as_the_pixels_allow(large):
    small = scans(100)  # of 19,200 pixels
    assert decode_limited(small, "x.jpg", LIMIT, Decoding()).picture.size == (160, 120)
    with pytest.raises(ImageError, match="at most 10,000 are decoded"):
        decode_limited(small, "x.jpg", 10_000, Decoding())  # too large, which is told rather than its scans


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 300_000,
        b"\xff\xd8" + b"\xff" * 3_000_000,
        b"\xff\xd8" + b"\xff\x00" * 1_500_000,
        b"\xff\xd8" + b"\xff\x01" * 1_500_000,
        b"\xff\xd8\xff\xfe\x00\x02" + b"\xff" * 3_000_000,
    ],
)
def test_headers_that_take_long_to_read_are_not_read(monkeypatch, data):
    def decoded(*arguments, **options):
        raise AssertionError("it is given to Pillow")

    monkeypatch.setattr(image_decoding, "decode", decoded)
    with pytest.raises(ImageError, match=r"x\.jpg has too many JPEG segments"):
        decode_limited(data, "x.jpg", LIMIT, Decoding())


def test_a_marker_across_two_looks(monkeypatch):
    monkeypatch.setattr(image_decoding, "_SEARCH_BYTES", 16)
    monkeypatch.setattr(image_decoding, "_USUAL_SCANS", 0)
    monkeypatch.setattr(image_decoding, "MAX_SCAN_PIXELS", 64 * 64 * 10)
    for shift in range(16):
        data = with_segment(jpeg(progressive=True), 0xFE, bytes(shift))
        assert decode_limited(data + video(), "x.jpg", LIMIT, Decoding()).picture.size == (64, 64)
        with pytest.raises(ImageError, match="in 11 scans"):
            decode_limited(data[:-2] + b"\xff\xda\x00\x02", "x.jpg", LIMIT, Decoding())


def test_an_upload_that_is_no_photo_says_what_it_is():
    for content, name, message in (
        (b"\0\0\0\x20ftypisom" + bytes(40), "clip.jpg", r"clip\.jpg is a video \(MP4\), .*ffmpeg"),
        (jpeg(), "IMG_1.NEF", r"IMG_1\.NEF is a camera's raw file \(NEF\)"),
        (b"<html>", "cat.png", r"cat\.png is a web page"),
    ):
        with pytest.raises(ImageError, match=message):
            decode_limited(content, name, LIMIT, Decoding())
