"""Which files in a folder are photos: the one rule for data sets, predictions and calibration alike.

A name's ending is a hint and the first bytes decide: a file with the suffix of a photo is one (and is named as broken
where its content is none), and so is a file with any other suffix, or with none, that begins as an image does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vertebra.errors import warn
from vertebra.file_kinds import CLOUD, RAW_SUFFIXES, Kind, detect_file_kind

# How photos are named. Files with these suffixes are not opened to be found.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".png", ".webp", ".gif", ".bmp", ".tif"),
        *(".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".tga", ".heic", ".heif", ".hif", ".jxl"),
    )
)

# What archives, file servers, notebooks and systems put beside photos: previews and what was deleted.
_SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "__pycache__", "@eadir", "@recycle", "@synoeastream", "#recycle", "#snapshot", "$recycle.bin"),
        *("lost+found", "network trash folder", "system volume information", "temporary items"),
    )
)
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "zbthumbnail.info", "icon\r"))

# Formats of photos only. Others that Pillow knows start programs (EPS runs Ghostscript) or are documents.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")

HEAD_BYTES = 32  # that `image_format` needs

_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    # Two letters are too little to go by: the reserved bytes and the length of the header that follows, too.
    (rb"BM....\0{4}....[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"P[1-6][ \t\r\n]+(?:#|\d)", "PPM"),
    # The brand of a container may be a general one, and say which in the list behind it.
    (rb"....ftyp(?:avi[fs]|m(?:if|sf)1.{4}(?:.{4})*?avi[fs])", "AVIF"),
    (rb"\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
    (rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
    (rb"\0{3}\x0cJXL \r\n\x87\n", "JPEG XL"),
)


def image_format(head: bytes) -> str | None:
    """The image format by a file's first `HEAD_BYTES`, or None; TGA has no signature, and JPEG XL is not decoded."""
    # `re` compiles what is asked for and keeps it: compiling all would take longer than the import of this module.
    return next((name for pattern, name in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)


def is_photo(entry: os.DirEntry[str]) -> bool:
    """Whether a file is a photo, by its suffix or its first bytes. Broken links and pipes are, by their suffix."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - of an entry
    if suffix in SUFFIXES:
        return True
    if suffix in RAW_SUFFIXES or entry.name.lower() in _SYSTEM_FILES:
        return False
    try:
        # Opening a pipe or a device may never end.
        if not entry.is_file():
            return False
        with open(entry.path, "rb", buffering=0) as file:  # noqa: PTH123 - of an entry
            return image_format(file.read(HEAD_BYTES)) is not None
    except OSError:
        return False


def skipped_kind(entry: os.DirEntry[str]) -> Kind | None:
    """The kind of a file that is skipped and reported, else None; macOS has `.IMG_1.jpg.icloud` for one in iCloud."""
    if entry.name.startswith("."):
        stem, suffix = os.path.splitext(entry.name[1:])  # noqa: PTH122 - of an entry
        is_stand_in = suffix.lower() == ".icloud" and os.path.splitext(stem)[1].lower() in SUFFIXES  # noqa: PTH122
        return CLOUD if is_stand_in and not is_folder(entry) else None
    found = detect_file_kind(entry.path)
    return found.kind if found and found.kind.is_reported else None


def is_macos_metadata(name: str) -> bool:
    """Whether macOS puts a file of that name beside each photo or into each folder: it is skipped without a report."""
    return name.startswith("._") or name == ".DS_Store"


def is_hidden_or_system(entry: os.DirEntry[str]) -> bool:
    """Whether it is hidden, or a folder that systems make: nothing in it is a photo."""
    return entry.name.startswith(".") or (is_system_folder(entry.name) and is_folder(entry))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one that can be reached."""
    try:
        return entry.is_dir()
    except OSError:  # of a cyclic link, or of one into a folder without permission
        return False


def is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link whose target is missing, cannot be reached, or is the link itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - that of `Path` may raise


class SkippedFolderError(Exception):
    """A folder below the one that was given is not searched; says why, without its name."""


class LinkCycleError(SkippedFolderError):
    """A link to a folder that is searched already, or to one outside the folder that was given."""


@dataclass(frozen=True)
class FolderPath:
    """The folder that a search began in, with all links resolved, and the folders from there down to this one."""

    root: str
    above: tuple[tuple[int, int], ...] = ()  # device and inode of each


def list_folder(folder: str, folder_path: FolderPath) -> tuple[list[os.DirEntry[str]], FolderPath]:
    """The entries of a folder, by name, and the path for those below.

    Raises:
        SkippedFolderError: it cannot be listed.
        LinkCycleError: it is a link to a folder above it, within the one that was given or beyond it.
    """
    try:
        status = os.stat(folder)  # noqa: PTH116
        here = (status.st_dev, status.st_ino)
        if here in folder_path.above:
            raise LinkCycleError("is a link to a folder that it lies in")
        # Only a link leads out of the root; `realpath` asks for each part of a path, so it is not asked of all folders.
        if os.path.islink(folder) and Path(os.path.realpath(folder)) in Path(folder_path.root).parents:  # noqa: PTH114
            raise LinkCycleError("is a link to a folder that it lies in")
        return list_entries(folder), FolderPath(folder_path.root, (*folder_path.above, here))
    except OSError as error:
        raise SkippedFolderError(f"cannot be listed ({error.strerror or error})") from error


def list_or_reason(folder: str, above: FolderPath) -> tuple[list[os.DirEntry[str]] | None, FolderPath, str | None]:
    """List a folder: its entries and the path for subfolders; or None, with a reason unless links are circular."""
    try:
        return *list_folder(folder or os.curdir, above), None
    except LinkCycleError as circle:
        warn(f"{folder} {circle}: it is not followed.")
        return None, above, None
    except SkippedFolderError as error:
        return None, above, f"{folder} {error}"


def walk_photos(
    folder: str, other: Callable[[os.DirEntry[str]], None], folder_path: FolderPath | None = None
) -> Iterator[tuple[str, str | None]]:
    """Yield the photos of a folder recursively, without hidden and system files: path, and why it cannot be read.

    Links to folders are followed unless they are circular. Broken links and folders that cannot be listed are yielded
    with an error. `other` is called with each file that is no photo, and with hidden files and folders.
    """
    inside, below, error = list_or_reason(folder, folder_path or FolderPath(os.path.realpath(folder)))
    if error:
        yield folder, error
    for entry in inside or ():
        if is_hidden_or_system(entry):
            other(entry)
        elif is_folder(entry):
            yield from walk_photos(entry.path, other, below)
        elif is_photo(entry):
            # Includes broken links and pipes, so that they are reported.
            yield str(Path(entry.path)), None
        elif is_broken_link(entry):
            # It may have been a folder of photos.
            yield str(Path(entry.path)), f"{entry.path} is a link to nothing"
        else:
            other(entry)


def is_system_folder(name: str) -> bool:
    """Whether systems make folders of that name, which are not hidden."""
    return name.lower() in _SYSTEM_FOLDERS


def list_entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """All that is in a folder, by name; an `OSError` where it cannot be listed."""
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
