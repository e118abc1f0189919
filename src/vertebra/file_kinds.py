"""What a file is that is not a photo, and what to do with it: the one table for errors and for skipped files.

The first bytes decide, as a video may be called `photo.jpg`; a name's ending counts where they say nothing, and for
what shares its beginning with others: raw files of cameras are TIFF, office documents and NumPy's `.npz` are ZIP.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

HEAD_BYTES = 512  # that `detect_kind` needs: a tar archive says so at byte 257


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    one: str  # "a video"
    many: str  # "videos"
    advice: str  # a sentence without its full stop
    is_reported: bool = True  # of those in a folder: pictures may be in it, as they are not in a web page or a workbook


VIDEO = Kind(
    "a video",
    "videos",
    "Export frames as JPEG and give these, for example: ffmpeg -i VIDEO -vf fps=1 frame-%05d.jpg",
)
RAW = Kind("a camera's raw file", "raw files of cameras", "Develop it in a photo program and export it as JPEG")
ARCHIVE = Kind("an archive", "archives", "Unpack it and give the folder")
PDF = Kind("a PDF", "PDF files", "Export its pages as images, for example: pdftoppm -jpeg FILE page")
DRAWING = Kind("a vector drawing", "vector drawings", "Export it as PNG")
LAYERS = Kind("a file of an image editor", "files of image editors", "Export it as PNG or JPEG")
ARRAY = Kind("a file of NumPy arrays", "files of NumPy arrays", "Save each image in it as PNG")
SCIENCE = Kind("a file of scientific data", "files of scientific data", "Export its images as PNG")
PAGE = Kind(
    "a web page (HTML)", "web pages", "The download gave a page in place of the image: download the image itself", False
)
OFFICE = Kind("an office document", "office documents", "Save a workbook as CSV, and its pictures as files", False)
CLOUD = Kind(
    "a photo that iCloud has not downloaded",
    "photos that iCloud has not downloaded",
    "Download them (Finder: Download Now; in a terminal: brctl download FOLDER), and run the command again",
)
TABLE = Kind(
    "a table",
    "tables",
    "`vertebra train`, `audit` and `evaluate` take tables; `predict` takes photos, or - for a list of paths on stdin",
    False,
)

# (kind, what it is called, how it begins). The first that matches counts.
_SIGNATURES: tuple[tuple[Kind, str, bytes], ...] = (
    (RAW, "CR3", rb"....ftypcrx "),
    (RAW, "CR2", rb"II\*\0....CR"),
    (RAW, "RAF", rb"FUJIFILMCCD-RAW"),
    (RAW, "RW2", rb"IIU\0"),
    (RAW, "ORF", rb"IIR[OS]|MMOR"),
    (VIDEO, "QuickTime", rb"....ftypqt  |....(?:moov|mdat|wide|pnot)"),
    (VIDEO, "MP4", rb"....ftyp(?:iso[m0-9]|mp4[0-9]|avc1|M4[VP]|M4VH|3g[p2]|MSNV|dash|mmp4|f4v|XAVC|NDS|msdh)"),
    (VIDEO, "AVI", rb"RIFF....AVI "),
    (VIDEO, "WebM", rb"\x1a\x45\xdf\xa3.*?webm"),
    (VIDEO, "Matroska", rb"\x1a\x45\xdf\xa3"),
    (VIDEO, "MPEG", rb"\0\0\x01[\xba\xb3]"),
    (VIDEO, "WMV", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    (VIDEO, "FLV", rb"FLV\x01"),
    (VIDEO, "Ogg", rb"OggS"),
    (PDF, "", rb"%PDF-"),
    (ARCHIVE, "7z", rb"7z\xbc\xaf\x27\x1c"),
    (ARCHIVE, "RAR", rb"Rar!\x1a\x07"),
    (ARCHIVE, "gzip", rb"\x1f\x8b\x08"),
    (ARCHIVE, "bzip2", rb"BZh[1-9]"),
    (ARCHIVE, "xz", rb"\xfd7zXZ\0"),
    (ARCHIVE, "Zstandard", rb"\x28\xb5\x2f\xfd"),
    (ARCHIVE, "tar", rb".{257}ustar"),
    (ARRAY, "", rb"\x93NUMPY"),
    (SCIENCE, "HDF5", rb"\x89HDF\r\n\x1a\n"),
    (SCIENCE, "DICOM", rb".{128}DICM"),
    (SCIENCE, "FITS", rb"SIMPLE  ="),
    (LAYERS, "Photoshop", rb"8BPS"),
    (LAYERS, "GIMP", rb"gimp xcf"),
    (LAYERS, "OpenEXR", rb"v/1\x01"),
    (LAYERS, "Radiance HDR", rb"#\?RADIANCE"),
    (DRAWING, "PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    (DRAWING, "SVG", rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!(?:--.*?--|DOCTYPE svg[^>]*)>\s*)*<svg[\s>]"),
    (PAGE, "", rb"(?i:(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*(?:<!doctype\s+html|<html|<head|<body))"),
    (OFFICE, "", rb"\xd0\xcf\x11\xe0"),
    (TABLE, "Parquet", rb"PAR1"),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")

# Raw files of cameras begin as a TIFF file does, and what is decoded of one is a preview of some 160 pixels.
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw"),
        *(".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
_SUFFIXES: dict[str, tuple[Kind, str]] = {
    **dict.fromkeys((".mp4", ".m4v"), (VIDEO, "MP4")),
    **dict.fromkeys((".mov", ".qt"), (VIDEO, "QuickTime")),
    **dict.fromkeys((".avi", ".mkv", ".webm", ".wmv", ".flv", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts"), (VIDEO, "")),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"), (ARCHIVE, "")),
    ".pdf": (PDF, ""),
    **dict.fromkeys((".svg", ".svgz"), (DRAWING, "SVG")),
    **dict.fromkeys((".eps", ".ai"), (DRAWING, "PostScript")),
    **dict.fromkeys((".psd", ".psb"), (LAYERS, "Photoshop")),
    **dict.fromkeys((".xcf", ".exr", ".hdr", ".kra"), (LAYERS, "")),
    **dict.fromkeys((".npy", ".npz"), (ARRAY, "")),
    **dict.fromkeys((".h5", ".hdf5", ".dcm", ".mat", ".nii"), (SCIENCE, "")),
    **dict.fromkeys((".html", ".htm"), (PAGE, "")),
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods", ".docx", ".doc", ".odt", ".pptx", ".ppt"), (OFFICE, "")),
    **dict.fromkeys((".csv", ".tsv", ".parquet"), (TABLE, "")),
}
# What is a ZIP archive by its content and is not unpacked: the name's ending decides.
_SHARING_ZIP = (ARRAY, OFFICE)
_OTHER_ZIP = frozenset((".pt", ".pth", ".ckpt", ".bin", ".keras", ".jar", ".apk", ".whl", ".egg", ".epub"))


@dataclass(frozen=True)
class DetectedKind:
    """What a file was found to be."""

    kind: Kind
    name: str  # of its format; empty where the kind says it

    def __str__(self) -> str:
        return f"{self.kind.one} ({self.name})" if self.name else self.kind.one

    @property
    def refusal(self) -> str:
        """What is said of it after its name, without the full stop."""
        return f"is {self}, not an image that is decoded here. {self.kind.advice}"


def detect_raw(name: str) -> DetectedKind | None:
    """The raw file of a camera that a name stands for, whatever the file begins as."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - may be no path
    return DetectedKind(RAW, suffix[1:].upper()) if suffix in RAW_SUFFIXES else None


