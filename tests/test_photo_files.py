"""Which files are photos."""

import io
import os

import pytest
from PIL import Image

from vertebra.decoding import FORMATS
from vertebra.photo_files import (
    HEAD_BYTES,
    SUFFIXES,
    image_format,
    is_hidden_or_system,
    is_macos_metadata,
    is_photo,
    list_entries,
)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "TGA"])
def test_the_formats_that_are_decoded_are_known_by_how_they_begin(name):
    for mode in ("L", "RGB"):
        buffer = io.BytesIO()
        Image.new(mode, (40, 30)).save(buffer, name)
        assert image_format(buffer.getvalue()[:HEAD_BYTES]) == name


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"GIF87a", "GIF"),
        (b"P2\n# made by hand", "PPM"),
        (b"\xff\x4f\xff\x51", "JPEG2000"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x1cftypmif1", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"", None),
        (b"\xff\xd8", None),
        (b"BM is how this text begins, and no bitmap", None),
        (b"P2 is a name", None),
        (b"RIFF....WAVE", None),
        (b"\0\0\0\x18ftypmp42", None),
        (b"GIF88a", None),
        (b"%PDF-1.4", None),
        (b" \xff\xd8\xff", None),
    ],
)
def test_how_other_files_begin(head, expected):
    assert image_format(head) == expected


def test_photos_in_a_folder(tmp_path):
    for name in ("a.JPG", "b.jfif", "c.txt", "d.CR2", "Thumbs.db", "e"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0" if name != "c.txt" else b"hello")
    os.mkfifo(tmp_path / "f")
    (tmp_path / "g.png").symlink_to("nowhere")
    (tmp_path / "h").symlink_to("nowhere")
    found = list_entries(tmp_path)
    assert [entry.name for entry in found] == ["Thumbs.db", "a.JPG", "b.jfif", "c.txt", "d.CR2", "e", "f", "g.png", "h"]
    assert [entry.name for entry in found if is_photo(entry)] == ["a.JPG", "b.jfif", "e", "g.png"]


def test_a_file_that_cannot_be_opened_is_no_photo(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"\xff\xd8\xff\xe0")
    (entry,) = list_entries(tmp_path)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert not is_photo(entry)


def test_what_is_passed_by(tmp_path):
    for name in ("@EaDir", "cat", ".git"):
        (tmp_path / name).mkdir()
    for name in ("lost+found", ".x.jpg", "y.jpg"):
        (tmp_path / name).touch()
    hidden = [entry.name for entry in list_entries(tmp_path) if is_hidden_or_system(entry)]
    assert hidden == [
        ".git",
        ".x.jpg",
        "@EaDir",
    ]
    assert [name for name in ("._a.jpg", ".DS_Store", ".a.jpg", "a") if is_macos_metadata(name)] == [
        "._a.jpg",
        ".DS_Store",
    ]


def test_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)
    assert {".jpg", ".jfif", ".jpe", ".jif", ".tga", ".heic"} <= SUFFIXES
