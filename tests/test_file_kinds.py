"""What a file is that is not a photo, by how it begins and, where that says nothing, by its name."""

import io
import tarfile
import zipfile

import numpy as np
import pytest

from vertebra.file_kinds import RAW, VIDEO, describe_skipped, detect_file_kind, detect_kind


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a")
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return file.getvalue()


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0", "x.jpg", "a video (MP4)"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "IMG_1.HEIC", "a video (QuickTime)"),
        (b"RIFF\x24\0\0\0AVI LIST", "", "a video (AVI)"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x88matroska", "", "a video (Matroska)"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x84webm", "", "a video (WebM)"),
        (b"", "clip.mp4", "None"),
        (b"\1\2\3", "clip.MTS", "a video"),
        (b"%PDF-1.4", "scan.jpg", "a PDF"),
        (zipped(), "photos.zip", "an archive (ZIP)"),
        (zipped(), "photo.jpg", "an archive (ZIP)"),
        (zipped(), "table.xlsx", "an office document"),
        (zipped(), "x.npz", "a file of NumPy arrays"),
        (zipped(), "weights.pt", "None"),
        (tarred(), "x", "an archive (tar)"),
        (b"\x1f\x8b\x08\0", "x.tar.gz", "an archive (gzip)"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "x.jpg", "an archive (7z)"),
        (b"Rar!\x1a\x07\1\0", "x.jpg", "an archive (RAR)"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg xmlns='x'>", "logo.png", "a vector drawing (SVG)"),
        (b"\n<!doctype HTML><title>404</title>", "cat.jpg", "a web page (HTML)"),
        (b"8BPS\0\1", "x.jpg", "a file of an image editor (Photoshop)"),
        (saved(np.zeros((2, 2), np.uint8)), "x.jpg", "a file of NumPy arrays"),
        (b"II*\0\x08\0\0\0", "IMG_1.NEF", "a camera's raw file (NEF)"),
        (b"II*\0\x10\0\0\0CR\2\0", "IMG_1.jpg", "a camera's raw file (CR2)"),
        (b"\0\0\0\x18ftypcrx ", "IMG_1", "a camera's raw file (CR3)"),
        (b"path,label\n", "list.csv", "a table"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x.mp4", "None"),
        (b"hello", "notes.txt", "None"),
        (b"hello", "", "None"),
        (b"G" * 512, "", "None"),
    ],
)
def test_what_a_file_is(tmp_path, content, name, expected):
    assert str(detect_kind(content[:512], name)) == expected
    if name:
        (tmp_path / name).write_bytes(content)
        assert str(detect_file_kind(tmp_path / name)) == expected


def test_each_kind_says_what_to_do():
    assert detect_kind(b"%PDF-1.4").refusal == (
        "is a PDF, not an image that is decoded here. Export its pages as images, for example: pdftoppm -jpeg FILE page"
    )


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    for name in ("IMG_1.jpg", "IMG_2.HEIC", "IMG_3.JPG"):
        (tmp_path / name).touch()
    found = {VIDEO: ["IMG_1.MOV", "IMG_2.MOV", "b/clip.mp4"], RAW: ["IMG_3.CR2"]}
    assert describe_skipped(found, tmp_path) == [
        f"Left out, as no photos: a video, b/clip.mp4. {VIDEO.advice}.",
        "Left out, as no photos: 2 videos, such as IMG_1.MOV, beside photos of the same name, as Live Photos have "
        "them.",
        "Left out, as no photos: a camera's raw file, IMG_3.CR2, beside a photo of the same name.",
    ]
    assert detect_file_kind(tmp_path) is None
    assert detect_file_kind(tmp_path / "none.mp4") is None