def detect_kind(head: bytes, name: str = "") -> DetectedKind | None:
    """What a file is, from its first `HEAD_BYTES` and its name; None where it is none of the table."""
    if not head or head.startswith(b"version https://git-lfs"):
        return None
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - may be no path
    if raw := detect_raw(name):
        return raw
    by_suffix = DetectedKind(*_SUFFIXES[suffix]) if suffix in _SUFFIXES else None
    if head.startswith(_ZIP):
        if by_suffix is not None and by_suffix.kind in _SHARING_ZIP:
            return by_suffix
        return None if suffix in _OTHER_ZIP else DetectedKind(ARCHIVE, "ZIP")
    for kind, called, pattern in _SIGNATURES:  # `re` keeps what it has compiled, once that is asked for
        if re.match(pattern, head, re.DOTALL):
            return DetectedKind(kind, called)
    return by_suffix


def detect_file_kind(path: str | os.PathLike[str]) -> DetectedKind | None:
    """What a file is that is no photo by its name; None also where it cannot be read."""
    try:
        if not os.path.isfile(path):  # noqa: PTH113 - opening a pipe may never end
            return None
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - of an entry
            return detect_kind(file.read(HEAD_BYTES), os.fspath(path))
    except OSError:
        return None


LEFT_OUT = "Left out, as no photos"
NOT_DOWNLOADED = "Left out, as not downloaded"


def describe_skipped(found: Mapping[Kind, Iterable[str]], root: str | os.PathLike[str] = "") -> list[str]:
    """A sentence for each kind of file that was left out of a folder: how many, which, and what to do.

    `found` has the paths of each kind, relative to the folder `root`.
    """
    sentences = []
    for kind, paths in found.items():
        with_photo: list[str] = []
        alone: list[str] = []
        for path in paths:
            (with_photo if kind in (VIDEO, RAW) and _has_photo(os.path.join(root, path)) else alone).append(path)  # noqa: PTH118
        if alone:
            why = NOT_DOWNLOADED if kind is CLOUD else LEFT_OUT
            sentences.append(f"{why}: {_counted(kind, alone)}. {kind.advice}.")
        if with_photo:
            live = ", as Live Photos have them" if kind is VIDEO else ""
            sentences.append(
                f"{LEFT_OUT}: {_counted(kind, with_photo)}, beside {'a photo' if len(with_photo) == 1 else 'photos'} "
                f"of the same name{live}."
            )
    return sentences


def _counted(kind: Kind, paths: list[str]) -> str:
    if len(paths) == 1:
        return f"{kind.one}, {paths[0]}"
    return f"{len(paths):,} {kind.many}, such as {paths[0]}"


def _has_photo(path: str) -> bool:
    stem = os.path.splitext(path)[0]  # noqa: PTH122 - may be no text
    return any(
        os.path.exists(f"{stem}{written}")  # noqa: PTH110 - as above
        for suffix in (".jpg", ".jpeg", ".heic", ".png", ".tif")
        for written in (suffix, suffix.upper())
    )
